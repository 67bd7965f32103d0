"""Per-sample gradients of the training loss and the Fisher matrix they make.

Empirical Fisher of the loss (1/N) sum_n l_n with the gradients g_n of single samples as the rows of G (N, d):

    F = (1/N) sum_n g_n g_n^T = G^T G / N        (the square of a mini-batch's mean gradient is NOT the Fisher)

With the true labels this is the *empirical* Fisher (WoodFisher, CBS, M-FAC); with labels drawn from the network's own
predictive distribution its expectation is the *true* Fisher, which for cross-entropy and squared error equals the
generalised Gauss-Newton matrix (OBD, K-FAC).

For a linear layer s = W a the gradient of one sample is (dl/ds) a^T; a convolution is the same on its unfolded input,
summed over output positions. So one backward pass of a whole batch, only as far as the layers' outputs, gives all
per-sample gradients. Units: losses are nats for class labels and half squared errors for real-valued targets. Where
every token of a sequence has a label, the sequence is the sample and its loss the mean over its labelled tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from methods.errors import BadInput
from methods.layers.statistics import UNLABELLED, Calibration
from methods.network.kinds.registry import find_kind, is_layer, kind_of, matrix_of
from methods.network.parameters import weight_of
from methods.network.reading import evaluating, what_is_read
from methods.progress import track
from methods.seeds import stream

if TYPE_CHECKING:
    from methods.layers.seen import EdgeLayer

LABELS = ("true", "sampled")
GIB = 2**30


def sample_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    """(n,) losses: cross-entropy for integer labels, half the squared error for real-valued targets.

    Classes are the last dimension of the outputs: (n, classes) with labels (n,), or (n, T, classes) with labels (n, T).
    """
    if labels.is_floating_point():
        return 0.5 * (outputs - labels.reshape(outputs.shape)).square().flatten(1).sum(1)
    if labels.dim() == 1:
        return functional.cross_entropy(outputs, labels, reduction="none")
    losses = functional.cross_entropy(
        outputs.flatten(0, -2), labels.flatten(), reduction="none", ignore_index=UNLABELLED
    )
    return losses.view(labels.shape).sum(1) / (labels != UNLABELLED).sum(1).clamp_min(1)


def categorical(outputs: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Classes drawn from the softmax of ``outputs``, in the shape of ``labels``; positions without a label get none.

    Args:
        outputs: (..., classes).
        labels: (...).
        generator: on the CPU.
    """
    probabilities = outputs.double().softmax(-1).flatten(0, -2).cpu()
    drawn = torch.multinomial(probabilities, 1, generator=generator).view(labels.shape).to(labels)
    return torch.where(labels == UNLABELLED, labels, drawn)


@torch.no_grad()
def draw_labels(
    model: nn.Module, inputs: Tensor, labels: Tensor, generator: torch.Generator, batch_size: int
) -> Tensor:
    """Labels from the network's own predictive distribution: categorical, or normal with unit variance."""
    if labels.dim() > 1 and not labels.is_floating_point():  # all outputs of a vocabulary would not fit into memory
        parts = zip(inputs.split(batch_size), labels.split(batch_size), strict=True)
        with evaluating(model):
            return torch.cat([categorical(model(part), own, generator) for part, own in parts])
    with evaluating(model):
        outputs = torch.cat([model(part).cpu() for part in inputs.split(batch_size)])
    if labels.is_floating_point():
        return (outputs + torch.randn(outputs.shape, generator=generator)).to(labels)
    return categorical(outputs, labels, generator)


def per_sample_gradients(model: nn.Module, names: Sequence[str], inputs: Tensor, labels: Tensor) -> list[Tensor]:
    """For each layer in ``names`` the (n, weights) gradients of every sample's loss, weights in row-major order.

    The model must be in evaluation mode (batch norm would mix the samples). Linear and convolutional layers that the
    forward pass calls once, on one row of the batch per sample, take the fast way; if any layer is different (shared,
    or called on reshaped input), ``torch.func`` differentiates sample by sample.
    """
    taps: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}

    def tap(name: str) -> Callable:
        def hook(_module: nn.Module, inputs: tuple, named: dict[str, Any], written: Tensor) -> Tensor:
            written = written if written.requires_grad else written.detach().requires_grad_()
            taps[name].append((what_is_read(inputs, named).detach(), written))
            return written.clone()  # an in-place activation must not change what we differentiate at

        return hook

    modules = [model.get_submodule(name) for name in names]
    handles = [
        module.register_forward_hook(tap(name), with_kwargs=True) for name, module in zip(names, modules, strict=True)
    ]
    try:
        with torch.enable_grad():
            total = sample_losses(model(inputs), labels).sum()
    finally:
        for handle in handles:
            handle.remove()
    if not all(_is_plain(module, taps[name], len(inputs)) for name, module in zip(names, modules, strict=True)):
        return _generic_gradients(model, names, inputs, labels)
    reads, written = zip(*(taps[name][0] for name in names), strict=True)
    slopes = torch.autograd.grad(total, written, materialize_grads=True)
    return [kind_of(module).gradients(module, *parts) for module, *parts in zip(modules, reads, slopes, strict=True)]


