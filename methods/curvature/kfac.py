"""K-FAC: the Fisher of one layer as a Kronecker product of two small second moments.

Papers: Martens & Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature" (ICML 2015);
Grosse & Martens, "A Kronecker-factored approximate Fisher matrix for convolution layers" (ICML 2016).

A layer computes s = W a, with a 1 appended to a where the layer has a bias (which is then W's last column). With
g = dL/ds of ONE sample the Fisher of vec(W), rows of W one after the other, is approximated by

    F = G (x) A,    A = E[a a^T]  (d, d),    G = E[g g^T]  (out, out),

so that vec(W)^T F vec(W) = sum((G W A) * W). A convolution sees one patch per output position: A sums over positions
and G averages over them (the second paper's convention; only the product matters). Everything is computed in
evaluation mode, from per-sample gradients, and accumulated in float64. Labels are drawn from the network's own
predictive distribution (the true Fisher) where a generator is given, otherwise the given ones are used (the empirical
Fisher, which vanishes where the training loss does).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.errors import BadInput, Skipped
from methods.layers.gradients import LABELS, categorical, sample_losses
from methods.layers.statistics import Calibration
from methods.network.kinds.registry import find_kind, kind_of, matrix_of
from methods.network.parameters import bias_of
from methods.network.reading import evaluating, what_is_read
from methods.progress import track
from methods.seeds import stream

PATCHED_SAMPLES = 32  # unfolded at a time: larger patches leave the processor's cache and take longer


class Factors(NamedTuple):
    """The two Kronecker factors of one layer: ``A`` (d, d) of what it reads and ``G`` (out, out) of its gradients."""

    A: Tensor
    G: Tensor


def factorable(model: nn.Module) -> list[str]:
    """Paths of the layers that have K-FAC factors: linear layers and convolutions without groups, no embeddings."""
    return [name for name, module in model.named_modules() if _has_factors(module)]


def kfac_factors(
    model: nn.Module,
    layers: Sequence[str],
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
) -> dict[str, Factors]:
    """The factors of ``layers`` over a set of samples, in one pass.

    Args:
        model: the network; neither parameters nor modes change.
        layers: module paths.
        inputs: (n, ...) network inputs.
        labels: (n,) true labels; with a generator only their type is used (integers: classes).
        generator: CPU stream from which labels are drawn out of the network's predictions; None takes ``labels``.
        batch_size: samples per forward and backward pass.
    """
    sums: dict[str, Factors] = {}
    for name, read, written in _reads_and_gradients(model, layers, inputs, labels, generator, batch_size):
        module = model.get_submodule(name)
        gradients = positions_last(module, written)
        new = Factors(patch_sum(module, read), outer_sum(gradients) / gradients.shape[2])
        old = sums.get(name)
        sums[name] = new if old is None else Factors(old.A.add_(new.A), old.G.add_(new.G))
    return {name: Factors(sums[name].A / len(inputs), sums[name].G / len(inputs)) for name in layers}


def fisher_diagonal(
    model: nn.Module,
    layers: Sequence[str],
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
    bases: Mapping[str, Factors] | None = None,
) -> dict[str, Tensor]:
    """E[g^2] per weight of the layers, (out, d): mean SQUARE of per-sample gradients, not the square of a mean.

    With ``bases`` (orthogonal matrices Q_A, Q_G per layer) it is taken in their basis, E[(Q_G^T g Q_A)^2]: the
    eigenvalue correction of EKFAC (George et al., NeurIPS 2018). The arguments are otherwise those of
    :func:`kfac_factors`; the per-sample gradients of one layer and batch are held at a time.
    """
    sums: dict[str, Tensor] = {}
    for name, patches, gradients in layer_signals(
        model, layers, inputs, labels, generator=generator, batch_size=batch_size
    ):
        per_sample = gradients @ patches.transpose(1, 2)
        if bases is not None:
            right, left = (matrix.to(per_sample) for matrix in bases[name])
            per_sample = left.T @ per_sample @ right
        total = per_sample.square().sum(0).double()
        sums[name] = sums[name] + total if name in sums else total
    return {name: sums[name] / len(inputs) for name in layers}


def layer_signals(
    model: nn.Module,
    layers: Sequence[str],
    inputs: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """For every layer and some samples at a time: its path, the patches it reads (n, d, T) and dL/ds (n, out, T).

    T counts output positions, 1 for a plain linear layer. d includes the appended 1 of a layer with a bias.
    """
    for name, read, gradient in _reads_and_gradients(model, layers, inputs, labels, generator, batch_size):
        module = model.get_submodule(name)
        yield name, patches(module, read), positions_last(module, gradient)


def _reads_and_gradients(
    model: nn.Module,
    layers: Sequence[str],
    inputs: Tensor,
    labels: Tensor,
    generator: torch.Generator | None,
    batch_size: int,
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """For every layer and some samples at a time: its path, what it reads, and the slopes dL/ds of what it writes."""
    modules = {name: model.get_submodule(name) for name in layers}
    for start in track(range(0, len(inputs), batch_size), "Kronecker factors"):
        with evaluating(model), recording(modules) as calls, torch.enable_grad():
            outputs = model(inputs[start : start + batch_size])
            targets = labels[start : start + batch_size]
            if generator is not None:
                targets = sample_labels(outputs, targets, generator)
            missing = [name for name in layers if not calls[name]]
            if missing:
                raise BadInput(f"layer {missing[0]} is never called by the network's forward pass; leave it out")
            flat = [(name, read, written) for name in layers for read, written in calls[name]]
            gradients = torch.autograd.grad(
                sample_losses(outputs, targets).sum(), [written for _, _, written in flat], allow_unused=True
            )
        for (name, read, written), gradient in zip(flat, gradients, strict=True):
            gradient = torch.zeros_like(written) if gradient is None else gradient
            samples = PATCHED_SAMPLES if matrix_of(modules[name]).ndim > 2 else len(read)
            for parts in zip(read.detach().split(samples), gradient.split(samples), strict=True):
                yield name, *parts


@contextmanager
def recording(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[tuple[Tensor, Tensor]]]]:
    """Within this context every call of the modules appends (what it read, what it wrote) under its path.

    What is written is passed on as a copy: an in-place activation after the layer would otherwise overwrite s.
    """
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in modules}
    handles = []
    for name, module in modules.items():

        def hook(_module: nn.Module, inputs: tuple, named: dict[str, Any], written: Tensor, name: str = name) -> Tensor:
            if not written.requires_grad:  # frozen weights behind a frozen input
                written = written.detach().requires_grad_()
            calls[name].append((what_is_read(inputs, named), written))
            return written.clone()

        handles.append(module.register_forward_hook(hook, with_kwargs=True))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def sample_labels(outputs: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Labels drawn from the density exp(-loss) that the network predicts: classes, or a unit normal at its outputs."""
    outputs = outputs.detach()
    if labels.is_floating_point():
        return outputs + torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
    return categorical(outputs, labels, generator)


