"""Make the views that a method gets of groups of nodes or of layers; moments are collected when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.budgets.budget import Counts, Family
from methods.errors import BadInput, Skipped
from methods.layers.seen import EdgeLayer, NodeLayer
from methods.layers.statistics import Calibration, Moments, collect_moments, cross_moments, pooled
from methods.network.graph import NodeGroup, call_order
from methods.network.kinds.registry import find_kind, is_layer, kind_of, matrix_of
from methods.network.ownership import borrowed_weights
from methods.network.parameters import weight_of
from methods.network.reading import patch_rows
from methods.seeds import stream

PASS_BYTES = 2**30  # of the second moments that one pass over the samples collects


def edge_layers(model: nn.Module, example: Tensor) -> list[str]:
    """Paths of the layers of a known kind with weights of their own, the classifier included, in forward order."""
    borrowed = borrowed_weights(model)
    order = call_order(model, example)
    return [path for path in order if path not in borrowed and is_layer(model.get_submodule(path))]


def without_edges(model: nn.Module, seen: Container[str]) -> dict[str, str]:
    """Modules with a weight matrix whose single weights are not pruned, and why.

    Args:
        model: the network.
        seen: paths of the layers that are pruned.
    """
    borrowed = borrowed_weights(model)
    reasons = {}
    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        tensors = [weight, *module.parameters(recurse=False)]
        inside = any(path.startswith(f"{other}.parametrizations.") for other in borrowed)
        if path in seen or inside or not any(isinstance(tensor, Tensor) and tensor.dim() > 1 for tensor in tensors):
            continue
        name = type(module).__name__
        if path in borrowed:
            reasons[path] = borrowed[path]
        elif is_layer(module):
            reasons[path] = "the network does not call it"
        elif find_kind(module) is not None:
            reasons[path] = f"{name} looks its weights up; these are not pruned one by one"
        elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            reasons[path] = f"{name} has a forward pass of its own"
        else:
            reasons[path or name] = f"{name} is no layer with single weights to prune"
    return reasons


def node_views(model: nn.Module, groups: Sequence[NodeGroup], calibration: Calibration, seed: str) -> list[NodeLayer]:
    """Make views of the groups; the moments of all of them are collected in one pass, when first asked for.

    With ``calibration.memory`` as many at a time as fit.
    """
    collected: dict[str, Moments] = {}
    shared: dict[Hashable, Any] = {}
    sizes = {group.name: 8 * group.size**2 * len(group.readers) for group in groups}
    been: set[str] = set()

    def collect(group: NodeGroup) -> Callable[[], list[Moments]]:
        def of_group() -> list[Moments]:
            keys = [f"{group.name}/{reader.name}" for reader in group.readers]
            if not collected.keys() >= set(keys):
                collected.clear()
                together = within(calibration.memory, sizes, group.name, been)
                been.update(together)
                views = {
                    f"{each.name}/{reader.name}": (reader.name, reader.rows)
                    for each in groups
                    if each.name in together
                    for reader in each.readers
                }
                collected.update(collect_moments(model, views, calibration))
            moments = [collected[key] for key in keys]
            # a hidden state is one set of features, for every reader and at every step
            return [pooled(moments)] * len(moments) if group.recurrent else moments

        return of_group

    layers = [
        NodeLayer(group, model, calibration, stream(0, seed, group.name), collect(group), shared) for group in groups
    ]
    shared["layers"] = layers
    return layers


def precomputed(moments: list[Moments]) -> Callable[[], list[Moments]]:
    """Return a function that returns these moments, for a view whose moments are known already."""
    return lambda: moments


def edge_views(
    model: nn.Module, names: Sequence[str], masks: Mapping[str, Tensor], calibration: Calibration, seed: str
) -> list[EdgeLayer]:
    """Make views of the layers; the first that needs its moments also collects those of the layers after it.

    With ``calibration.memory`` as many at a time as fit.
    """
    shared: dict[Hashable, Any] = {}
    collected: dict[str, Moments] = {}
    modules = {name: model.get_submodule(name) for name in names}
    been: set[str] = set()

    def require_common(name: str) -> None:
        if kind_of(modules[name]).groups(modules[name]) > 1:
            raise Skipped(f"{name}: the inputs of a grouped convolution have no common second moment")

    def pair(name: str) -> Callable[[nn.Module], tuple[Moments, Moments]]:
        def of_layer(pruned: nn.Module) -> tuple[Moments, Moments]:
            require_common(name)
            rows = patch_rows(modules[name])
            return cross_moments(model, pruned, name, (rows, rows), calibration)

        return of_layer

    def collect(name: str) -> Callable[[], Moments]:
        def of_layer() -> Moments:
            require_common(name)
            if name not in collected:
                if calibration.memory is not None:
                    collected.clear()
                    sizes = {
                        each: _bytes(modules[each])
                        for each in names
                        if kind_of(modules[each]).groups(modules[each]) == 1
                    }
                    together = within(calibration.memory, sizes, name, been)
                    been.update(together)
                else:
                    following = [each for each in names[names.index(name) :] if each not in collected]
                    together = _in_one_pass(modules, following)
                views = {each: (each, patch_rows(modules[each])) for each in together}
                collected.update(collect_moments(model, views, calibration))
            return collected[name]

        return of_layer

    layers = []
    for name in names:
        mask = masks.get(f"{name}.weight")
        kind = kind_of(modules[name])
        alive = torch.ones_like(kind.matrix(modules[name]), dtype=torch.bool) if mask is None else kind.as_matrix(mask)
        live = alive.flatten(1)
        own = stream(0, seed, name)
        layers.append(EdgeLayer(name, model, calibration, own, collect(name), live, shared, pair(name)))
    shared["layers"] = layers
    return layers


def pruned_before(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Masks, in the layout of the weights, of layers of which some weights but not all are exactly zero already.

    Such a layer has been pruned before: its zeros are no longer units, and stay zero.
    """
    masks = {}
    for name in names:
        weight = weight_of(model.get_submodule(name)).detach()
        if 0 < int(weight.count_nonzero()) < weight.numel():
            masks[f"{name}.weight"] = weight != 0
    return masks


