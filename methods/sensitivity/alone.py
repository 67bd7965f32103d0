"""Prune one layer alone, or some layers, for a while, to measure the effect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from methods.budgets.budget import Count
from methods.compensation import Compensation
from methods.layers.seen import EdgeLayer, NodeLayer
from methods.layers.statistics import Calibration
from methods.network.kinds.registry import matrix_of, write_parameters
from methods.network.parameters import bias_of
from methods.network.reading import evaluating
from methods.selection import Seen, Selection, require_exact


def chosen(selection: Selection[Seen], layer: Seen, k: Count) -> Tensor:
    """The k units of a layer that ``selection`` keeps where all other layers stay whole.

    The layer's random stream is restored afterwards, so that measuring changes no later choice.
    """
    state = layer.generator.get_state()
    if isinstance(layer, NodeLayer) and not layer.readers_kept:
        layer.readers_kept = [None] * len(layer.readers)
        layer.readers_probability = [None] * len(layer.readers)
    try:
        return require_exact(selection, layer, selection.select_all([layer], {layer.name: k})[layer.name], k)
    finally:
        layer.generator.set_state(state)


@contextmanager
def kept_alone(
    layer: NodeLayer | EdgeLayer, kept: Tensor, compensation: Compensation, selection: Selection[Seen]
) -> Iterator[nn.Module]:
    """Within this context ``layer.model`` has only the units ``kept`` of this layer and is repaired.

    Nodes are not cut out: their readers multiply them by zero, which amounts to the same.

    Args:
        layer: of the network.
        kept: sorted indices for nodes, a mask (out, d) for edges.
        compensation: how the survivors make up for the removed units; inputs are those of the whole network.
        selection: its own ridge and order are available to the compensation.
    """
    model = layer.model
    paths = {*layer.readers, *layer.group.writers} if isinstance(layer, NodeLayer) else {layer.name}
    before = {path: _parameters(model.get_submodule(path)) for path in sorted(paths)}
    try:
        if isinstance(layer, NodeLayer):
            _close(layer, kept, compensation, selection)
        else:
            _mask(layer, kept, compensation, selection)
        yield model
    finally:
        for path, (weight, bias) in before.items():
            write_parameters(model.get_submodule(path), weight, bias)


def _parameters(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    bias = bias_of(module)
    return matrix_of(module).detach().clone(), None if bias is None else bias.detach().clone()


@torch.no_grad()
def _close(layer: NodeLayer, kept: Tensor, compensation: Compensation, selection: Selection[Seen]) -> None:
    model = layer.model
    repairs = compensation.reconstruction(layer, kept, selection)
    updates = compensation.writer_update(layer, kept, selection)
    identity = torch.eye(layer.size, dtype=torch.float64)[:, kept.cpu()]
    for number, reader in enumerate(layer.group.readers):
        module = model.get_submodule(reader.name)
        weight, bias = matrix_of(module), bias_of(module)
        matrix = repairs[number].matrix if repairs else identity.to(weight.device)
        shift = repairs[number].shift if repairs else None
        blocks = reader.weights(weight.double())
        projection = torch.zeros(layer.size, layer.size, dtype=torch.float64, device=weight.device)
        projection[:, kept.to(weight.device)] = matrix
        merged = torch.einsum("omr,mk->okr", blocks, projection)
        reader.put(weight, torch.arange(layer.size), merged)
        if shift is not None and bias is not None:
            bias += torch.einsum("omr,m->o", blocks, shift).to(bias.dtype)
    for path, new in updates.items():
        write_parameters(model.get_submodule(path), *new)


def _mask(layer: EdgeLayer, mask: Tensor, compensation: Compensation, selection: Selection[Seen]) -> None:
    weights, bias = repaired_alone(layer, mask, compensation, selection)
    write_parameters(layer.model.get_submodule(layer.name), weights, bias)


def repaired_alone(
    layer: EdgeLayer, mask: Tensor, compensation: Compensation, selection: Selection[Seen]
) -> tuple[Tensor, Tensor | None]:
    """(out, d) weights of a layer on ``mask``, and its (out,) bias if that changes, where all others are whole.

    Of a repair that changes several layers at once (OBS over the whole network) only the part in this layer is used.
    """
    masks = {other.name: other.live for other in layer.shared.get("layers", ())} | {layer.name: mask}
    paired = layer.paired
    layer.paired = None  # there is no pruned network to refit on: the layer's inputs have not changed
    try:
        weights = compensation.edge_weights([layer], masks, selection)[layer.name] * mask
        return weights, compensation.edge_biases([layer], masks, selection).get(layer.name)
    finally:
        layer.paired = paired


@torch.no_grad()
def loss_and_accuracy(model: nn.Module, samples: Calibration) -> tuple[float, float | None]:
    """Mean loss of a network (cross-entropy or half the squared error), and the fraction of classes it gets right."""
    from methods.layers.gradients import sample_losses

    total, hits, count = 0.0, 0, 0
    with evaluating(model):
        for inputs, labels in samples.batches():
            outputs = model(inputs)
            total += float(sample_losses(outputs, labels).double().sum())
            if not labels.is_floating_point():
                hits += int((outputs.argmax(1) == labels).sum())
            count += len(labels)
    return total / count, None if samples.labels.is_floating_point() else hits / count