def patches(module: nn.Module, read: Tensor) -> Tensor:
    """(n, d, T): for each sample and output position the inputs that one output unit reads, 1 appended for a bias."""
    columns = kind_of(module).patches(module, read)
    return functional.pad(columns, (0, 0, 0, 1), value=1.0) if module.bias is not None else columns


def positions_last(module: nn.Module, values: Tensor) -> Tensor:
    """(n, units, T) view of a layer's output."""
    return kind_of(module).by_position(module, values)


def outer_sum(values: Tensor) -> Tensor:
    """(d, d) float64 sum over samples and positions of v v^T for values (n, d, T).

    With several positions a batch's product is taken in the values' own precision (batches are then added in float64),
    and only its lower half, in four panels: this product is what K-FAC costs.
    """
    rows = values.transpose(0, 1).flatten(1)
    if values.shape[2] == 1:
        rows = rows.double()
        return rows @ rows.T
    panels, start = [], 0
    for panel in rows.chunk(4):
        panels.append(functional.pad(rows[start:] @ panel.T, (0, 0, start, 0)))
        start += len(panel)
    lower = torch.cat(panels, 1).double().tril()
    return lower + lower.tril(-1).T


def patch_sum(module: nn.Module, read: Tensor) -> Tensor:
    """``outer_sum(patches(module, read))``; for convolutions that keep the image's size in half the time.

    The patch of output row y holds the rows y - p ... y + p of the image (kernel 2p + 1, stride 1, zeros outside). With
    u_r the columns' part of a patch in image row r, the block of kernel rows i and i + s is

        A_(i, i+s) = sum over y of u_(y+i-p) u_(y+i+s-p)^T = S_s - the few rows at the border that y does not reach,

    so that one product S_s = sum over r of u_r u_(r+s)^T serves all i; patches would need one for every pair.
    """
    if not _keeps_the_size(module):
        return outer_sum(patches(module, read))
    assert isinstance(module, nn.Conv2d)
    samples, channels, height, width = read.shape
    kernel, pad = module.kernel_size[0], module.kernel_size[0] // 2
    padded = functional.pad(read, (pad, pad)).permute(1, 2, 0, 3)  # (channels, rows, samples, columns)
    part = torch.stack([padded[..., j : j + width] for j in range(kernel)], 1)
    part = part.reshape(channels * kernel, height, samples * width)

    def products(start: int, stop: int, shift: int) -> Tensor:
        """Sum over the image rows from ``start`` to ``stop``, each with the one ``shift`` below."""
        return (part[:, start:stop].flatten(1) @ part[:, start + shift : stop + shift].flatten(1).T).double()

    total = part.new_zeros(channels, kernel, kernel, channels, kernel, kernel, dtype=torch.float64)
    for shift in range(min(kernel, height)):
        rows = height - shift
        whole = products(0, rows, shift)
        for i in range(kernel - shift):
            first = min(max(0, i - pad), rows)
            last = min(max(first, height + i - pad), rows)
            block = whole
            if first > 0:
                block = block - products(0, first, shift)
            if last < rows:
                block = block - products(last, rows, shift)
            block = block.view(channels, kernel, channels, kernel)
            total[:, i, :, :, i + shift] = block
            total[:, i + shift, :, :, i] = block.permute(2, 3, 0, 1)
    return total.view(channels * kernel**2, -1)