def _is_plain(module: nn.Module, calls: list[tuple[Tensor, Tensor]], n: int) -> bool:
    return is_layer(module) and len(calls) == 1 and len(calls[0][0]) == n


def _generic_gradients(model: nn.Module, names: Sequence[str], inputs: Tensor, labels: Tensor) -> list[Tensor]:
    parameters = {f"{name}.weight": weight_of(model.get_submodule(name)).detach() for name in names}

    def loss(chosen: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return sample_losses(functional_call(model, chosen, (x[None],)), y[None]).sum()

    with torch.enable_grad():
        gradients = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")(parameters, inputs, labels)
    kinds = {name: kind_of(model.get_submodule(name)) for name in names}
    return [kinds[name].as_matrix(gradients[f"{name}.weight"]).flatten(1) for name in names]


@dataclass(frozen=True)
class Samples:
    """Which gradients a curvature estimate is made of; all of these settings belong in the record.

    Attributes:
        samples: number of single-sample gradients N; None takes the whole calibration set.
        labels: ``true`` or ``sampled`` (from the network's predictions).
        memory_gb: most memory, in GiB, that gradients and the work on them may take.
    """

    samples: int | None = None
    labels: str = "true"
    memory_gb: float = 4.0

    def __post_init__(self) -> None:
        if self.labels is True:  # a command line's labels=true arrives as a boolean
            object.__setattr__(self, "labels", "true")
        if self.labels not in LABELS:
            raise BadInput(f"labels={self.labels} is unknown; choose true (empirical Fisher) or sampled (true Fisher)")
        if self.samples is not None and self.samples < 1:
            raise BadInput(
                f"samples={self.samples} gradients are too few; expected at least 1: type selection.samples=1000"
            )

    def draw(self, model: nn.Module, calibration: Calibration) -> tuple[Tensor, Tensor]:
        """The inputs and labels to differentiate at."""
        n = len(calibration.inputs) if self.samples is None else self.samples
        if n > len(calibration.inputs):
            raise BadInput(
                f"{n} gradients were asked for, the calibration set has {len(calibration.inputs)} samples; "
                f"type calibration.samples={n} or fewer gradients: selection.samples={len(calibration.inputs)}"
            )
        inputs, labels = calibration.inputs[:n], calibration.labels[:n]
        if self.labels == "sampled":
            generator = stream(calibration.seed, "curvature", "labels")
            labels = draw_labels(model, inputs, labels, generator, calibration.batch_size)
        return inputs, labels


@dataclass(frozen=True)
class Gradients:
    """Single-sample gradients of several layers side by side.

    Attributes:
        matrix: G (N, d) in the network's own precision (converting it would add no digits).
        columns: which columns belong to a layer.
        labels: ``true`` or ``sampled``.
    """

    matrix: Tensor
    columns: Mapping[str, slice]
    labels: str

    def of(self, name: str) -> Tensor:
        """(N, weights of the layer)."""
        return self.matrix[:, self.columns[name]]


def collect_gradients(
    model: nn.Module,
    names: Sequence[str],
    calibration: Calibration,
    settings: Samples,
    live: Mapping[str, Tensor] | None = None,
) -> Gradients:
    """Per-sample gradients of the weights of ``names``, streamed in chunks so that ``memory_gb`` holds.

    Args:
        model: the network; its parameters and modes stay as they are.
        names: module paths of layers; the columns come in this order.
        calibration: where samples and labels come from.
        settings: number of samples, label source, memory.
        live: (out, d) masks; gradients of weights pruned earlier are set to zero.
    """
    inputs, labels = settings.draw(model, calibration)
    sizes = [matrix_of(model.get_submodule(name)).numel() for name in names]
    weight = matrix_of(model.get_submodule(names[0]))
    # N x d gradients, half as much for factors kept with them, and two N x N matrices for the systems solved
    stored = len(inputs) * sum(sizes) * weight.element_size() * 3 // 2 + 2 * 8 * len(inputs) ** 2
    left = sum(sizes) if live is None else sum(int(mask.sum()) for mask in live.values())
    if left < sum(sizes):  # methods that work on live weights only hold a copy of their columns
        stored += len(inputs) * left * weight.element_size()
    chunk, needed = _chunk(model, names, inputs, settings, stored)
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"{len(inputs)} gradients of {sum(sizes)} weights ({settings.labels} labels): up to {needed / GIB:.2f} GiB, "
        f"in chunks of {chunk} samples"
    )
    matrix = torch.empty(len(inputs), sum(sizes), dtype=weight.dtype, device=weight.device)
    ends = torch.tensor(sizes).cumsum(0).tolist()
    columns = {name: slice(end - size, end) for name, size, end in zip(names, sizes, ends, strict=True)}
    start = 0
    for parts in _chunks(model, names, inputs, labels, chunk):
        for name, part in zip(names, parts, strict=True):
            alive = 1 if live is None else live[name].reshape(-1).to(part)
            matrix[start : start + len(part), columns[name]] = part * alive
        start += len(parts[0])
    return Gradients(matrix, columns, settings.labels)


