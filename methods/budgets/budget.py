"""Compute what a pruned network may cost, and what a network with given layer sizes costs, without building it.

Conventions: ``compression`` = dense / remaining parameters of the whole model, ``speedup`` = dense / remaining MACs of
the whole model, ``keep`` = remaining fraction of the prunable units, ``latency`` = dense / remaining time of a forward
pass, measured (:mod:`methods.budgets.latency_cost`). MACs are multiply-accumulates of matrix products and convolutions
for one sample (:mod:`methods.network.counting`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.errors import BadInput
from methods.network.counting import Product, count_macs, products
from methods.network.graph import NodeGroup, call_order
from methods.network.kinds.base import Kind
from methods.network.kinds.carriers import carrier_of
from methods.network.kinds.registry import find_kind, matrix_of
from methods.network.reading import evaluating, fewest

KINDS = ("keep", "compression", "speedup", "latency")
TOLERANCE = 0.01  # a budget counts as met when the achieved value is this close, relatively
TIMING_TOLERANCE = 0.05  # the same for a measured latency
Count = int | Tensor
Counts = Mapping[str, Count]
Family = Callable[[float], Counts]
CountCost = Callable[[Counts], "Cost"]


@dataclass(frozen=True)
class Budget:
    """One requested cost: ``keep`` in (0, 1], or ``compression``, ``speedup`` or ``latency`` of at least 1.

    Attributes:
        kind: one of those in the module's docstring.
        value: the requested number.
        batch: samples per timed forward pass, for ``latency``.
    """

    kind: str
    value: float
    batch: int = 32

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(f"unknown budget '{self.kind}'; expected one of {', '.join(KINDS)}: type budget.keep=0.5")
        if self.kind == "keep" and not 0 < self.value <= 1:
            raise BadInput(
                f"budget.keep={self.value:g} is outside (0, 1], the fraction of units that stays; type budget.keep=0.5"
            )
        if self.kind != "keep" and not 1 <= self.value < float("inf"):
            raise BadInput(
                f"budget.{self.kind}={self.value:g} is outside [1, inf), it is dense / remaining; "
                f"type budget.{self.kind}=2 for half"
            )

    @classmethod
    def parse(cls, section: Mapping[str, float | None]) -> Budget:
        """The one budget of a configuration section whose other entries are null; ``default_compression`` if all are.

        Records of older configurations have ``default_keep`` in its place.
        """
        given = {kind: value for kind in KINDS if (value := section.get(kind)) is not None}
        if len(given) > 1:
            listed = " and ".join(f"budget.{kind}={value:g}" for kind, value in given.items())
            raise BadInput(f"two budgets at once: {listed}; expected one: set the other to null")
        if not given:
            given = {kind: value for kind in KINDS if (value := section.get(f"default_{kind}")) is not None}
        [(kind, value)] = given.items()
        batch = section.get("latency_batch")
        if batch is None:
            return cls(kind, float(value))
        if batch < 1:
            raise BadInput(f"budget.latency_batch={batch} is below 1; type budget.latency_batch=32")
        return cls(kind, float(value), int(batch))

    @property
    def measured(self) -> bool:
        """Whether the cost is timed instead of counted."""
        return self.kind == "latency"

    @property
    def tolerance(self) -> float:
        """How close, relatively, the achieved value has to be."""
        return TIMING_TOLERANCE if self.measured else TOLERANCE

    def require_fitting(self, unit: str) -> None:
        """Raise :class:`BadInput` if a method that prunes this unit cannot be asked for this budget."""
        if self.measured and unit != "node":
            raise BadInput(
                "budget.latency is a measured speed-up, and masked weights bring none: it is for methods that remove "
                "nodes\ntype budget.compression=4 or budget.speedup=4, or choose method=magnitude"
            )

    @property
    def remaining(self) -> float:
        """The fraction of the dense cost that may remain, in (0, 1]."""
        return self.value if self.kind == "keep" else 1 / self.value

    def at(self, remaining: float) -> Budget:
        """The same kind of budget with another remaining fraction, for the steps of a schedule."""
        return Budget(self.kind, remaining if self.kind == "keep" else 1 / remaining, self.batch)


@dataclass(frozen=True)
class Cost:
    """Units, parameters and MACs of a network; for masked networks parameters and MACs are nonzero-weighted.

    ``latency`` is the time of a forward pass relative to the dense network's; None where it was not measured.
    """

    keep: float
    compression: float
    speedup: float
    latency: float | None = None

    def of(self, kind: str) -> float:
        """The number that a budget of this kind limits; a latency that was not measured counts as 1."""
        value = getattr(self, kind)
        return 1.0 if value is None else float(value)

    def achieved(self, dense: Cost) -> dict[str, float]:
        """``keep``, ``compression`` and ``speedup`` against the dense network, and ``latency`` if it was measured."""
        timed = {} if self.latency is None else {"latency": (dense.latency or 1.0) / self.latency}
        return timed | {
            "keep": self.keep / dense.keep,
            "compression": dense.compression / self.compression,
            "speedup": dense.speedup / self.speedup,
        }


@dataclass(frozen=True)
class _Size:
    """A number of channels: a fixed part, and a number for each node of some groups."""

    fixed: int
    per_node: tuple[tuple[str, int], ...] = ()

    def __call__(self, counts: Counts) -> int:
        return self.fixed + sum(int(counts[name]) * repeat for name, repeat in self.per_node)


@dataclass(frozen=True)
class _Term:
    """One layer's share: (out x in x kernel) weights used ``positions`` times, plus parameters per output unit.

    If several layers share a weight, its parameters count for one of them; for the others it is ``borrowed``.
    """

    out: _Size
    inputs: _Size
    kernel: int
    positions: int
    per_unit: int
    borrowed: bool = False


@dataclass(frozen=True)
class _Share:
    """The cost of a carrier for each block of channels that it treats separately."""

    blocks: _Size
    parameters: int
    macs: int


class NodeCost:
    """Cost of a network whose groups keep given numbers of nodes; exact, without building it.

    Args:
        model: the network.
        example: a batch of inputs; one sample is run.
        groups: the prunable groups.
    """

    def __init__(self, model: nn.Module, example: Tensor, groups: Sequence[NodeGroup]) -> None:
        self.sizes = {group.name: group.size for group in groups}
        self._terms = _terms(model, example, groups)
        found = products(model, example)
        self._shares = _shares(model, found, groups)
        self._product_macs = {group.name: group.product_macs for group in groups if group.product_macs}
        self._other_parameters = self._other_macs = 0
        full = self(self.sizes)
        self._other_parameters = sum(p.numel() for p in model.parameters()) - int(full.compression)
        self._other_macs = sum(product.macs for product in found) - int(full.speedup)

    def __call__(self, counts: Counts) -> Cost:
        """Units, parameters and MACs when group ``name`` keeps ``counts[name]`` nodes."""
        parameters, macs = self._other_parameters, self._other_macs
        for term in self._terms:
            out = term.out(counts)
            weights = out * term.inputs(counts) * term.kernel
            parameters += (0 if term.borrowed else weights) + out * term.per_unit
            macs += weights * term.positions
        for share in self._shares:
            blocks = share.blocks(counts)
            parameters += blocks * share.parameters
            macs += blocks * share.macs
        macs += sum(int(counts[name]) * each for name, each in self._product_macs.items())
        return Cost(sum(int(counts[name]) for name in self.sizes), parameters, macs)


def _terms(model: nn.Module, example: Tensor, groups: Sequence[NodeGroup]) -> list[_Term]:
    outs: dict[str, list[tuple[str, int, int]]] = {}
    inputs: dict[str, list[tuple[str, int, int]]] = {}
    carried = {path for group in groups for path in group.carriers}
    for group in groups:
        for path, rows in zip(group.writers, group.rows, strict=True):
            outs.setdefault(path, []).append((group.name, *rows.shape))
        for reader in group.readers:
            nodes, channels = reader.columns.shape
            inputs.setdefault(reader.name, []).append((group.name, nodes, channels // reader.groups))
    positions = output_positions(model, example)
    terms = []
    counted: set[nn.Parameter] = set()
    for path in call_order(model, example):
        module = model.get_submodule(path)
        own = {parameter for parameter in module.parameters(recurse=False) if parameter not in counted}
        counted |= own
        if find_kind(module) is not None and path not in carried:
            bias = int(any(parameter is getattr(module, "bias", None) for parameter in own))
            borrowed = all(parameter is not module.weight for parameter in own)
            matrix = matrix_of(module)
            out, read = matrix.shape[:2]
            kernel = matrix[0, 0].numel()
            sizes = _size(out, outs.get(path, [])), _size(read, inputs.get(path, []))
            terms.append(_Term(*sizes, kernel, positions[path], bias, borrowed))
    return terms


def _shares(model: nn.Module, found: Sequence[Product], groups: Sequence[NodeGroup]) -> list[_Share]:
    """Costs of carriers, for each block of channels that they treat separately, and of parameters outside layers."""
    coupled: dict[str, list[tuple[str, int, int]]] = {}
    blocks: dict[str, int] = {}
    for group in groups:
        for path, entries in zip(group.carriers, group.entries, strict=True):
            module = model.get_submodule(path)
            carrier = carrier_of(module)
            block = carrier.block(module)
            coupled.setdefault(path, []).append((group.name, len(entries), entries.shape[1] // block))
            blocks[path] = carrier.channels(module) // block
    shares = []
    for path, number in blocks.items():
        parameters = sum(p.numel() for p in model.get_submodule(path).parameters(recurse=False))
        if number:  # otherwise no part of it is removed with a channel
            macs = sum(product.macs for product in found if product.layer == path)
            shares.append(_Share(_size(number, coupled[path]), parameters // number, macs // number))
    own = dict(model.named_parameters())  # without buffers
    held: dict[tuple[str, int], list[tuple[str, int, int]]] = {}
    for group in groups:
        for each in group.held:
            if each.name in own:
                held.setdefault((each.name, each.dimension), []).append((group.name, *each.places.shape))
    for (name, dimension), parts in held.items():
        number = own[name].shape[dimension]
        shares.append(_Share(_size(number, parts), own[name].numel() // number, 0))
    return shares


def _size(total: int, coupled: Sequence[tuple[str, int, int]]) -> _Size:
    """``total`` channels, of which each triple (group, nodes, channels per node) belongs to a group."""
    fixed = total - sum(nodes * repeat for _, nodes, repeat in coupled)
    return _Size(fixed, tuple((name, repeat) for name, _, repeat in coupled))


class EdgeCost:
    """Cost of a network whose layers keep given numbers of weights; nonzero-weighted.

    Args:
        model: the network.
        example: a batch of inputs; one sample is run.
        names: paths of the prunable layers.
    """

    def __init__(self, model: nn.Module, example: Tensor, names: Sequence[str]) -> None:
        self.sizes = {name: matrix_of(model.get_submodule(name)).numel() for name in names}
        self._positions = output_positions(model, example)
        self._other_parameters = sum(p.numel() for p in model.parameters()) - sum(self.sizes.values())
        dense = sum(size * self._positions[name] for name, size in self.sizes.items())
        self._other_macs = count_macs(model, example) - dense

    def __call__(self, counts: Counts) -> Cost:
        """Kept weights, nonzero parameters and effective MACs when layer ``name`` keeps ``counts[name]`` weights."""
        totals = {name: int(count.sum()) if isinstance(count, Tensor) else count for name, count in counts.items()}
        macs = sum(total * self._positions[name] for name, total in totals.items())
        units = sum(totals.values())
        return Cost(units, units + self._other_parameters, macs + self._other_macs)


def output_positions(model: nn.Module, example: Tensor) -> dict[str, int]:
    """How often one sample uses each weight of a layer: output positions of a convolution, tokens of a linear layer.

    Tokens count even where the forward pass has moved them into the batch dimension.
    """
    positions: dict[str, int] = {}
    handles = []
    for path, module in model.named_modules():
        if (kind := find_kind(module)) is not None:

            def hook(module: nn.Module, _inputs: object, output: Tensor, path: str = path, kind: Kind = kind) -> None:
                positions[path] = positions.get(path, 0) + kind.positions(module, output)

            handles.append(module.register_forward_hook(hook))
    try:
        with evaluating(model), torch.no_grad():
            samples = fewest(model, example)
            model(samples)
    finally:
        for handle in handles:
            handle.remove()
    return {path: count // len(samples) for path, count in positions.items()}
