"""EigenDamage: structured pruning in the Kronecker-factored eigenbasis.

Paper: Wang, Grosse, Fidler & Zhang, "EigenDamage: Structured Pruning in the Kronecker-Factored Eigenbasis" (ICML 2019),
section 4 and algorithm 2. For a layer with weight W (out, in, kernel positions) and Fisher G (x) A, A taken between
input channels (averaged over kernel positions, which are not mixed), A = Q_A L_A Q_A^T and G = Q_G L_G Q_G^T:

    W*        = Q_G^T W Q_A                              the weight in the basis in which the Fisher is nearly diagonal
    damage_ij = W*_ij^2 l_G,i l_A,j                      (EKFAC: W*_ij^2 E[(Q_G^T g Q_A)_ij^2], per-sample gradients g)

A row of W* costs the sum of its damages, a column likewise. Rows and columns of all layers are ranked in ONE list, and
those with the least damage are removed. The layer is replaced by three,

    Q_A[:, columns]^T  (in -> columns, 1 x 1),    W*[rows, columns]  (the old kernel),    Q_G[:, rows]  (rows -> out),

whose input and output are those of the old one, so that nothing around it changes. A bias stays outside the rotation. A
layer whose three parts would not be smaller stays as it is, and so does the network's last layer. Pruning again rotates
the middle part only and merges the rotations.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from methods.budgets.budget import Budget, Cost, Counts
from methods.budgets.meeting import meet
from methods.curvature.eigenbasis import (
    Basis,
    RotatedLayer,
    channel_factor,
    damage,
    eigenbasis,
    kernels,
    rotate,
    rotated_layer,
)
from methods.curvature.kfac import Factors, calibrated_factors, factorable, fisher_diagonal, label_stream
from methods.errors import BadInput, Skipped
from methods.layers.seen import Layer
from methods.layers.statistics import Calibration
from methods.network.counting import count_macs
from methods.network.graph import call_order
from methods.network.kinds.registry import kind_of, matrix_of
from methods.network.reading import evaluating, what_is_read
from methods.selection import Selection, largest


@dataclass(frozen=True)
class EigenLayer:
    """One layer in its eigenbasis.

    Attributes:
        name: path of the layer, or of the :class:`RotatedLayer` whose core this is.
        basis: eigenvectors of its factors.
        columns, rows: (in,) and (out,) summed damages.
        outer: widths in and out of the whole layer (of the rotated layer's outside for a core).
        kernel: number of kernel positions.
        read, written: positions (pixels, tokens) at which one sample is read and written.
        weights, macs: of the layer as it is now.
    """

    name: str
    basis: Basis
    columns: Tensor
    rows: Tensor
    outer: tuple[int, int]
    kernel: int
    read: int
    written: int
    weights: int
    macs: int

    def split(self, columns: int, rows: int) -> tuple[int, int] | None:
        """Weights and MACs of the three layers that keep so many directions; None if they save nothing.

        Both must be smaller; otherwise a network could become slower by losing directions, since the first of the three
        layers works at the input's resolution.
        """
        before, middle, after = self.outer[0] * columns, columns * rows * self.kernel, rows * self.outer[1]
        weights, macs = before + middle + after, before * self.read + (middle + after) * self.written
        return (weights, macs) if weights < self.weights and macs < self.macs else None


class EigenPlan:
    """Holds all layers in their eigenbases, computes what each budget leaves and costs, and builds the network.

    Counts are keyed ``<layer>/columns`` and ``<layer>/rows``.

    Args:
        model: the network; never changed.
        example: a batch of inputs, one sample is run.
        layers: the layers that may be split.
        floor: fraction of the columns and rows of a layer that always stays.
        fixed: whether the rotations are left out of later training.
    """

    def __init__(
        self, model: nn.Module, example: Tensor, layers: list[EigenLayer], floor: float = 0.05, fixed: bool = False
    ) -> None:
        self.model, self.layers, self.fixed = model, layers, fixed
        lists = {f"{layer.name}/{kind}": getattr(layer, kind) for layer in layers for kind in ("columns", "rows")}
        self.sizes = {key: len(values) for key, values in lists.items()}
        self._least = {key: max(1, ceil(floor * size)) for key, size in self.sizes.items()}
        owner = torch.repeat_interleave(torch.arange(len(lists)), torch.tensor(list(self.sizes.values())))
        order = torch.sort(torch.cat(list(lists.values())), descending=True, stable=True).indices
        self._ranked = owner[order.cpu()]
        self._other_weights = sum(p.numel() for p in model.parameters()) - sum(layer.weights for layer in layers)
        self._other_macs = count_macs(model, example) - sum(layer.macs for layer in layers)

    @property
    def dense(self) -> Cost:
        """Cost of the network as it is."""
        return self.cost(self.sizes)

    def family(self, s: float) -> Counts:
        """The best fraction s of all rows and columns of all layers, monotone in s; s = 1 keeps everything."""
        kept = torch.bincount(self._ranked[: round(s * len(self._ranked))], minlength=len(self.sizes)).tolist()
        return {key: max(low, count) for (key, low), count in zip(self._least.items(), kept, strict=True)}

    def cost(self, counts: Counts) -> Cost:
        """Directions above the threshold, parameters and MACs; a layer that is left as it is costs what it does now."""
        units, weights, macs = 0, self._other_weights, self._other_macs
        for layer in self.layers:
            columns, rows = _kept(layer, counts)
            units += columns + rows
            own = layer.split(columns, rows) or (layer.weights, layer.macs)
            weights, macs = weights + own[0], macs + own[1]
        return Cost(units, weights, macs)

    def build(self, counts: Counts) -> nn.Module:
        """A new network in which each layer keeps its most important directions."""
        model = copy.deepcopy(self.model)
        for layer in self.layers:
            columns, rows = _kept(layer, counts)
            if layer.split(columns, rows) is None:
                continue
            kept = largest(layer.columns, columns), largest(layer.rows, rows)
            new = rotated_layer(self.model.get_submodule(layer.name), layer.basis, *kept)
            if self.fixed:
                matrix_of(new[0]).requires_grad_(False)
                matrix_of(new[2]).requires_grad_(False)
            model.set_submodule(layer.name, new)
        return model

    def report(self, counts: Counts) -> list[dict[str, Any]]:
        """Per layer its directions before and after, and whether it was split or left as it is."""
        rows = []
        for layer in self.layers:
            columns, kept = _kept(layer, counts)
            row = {"name": layer.name, "units": len(layer.columns) + len(layer.rows), "kept": columns + kept}
            rows.append(row | {"columns": columns, "rows": kept, "split": layer.split(columns, kept) is not None})
        return rows

    def left_alone(self, counts: Counts) -> str | None:
        """A note naming the layers that keep all directions because fewer would not make them smaller, if any."""
        names = [row["name"] for row in self.report(counts) if not row["split"] and row["kept"] < row["units"]]
        return f"not smaller as three layers, left as they are: {', '.join(names)}" if names else None


def _kept(layer: EigenLayer, counts: Counts) -> tuple[int, int]:
    """How many columns and rows the layer keeps."""
    return int(counts[f"{layer.name}/columns"]), int(counts[f"{layer.name}/rows"])


class EigenDamage(Selection[Layer]):
    """Prunes rows and columns in the Kronecker eigenbasis; restructures layers instead of removing nodes.

    Args:
        scaling: ``kfac`` (eigenvalues of the factors) or ``ekfac`` (second moments of rotated gradients).
        labels: ``sampled`` from the network's predictions (true Fisher, as published) or ``true``.
        floor: fraction of a layer's rows and of its columns that always stays (the paper's code: 5 %).
        fixed_rotation: keep the rotations out of fine-tuning.
    """

    unit = "eigen"

    def __init__(
        self, scaling: str = "kfac", labels: str = "sampled", floor: float = 0.05, fixed_rotation: bool = False
    ) -> None:
        if scaling not in ("kfac", "ekfac"):
            raise BadInput(f"selection.scaling={scaling} is unknown; choose kfac or ekfac")
        if not 0 <= floor < 1:
            raise BadInput(f"selection.floor={floor:g} is outside [0, 1); it is the fraction that always stays")
        self.scaling, self.labels, self.floor, self.fixed_rotation = scaling, labels, floor, fixed_rotation

    def plan(self, model: nn.Module, calibration: Calibration) -> EigenPlan:
        """All layers but the last in their eigenbases, from one pass over the calibration data (EKFAC: two)."""
        example = calibration.inputs[:2]
        paths = eigen_layers(model, example)
        cores = {path: _core_path(model, path) for path in paths}
        factors = calibrated_factors(model, calibration, self.labels, list(cores.values()))
        bases = {}
        for path, core in cores.items():
            channels = matrix_of(model.get_submodule(core)).shape[1]
            bases[path] = eigenbasis(Factors(channel_factor(factors[core].A, channels), factors[core].G))
        curvatures = self._curvatures(model, calibration, cores, bases)
        positions = _positions(model, example, list(cores.values()))
        layers = [_eigen_layer(model, path, bases[path], curvatures[path], positions[cores[path]]) for path in paths]
        return EigenPlan(model, example, layers, self.floor, self.fixed_rotation)

    def dense_cost(self, model: nn.Module, example: Tensor) -> Cost:
        """Directions of the layers that may be split, parameters and MACs of a network, without its curvature."""
        cores = [_core_path(model, path) for path in eigen_layers(model, example)]
        units = sum(sum(matrix_of(model.get_submodule(core)).shape[:2]) for core in cores)
        return Cost(units, sum(p.numel() for p in model.parameters()), count_macs(model, example))

    def restructure(
        self, model: nn.Module, calibration: Calibration, budget: Budget, dense: Cost | None = None
    ) -> tuple[nn.Module, Cost, list[dict[str, Any]], str | None]:
        """A new network that meets ``budget``, its cost, a row per layer, and a note if something is unusual.

        Args:
            model: the network; left as it is.
            calibration: samples for the factors.
            budget: for the whole model; ``keep`` is the fraction of rows and columns above the global threshold (the
                paper's pruning ratio), also in layers that are then left as they are.
            dense: cost that the budget is relative to; by default that of ``model``.
        """
        plan = self.plan(model, calibration)
        counts, note = meet(budget, plan.family, plan.cost, dense or plan.dense)
        notes = [text for text in (note, plan.left_alone(counts)) if text]
        return plan.build(counts), plan.cost(counts), plan.report(counts), "; ".join(notes) or None

    def _curvatures(
        self, model: nn.Module, calibration: Calibration, cores: Mapping[str, str], bases: Mapping[str, Basis]
    ) -> dict[str, Tensor]:
        """(out, in, 1 or positions) curvature of each entry of W*."""
        if self.scaling == "kfac":
            return {path: torch.outer(b.output_values, b.input_values)[:, :, None] for path, b in bases.items()}
        wide = {core: _with_kernel(model.get_submodule(core), bases[path]) for path, core in cores.items()}
        diagonal = fisher_diagonal(
            model, list(wide), calibration.inputs, calibration.labels,
            generator=label_stream(calibration, self.labels), batch_size=min(64, calibration.batch_size), bases=wide,
        )  # fmt: skip
        result = {}
        for path, core in cores.items():
            out, channels = len(bases[path].outputs), len(bases[path].inputs)
            kernel = matrix_of(model.get_submodule(core))[0, 0].numel()
            result[path] = diagonal[core][:, : channels * kernel].reshape(out, channels, kernel)
        return result


def eigen_layers(model: nn.Module, example: Tensor) -> list[str]:
    """Paths of the layers that may be split, in forward order: all with Kronecker factors but the last one."""
    order = call_order(model, example)
    inside = {
        f"{path}.{child}": path
        for path, module in model.named_modules()
        if isinstance(module, RotatedLayer)
        for child in ("0", "1", "2")
    }
    allowed = set(factorable(model))
    paths = list(dict.fromkeys(inside.get(path, path) for path in order if path in allowed))[:-1]
    if not paths:
        raise Skipped("no layer of this network can be rotated: it has one layer only, or none with Kronecker factors")
    return paths


def _core_path(model: nn.Module, path: str) -> str:
    return f"{path}.1" if isinstance(model.get_submodule(path), RotatedLayer) else path


def _with_kernel(module: nn.Module, basis: Basis) -> Factors:
    """The basis on (channel, kernel position) pairs and, where there is one, the bias."""
    eye = torch.eye(matrix_of(module)[0, 0].numel(), dtype=basis.inputs.dtype, device=basis.inputs.device)
    inputs = torch.kron(basis.inputs.contiguous(), eye)
    if module.bias is not None:
        inputs = torch.block_diag(inputs, inputs.new_ones(1, 1))
    return Factors(inputs, basis.outputs)


def _positions(model: nn.Module, example: Tensor, paths: list[str]) -> dict[str, tuple[int, int]]:
    """For each layer the positions at which one sample is read and written."""
    found: dict[str, tuple[int, int]] = {}
    handles = []
    for path in paths:

        def hook(module: nn.Module, inputs: tuple, named: dict[str, Any], written: Tensor, path: str = path) -> None:
            kind = kind_of(module)
            found[path] = what_is_read(inputs, named).numel() // kind.inputs(module), kind.positions(module, written)

        handles.append(model.get_submodule(path).register_forward_hook(hook, with_kwargs=True))
    try:
        with evaluating(model), torch.no_grad():
            model(example[:1])
    finally:
        for handle in handles:
            handle.remove()
    return found


def _eigen_layer(
    model: nn.Module, path: str, basis: Basis, curvature: Tensor, positions: tuple[int, int]
) -> EigenLayer:
    module = model.get_submodule(path)
    core = module.core if isinstance(module, RotatedLayer) else module
    weight = kernels(core)
    damages = damage(rotate(weight, basis), curvature)
    (out, inputs, kernel), (read, written) = weight.shape, positions
    outer, weights = (inputs, out), out * inputs * kernel
    macs = weights * written
    if isinstance(module, RotatedLayer):
        outer = matrix_of(module[0]).shape[1], len(matrix_of(module[2]))
        extra = outer[0] * inputs, out * outer[1]
        weights, macs = weights + sum(extra), macs + extra[0] * read + extra[1] * written
    return EigenLayer(path, basis, damages.sum(0), damages.sum(1), outer, kernel, read, written, weights, macs)