def _keeps_the_size(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d) or module.bias is not None or module.padding_mode != "zeros":
        return False
    kernel, other = module.kernel_size
    return (
        kernel == other
        and kernel % 2 == 1
        and kernel > 1
        and module.padding in ((kernel // 2, kernel // 2), "same")
        and module.stride == module.dilation == (1, 1)
    )


def weight_matrix(module: nn.Module) -> Tensor:
    """W as (out, d) in float64, filters flattened, the bias as the last column where there is one."""
    weight, bias = matrix_of(module).detach().double().flatten(1), bias_of(module)
    return weight if bias is None else torch.cat([weight, bias.detach().double()[:, None]], 1)


def split_matrix(matrix: Tensor, module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The inverse of :func:`weight_matrix`: the weight in its shape (out, in, *kernel), and the bias or None."""
    shape = matrix_of(module).shape[1:]
    if module.bias is None:
        return matrix.reshape(len(matrix), *shape), None
    return matrix[:, :-1].reshape(len(matrix), *shape), matrix[:, -1].clone()


def pi_damped(factors: Factors, damping: float) -> Factors:
    """A + pi sqrt(damping) I and G + sqrt(damping)/pi I with pi^2 = (tr A / dim A) / (tr G / dim G).

    The split of Martens & Grosse (section 6.3) that makes the product closest to F + damping I; pi = 1 where a factor
    vanishes.
    """
    mean_a, mean_g = factors.A.diagonal().mean(), factors.G.diagonal().mean()
    pi = (mean_a / mean_g).sqrt() if mean_a > 0 and mean_g > 0 else torch.ones_like(mean_a)
    root = damping**0.5
    identity_a = torch.eye(len(factors.A), dtype=factors.A.dtype, device=factors.A.device)
    identity_g = torch.eye(len(factors.G), dtype=factors.G.dtype, device=factors.G.device)
    return Factors(factors.A + pi * root * identity_a, factors.G + root / pi * identity_g)


def relatively_damped(factors: Factors, damping: float) -> Factors:
    """:func:`pi_damped` with damping in units of the layer's mean curvature (tr A / dim A)(tr G / dim G).

    The size of G differs between networks by orders of magnitude; a relative damping means the same for all of them.
    For a layer without any curvature the unit is 1.
    """
    unit = float(factors.A.diagonal().mean() * factors.G.diagonal().mean())
    return pi_damped(factors, damping * (unit or 1.0))


def kfac_radius(factors: Mapping[str, Factors]) -> float:
    """Spectral radius of the block-diagonal K-FAC Fisher: max over layers of lambda_max(A) lambda_max(G)."""
    tops = [float(torch.linalg.eigvalsh(f.A)[-1] * torch.linalg.eigvalsh(f.G)[-1]) for f in factors.values()]
    return max(tops)


def calibrated_factors(
    model: nn.Module, calibration: Calibration, labels: str, layers: Sequence[str]
) -> dict[str, Factors]:
    """:func:`kfac_factors` over a calibration set, labels ``sampled`` (from a stream of its seed) or ``true``."""
    generator = label_stream(calibration, labels)
    return kfac_factors(
        model, layers, calibration.inputs, calibration.labels, generator=generator, batch_size=calibration.batch_size
    )


def label_stream(calibration: Calibration, labels: str) -> torch.Generator | None:
    """The stream for sampled labels, None for true ones."""
    if labels not in LABELS:
        raise BadInput(f"labels={labels!r} is not known; expected one of {', '.join(LABELS)}")
    return stream(calibration.seed, "fisher", "labels") if labels == "sampled" else None


def require_factorable(model: nn.Module, name: str) -> nn.Module:
    """The layer at ``name``; :class:`Skipped` if it has no K-FAC factors."""
    module = model.get_submodule(name)
    if not _has_factors(module):
        raise Skipped(f"{name} ({type(module).__name__}) has no Kronecker factors; linear and ungrouped conv layers do")
    return module


def _has_factors(module: nn.Module) -> bool:
    kind = find_kind(module)
    if kind is None or not kind.multiplies:  # of an embedding's table A would be as large as its vocabulary, squared
        return False
    return kind.groups(module) == 1 and getattr(module, "padding_mode", "zeros") == "zeros"