def live_weights(sizes: Mapping[str, int], masks: Mapping[str, Tensor]) -> dict[str, int]:
    """For each layer the number of weights that have not been pruned."""
    return {name: int(masks[f"{name}.weight"].sum()) if f"{name}.weight" in masks else n for name, n in sizes.items()}


def at_most_live(family: Family, layers: Sequence[EdgeLayer]) -> Family:
    """Limit every count of the family to the weights that have not been pruned before."""
    rows = {layer.name: layer.live.sum(1) for layer in layers}
    totals = {name: int(count.sum()) for name, count in rows.items()}

    def counts(s: float) -> Counts:
        return {
            name: torch.minimum(count, rows[name].to(count)) if isinstance(count, Tensor) else min(count, totals[name])
            for name, count in family(s).items()
        }

    return counts


def _in_one_pass(modules: Mapping[str, nn.Module], names: Sequence[str]) -> list[str]:
    """Return the first of ``names`` and as many of the next as have moments that fit into the memory for one pass."""
    chosen: list[str] = []
    size = 0
    for name in names:
        if kind_of(modules[name]).groups(modules[name]) > 1:
            continue
        size += _bytes(modules[name])
        if chosen and size > PASS_BYTES:
            break
        chosen.append(name)
    return chosen


def _bytes(module: nn.Module) -> int:
    """Bytes of the second moment of what a layer reads."""
    return 8 * matrix_of(module)[0].numel() ** 2


def within(memory: int | None, sizes: Mapping[str, int], wanted: str, been: Container[str]) -> list[str]:
    """Choose the names in ``sizes`` to collect together with ``wanted``, so that their bytes stay within ``memory``.

    First those after it and then those before it, the nearest first, except those in ``been``: a selection goes through
    the layers in one direction or the other.

    Raises:
        BadInput: ``wanted`` alone is too large.
    """
    if memory is None:
        return list(sizes)
    if sizes[wanted] > memory:
        raise BadInput(
            f"the second moments of {wanted} take {sizes[wanted]} bytes, more than calibration.memory={memory}\n"
            f"type calibration.memory={sizes[wanted]} or more, or null"
        )
    names = list(sizes)
    place = names.index(wanted)
    chosen, size = [wanted], sizes[wanted]
    for others in (names[place + 1 :], names[:place][::-1]):
        for name in others:
            if name in been:
                continue
            if size + sizes[name] > memory:
                break
            chosen.append(name)
            size += sizes[name]
    return chosen


def paired_moments(
    original: nn.Module, model: nn.Module, groups: Sequence[NodeGroup], current: NodeGroup, calibration: Calibration
) -> Callable[[], list[tuple[Moments, Moments]]]:
    """For each reader of ``current`` E[phi phi~^T] and E[phi~ phi~^T] of the original and the partly pruned network."""
    before = next(group for group in groups if group.name == current.name)

    def pairs() -> list[tuple[Moments, Moments]]:
        pairs = [
            cross_moments(original, model, now.name, (was.rows, now.rows), calibration)
            for was, now in zip(before.readers, current.readers, strict=True)
        ]
        if not current.recurrent:
            return pairs
        cross, own = zip(*pairs, strict=True)
        return [(pooled(cross), pooled(own))] * len(pairs)

    return pairs