def mean_gradients(model: nn.Module, names: Sequence[str], calibration: Calibration) -> dict[str, Tensor]:
    """(out, in / groups, *kernel) float64 gradients of the mean loss with respect to each layer's weight.

    The mean runs over all samples, in evaluation mode and with the true labels. The model's own gradients are not
    touched; frozen weights count, too.
    """
    modules = {name: model.get_submodule(name) for name in names}
    weights = {f"{name}.weight": weight_of(module).detach().requires_grad_() for name, module in modules.items()}
    sums = {name: torch.zeros_like(weight_of(module), dtype=torch.float64) for name, module in modules.items()}
    with evaluating(model), torch.enable_grad():
        for x, y in calibration.batches():
            loss = sample_losses(functional_call(model, weights, (x,)), y).sum()
            for name, part in zip(names, torch.autograd.grad(loss, list(weights.values())), strict=True):
                sums[name] += part.double()
    return {name: kind_of(module).as_matrix(sums[name]) / len(calibration) for name, module in modules.items()}


def fisher_diagonal(
    model: nn.Module, names: Sequence[str], calibration: Calibration, settings: Samples
) -> dict[str, Tensor]:
    """Diagonal of the Fisher per layer, (out, d) float64: the mean of squared single-sample gradients."""
    inputs, labels = settings.draw(model, calibration)
    shapes = [matrix_of(model.get_submodule(name)).flatten(1).shape for name in names]
    device = matrix_of(model.get_submodule(names[0])).device
    sums = [torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes]
    stored = sum(total.numel() for total in sums) * 8
    chunk, _ = _chunk(model, names, inputs, settings, stored)
    for parts in _chunks(model, names, inputs, labels, chunk):
        for total, part in zip(sums, parts, strict=True):
            total += part.double().square_().sum(0).view_as(total)
    return {name: total / len(inputs) for name, total in zip(names, sums, strict=True)}


def shared_gradients(layers: Sequence[EdgeLayer], settings: Samples) -> Gradients:
    """Gradients of ``layers``, computed once per pruning step and kept in the dictionary that the layers share."""
    first = layers[0]
    key = ("gradients", tuple(layer.name for layer in layers), settings, first.calibration.seed)
    if key not in first.shared:
        live = {layer.name: layer.live for layer in layers}
        first.shared[key] = collect_gradients(first.model, list(live), first.calibration, settings, live)
    return first.shared[key]


def _chunks(
    model: nn.Module, names: Sequence[str], inputs: Tensor, labels: Tensor, chunk: int
) -> Iterator[list[Tensor]]:
    parts = list(zip(inputs.split(chunk), labels.split(chunk), strict=True))
    with evaluating(model):
        for x, y in track(parts, "per-sample gradients"):
            yield [part.detach() for part in per_sample_gradients(model, names, x, y)]


def _chunk(model: nn.Module, names: Sequence[str], inputs: Tensor, settings: Samples, stored: int) -> tuple[int, int]:
    """How many samples may be differentiated at once with ``stored`` bytes taken, and the bytes of both together."""
    each = _bytes_per_sample(model, names, inputs[:1])
    bound = settings.memory_gb * GIB
    if stored + each > bound:
        need = (stored + each) / GIB
        raise BadInput(
            f"{len(inputs)} gradients need {need:.3g} GiB, more than memory_gb={settings.memory_gb:g}; "
            f"type selection.memory_gb={need * 1.1:.2g}, or ask for fewer gradients with selection.samples"
        )
    chunk = int(min(len(inputs), 256, max(1, (bound - stored) // each)))
    return chunk, stored + chunk * each


def _bytes_per_sample(model: nn.Module, names: Sequence[str], example: Tensor) -> int:
    """An upper estimate: the gradients twice, every module's output twice, and the largest unfolded input."""
    outputs, unfolded = 0, 0

    def count(module: nn.Module, _read: tuple[Tensor, ...], written: object) -> None:
        nonlocal outputs, unfolded
        if isinstance(written, Tensor):
            outputs += written.numel()
            kind = find_kind(module)
            if kind is not None and (matrix := kind.matrix(module)).ndim > 2:
                unfolded = max(unfolded, matrix[0].numel() * kind.groups(module) * written[0, 0].numel())

    handles = [module.register_forward_hook(count) for module in model.modules()]
    try:
        with evaluating(model), torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    weights = [matrix_of(model.get_submodule(name)) for name in names]
    return (2 * sum(weight.numel() for weight in weights) + 2 * outputs + 2 * unfolded) * weights[0].element_size()
