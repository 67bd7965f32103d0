"""Extract how a pruning changed each layer: its weights before and after."""

import copy
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from methods.compensation import Compensation
from methods.layers.seen import NodeLayer
from methods.layers.statistics import Calibration, collect_moments
from methods.layers.views import precomputed
from methods.network.coupling import Reader
from methods.network.kinds.registry import kind_of, matrix_of, write_parameters
from methods.network.parameters import bias_of
from methods.network.reading import evaluating, listening, patch_rows
from methods.pruned import Pruned
from methods.pruner import Pruner
from methods.seeds import stream
from methods.theories.formulas import edge_predictions, node_predictions

LARGEST_MOMENT = 1024  # inputs of a layer up to which the lq bound on its output is evaluated


@dataclass
class Site:
    """The change of one layer: the modules whose weights differ, with more information about them.

    Attributes:
        name: of the layer or group.
        before, after: weight tensors by module path.
        removed: masks of the weights that were removed, by module path.
        biases: new biases by module path.
        own: predictions that need no curvature, with their units.
    """

    name: str
    before: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)
    removed: dict[str, Tensor] = field(default_factory=dict)
    biases: dict[str, Tensor] = field(default_factory=dict)
    own: dict[str, float] = field(default_factory=dict)

    def change(self, path: str) -> Tensor:
        """Delta of one module as (out, d)."""
        return (self.after[path] - self.before[path]).flatten(1)

    @property
    def flat_change(self) -> Tensor:
        """Delta of all modules, concatenated."""
        return torch.cat([self.change(path).flatten() for path in self.before])

    def network(self, dense: nn.Module) -> nn.Module:
        """Return the dense network with only this change."""
        model = copy.deepcopy(dense)
        for path, weight in self.after.items():
            write_parameters(model.get_submodule(path), matrix=weight)
        for path, bias in self.biases.items():
            write_parameters(model.get_submodule(path), bias=bias)
        return model


def sites_of(dense: nn.Module, pruned: Pruned, pruner: Pruner, calibration: Calibration) -> Iterator[Site]:
    """The change of every layer, in the order of the network; arguments as for :class:`TheoryEvaluation`."""
    if pruned.unit == "edge":
        return _edge_sites(dense, pruned, calibration)
    return _node_sites(dense, pruned, pruner, calibration)


def _edge_sites(dense: nn.Module, pruned: Pruned, calibration: Calibration) -> Iterator[Site]:
    small = {
        name: module
        for name, module in dense.named_modules()
        if f"{name}.weight" in pruned.masks and _inputs(module) <= LARGEST_MOMENT
    }
    views = {name: (name, patch_rows(module)) for name, module in small.items()}
    moments = collect_moments(dense, views, calibration) if views else {}
    for key, mask in pruned.masks.items():
        path = key.removesuffix(".weight")
        old, new = (model.get_submodule(path) for model in (dense, pruned.model))
        weight = matrix_of(old).detach().double()
        mask = kind_of(old).as_matrix(mask)
        site = Site(path, {path: weight}, {path: matrix_of(new).detach().double()}, {path: ~mask})
        before, after = bias_of(old), bias_of(new)
        if before is not None and after is not None and not torch.equal(before, after):
            site.biases[path] = after.detach()
        second = moments[path].second if path in moments else None
        site.own = edge_predictions(weight.flatten(1), mask.flatten(1), second)
        yield site


