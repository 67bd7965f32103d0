"""What a method is shown of a network: its groups of nodes or its layers, and moments collected when asked for."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.errors import Skipped
from methods.layers.seen import EdgeLayer, NodeLayer
from methods.layers.statistics import Calibration, Moments, collect_moments, cross_moments, pooled
from methods.network.graph import NodeGroup, call_order
from methods.network.kinds.registry import is_layer, kind_of, matrix_of
from methods.network.reading import patch_rows
from methods.seeds import stream

PASS_BYTES = 2**30  # of the second moments that one pass over the samples collects


def edge_layers(model: nn.Module, example: Tensor) -> list[str]:
    """Paths of the layers of a known kind, the classifier included, in forward order."""
    order = call_order(model, example)
    return [path for path in order if is_layer(model.get_submodule(path))]


def node_views(model: nn.Module, groups: Sequence[NodeGroup], calibration: Calibration, seed: str) -> list[NodeLayer]:
    """Views of the groups; the moments of all of them are collected in one pass, when first asked for."""
    collected: dict[str, Moments] = {}
    shared: dict[Hashable, Any] = {}

    def collect(group: NodeGroup) -> Callable[[], list[Moments]]:
        def of_group() -> list[Moments]:
            if not collected:
                views = {
                    f"{each.name}/{reader.name}": (reader.name, reader.rows)
                    for each in groups
                    for reader in each.readers
                }
                collected.update(collect_moments(model, views, calibration))
            moments = [collected[f"{group.name}/{reader.name}"] for reader in group.readers]
            # a hidden state is one set of features, whoever reads it at whichever step
            return [pooled(moments)] * len(moments) if group.recurrent else moments

        return of_group

    return [
        NodeLayer(group, model, calibration, stream(0, seed, group.name), collect(group), shared) for group in groups
    ]


def given(moments: list[Moments]) -> Callable[[], list[Moments]]:
    """What a view is handed for moments that are there already."""
    return lambda: moments


def edge_views(
    model: nn.Module, names: Sequence[str], masks: Mapping[str, Tensor], calibration: Calibration, seed: str
) -> list[EdgeLayer]:
    """Views of the layers; the first that asks for its moments has those of the layers behind it collected, too."""
    shared: dict[Hashable, Any] = {}
    collected: dict[str, Moments] = {}
    modules = {name: model.get_submodule(name) for name in names}

    def collect(name: str) -> Callable[[], Moments]:
        def of_layer() -> Moments:
            if kind_of(modules[name]).groups(modules[name]) > 1:
                raise Skipped(f"{name}: the inputs of a grouped convolution have no common second moment")
            if name not in collected:
                following = [each for each in names[names.index(name) :] if each not in collected]
                views = {each: (each, patch_rows(modules[each])) for each in _in_one_pass(modules, following)}
                collected.update(collect_moments(model, views, calibration))
            return collected[name]

        return of_layer

    layers = []
    for name in names:
        mask = masks.get(f"{name}.weight")
        kind = kind_of(modules[name])
        alive = torch.ones_like(kind.matrix(modules[name]), dtype=torch.bool) if mask is None else kind.as_matrix(mask)
        live = alive.flatten(1)
        layers.append(EdgeLayer(name, model, calibration, stream(0, seed, name), collect(name), live, shared))
    shared["layers"] = layers
    return layers


def _in_one_pass(modules: Mapping[str, nn.Module], names: Sequence[str]) -> list[str]:
    """The first of ``names`` and as many behind it as have moments that fit into the memory for one pass."""
    chosen: list[str] = []
    size = 0
    for name in names:
        if kind_of(modules[name]).groups(modules[name]) > 1:
            continue
        size += 8 * matrix_of(modules[name])[0].numel() ** 2
        if chosen and size > PASS_BYTES:
            break
        chosen.append(name)
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