def _node_sites(dense: nn.Module, pruned: Pruned, pruner: Pruner, calibration: Calibration) -> Iterator[Site]:
    groups = pruner.graph_of(dense, calibration.inputs[:2]).groups
    views = {f"{g.name}/{r.name}": (r.name, r.rows) for g in groups for r in g.readers}
    moments = collect_moments(dense, views, calibration)
    shared: dict[Hashable, Any] = {}
    for group in groups:
        kept = pruned.kept[group.name]
        own = [moments[f"{group.name}/{reader.name}"] for reader in group.readers]
        generator = stream(calibration.seed, "theories", group.name)
        layer = NodeLayer(group, dense, calibration, generator, precomputed(own), shared)
        if len(kept) == layer.size:
            continue
        site = Site(group.name)
        repairs = pruner.compensation.reconstruction(layer, kept, pruner.selection)
        for number, reader in enumerate(group.readers):
            _add_reader(dense, site, reader, kept, repairs[number] if repairs else None)
        _add_writers(dense, pruner, site, layer, kept)
        site.own = node_predictions(layer, kept, getattr(pruner.selection, "kernel", None), bool(repairs))
        yield site


def _add_reader(dense: nn.Module, site: Site, reader: Reader, kept: Tensor, repair: Any) -> None:
    module = dense.get_submodule(reader.name)
    weight, bias = matrix_of(module).detach().double(), bias_of(module)
    blocks = reader.weights(weight)
    merged = blocks[:, kept] if repair is None else torch.einsum("omr,mk->okr", blocks, repair.matrix)
    after, removed = weight.clone(), torch.zeros_like(weight, dtype=torch.bool)
    everything = torch.arange(len(reader.columns))
    reader.put(after, everything, torch.zeros_like(blocks))
    reader.put(removed, everything, torch.ones_like(blocks, dtype=torch.bool))
    reader.put(after, kept, merged)
    reader.put(removed, kept, torch.zeros_like(merged, dtype=torch.bool))
    site.before[reader.name], site.after[reader.name], site.removed[reader.name] = weight, after, removed
    if repair is not None and repair.shift is not None and bias is not None:
        site.biases[reader.name] = bias.detach() + torch.einsum("omr,m->o", blocks, repair.shift)


def _add_writers(dense: nn.Module, pruner: Pruner, site: Site, layer: NodeLayer, kept: Tensor) -> None:
    if type(pruner.compensation).writer_update is Compensation.writer_update:
        return
    updates = pruner.compensation.writer_update(layer, kept, pruner.selection)
    for path, (weight, bias) in updates.items():
        old = matrix_of(dense.get_submodule(path)).detach().double()
        site.before[path], site.after[path] = old, weight.double().reshape(old.shape)
        site.removed[path] = torch.zeros_like(old, dtype=torch.bool)
        if bias is not None:
            site.biases[path] = bias


@torch.no_grad()
def output_errors(dense: nn.Module, sites: Sequence[Site], calibration: Calibration) -> dict[str, float]:
    """||Delta x|| / ||W x|| over the samples for what the changed modules of each layer compute, in one pass."""
    sums = {site.name: [0.0, 0.0] for site in sites}
    by_path: dict[str, list[Site]] = {}
    for site in sites:
        for path in site.before:
            by_path.setdefault(path, []).append(site)

    def listener(path: str) -> Callable[[Tensor], None]:
        module = dense.get_submodule(path)

        def listen(read: Tensor) -> None:
            for site in by_path[path]:
                for place, weight in enumerate((site.after[path] - site.before[path], site.before[path])):
                    written = _linear(module, read, weight.to(read))
                    sums[site.name][place] += float(written.double().square().sum())

        return listen

    with evaluating(dense), listening(dense, {path: listener(path) for path in by_path}):
        for inputs, _ in calibration.batches():
            dense(inputs)
    return {name: math.sqrt(change / whole) if whole > 0 else 0.0 for name, (change, whole) in sums.items()}


def _linear(module: nn.Module, read: Tensor, weight: Tensor) -> Tensor:
    """What ``module`` computes with another weight and without bias."""
    return kind_of(module).compute(module, read, weight)


def _inputs(module: nn.Module) -> int:
    """Number of inputs of an output unit; too many for a moment if groups of a convolution read different ones."""
    return matrix_of(module)[0].numel() if kind_of(module).groups(module) == 1 else LARGEST_MOMENT + 1
