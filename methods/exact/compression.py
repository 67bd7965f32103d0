"""Compress a network without changing its function: remove, merge or fold units whose ReLU is stable.

Serra, Yu, Kumar and Ramalingam, "Scaling Up Exact Neural Network Compression by ReLU Stability" (NeurIPS 2021, arXiv
2102.07804), after Serra, Kumar and Ramalingam, "Lossless Compression of Deep Neural Networks" (CPAIOR 2020). On a box
of inputs,

- a unit whose ReLU never opens (z <= 0 everywhere) returns 0 and is removed;
- of units whose ReLU is always open (z >= 0 everywhere) those whose weights are combinations of others' return the same
  combination of these and a constant, and are merged into them: w_i = sum_j c_j w_j gives
  h_i = sum_j c_j h_j + (b_i - sum_j c_j b_j), which goes into the next layer's weights and bias;
- a layer all of whose units are always open is linear, and is folded into the next one where that has fewer weights.

Which units are stable is proved by bounds (:mod:`methods.exact.bounds`), and where these are inconclusive by an integer
programme for each unit, until the time is up (the paper of 2021 finds all units by one programme). Units whose state
stays unknown are kept.
The weaker form, ``scope=calibration``, treats units as stable if they are so on all calibration samples: this is no
proof, and the function may change elsewhere.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import linalg
from torch import Tensor, nn
from torch.nn.utils import skip_init

from methods.budgets.budget import Budget, Cost
from methods.errors import BadInput
from methods.exact.bounds import Box, Clock, Programme, after_relu, interval, relaxed
from methods.exact.chain import Affine, called, chain_of, forward
from methods.layers.seen import Layer
from methods.layers.statistics import Calibration
from methods.network.counting import count_macs
from methods.progress import track
from methods.seeds import stream
from methods.selection import Selection

SCOPES = ("domain", "calibration")
ROUNDING = 1e-5  # of inputs that are normalised in single precision
PROBES = 1000  # random inputs of the domain, which show most of the unstable units without a proof
DEPENDENT = 1e-9  # relative size of the part of a weight vector that no combination of the others gives
LARGEST = 100.0  # coefficient of a combination; beyond it rounding would show in the function
SHARES = 4  # a unit may take this many times its share of the remaining time
OPEN, CLOSED, UNSTABLE, UNKNOWN = "open", "closed", "unstable", "unknown"


@dataclass(frozen=True)
class Found:
    """What is known of one layer's units, and how it was found out.

    Attributes:
        states: for each unit ``open``, ``closed``, ``unstable`` or ``unknown``.
        box: bounds of its ReLUs' inputs.
        proved: how many units each technique has decided.
    """

    states: list[str]
    box: Box
    proved: dict[str, int]


class ExactCompression(Selection[Layer]):
    """Removes, merges and folds units without changing the network's function on a box of inputs.

    Every unit that is proved to be unnecessary is removed; the budget is ignored.

    Args:
        scope: ``domain``, with proof, or ``calibration``: stable on the calibration samples, which proves nothing.
        low, high: of every input; None: those that the pixel values 0 and 1 have after normalisation.
        mean, std: of that normalisation, a number or one for each channel.
        seconds: that all integer programmes together may take; 0: bounds alone.
    """

    unit = "exact"

    def __init__(
        self,
        scope: str = "domain",
        low: float | None = None,
        high: float | None = None,
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        seconds: float = 60.0,
    ) -> None:
        if scope not in SCOPES:
            raise BadInput(f"selection.scope={scope} is unknown; choose domain or calibration")
        if (low is None) != (high is None) or (low is not None and high is not None and low >= high):
            raise BadInput(
                "selection.low and selection.high are a range together; type selection.low=0 selection.high=1"
            )
        if seconds < 0:
            raise BadInput(f"selection.seconds={seconds:g} is negative; type selection.seconds=60")
        self.scope, self.low, self.high, self.mean, self.std, self.seconds = scope, low, high, mean, std, seconds

    def dense_cost(self, model: nn.Module, example: Tensor) -> Cost:
        """Hidden units, parameters and MACs."""
        return cost_of(model, example, chain_of(model, example[:2]))

    def restructure(
        self, model: nn.Module, calibration: Calibration, budget: Budget, dense: Cost | None = None
    ) -> tuple[nn.Module, Cost, list[dict[str, Any]], str | None]:
        """Return a network of the same function with fewer units, its cost, a row per layer, and a note.

        Raises:
            Skipped: the network is no chain of linear layers and ReLUs.
            BadInput: the domain is not known, or a calibration input lies outside.
        """
        layers = chain_of(model, calibration.inputs[:2])
        inputs = calibration.inputs.double().cpu()
        domain = self.domain(inputs)
        flat = inputs.flatten(1)
        outside = (flat < domain[0] - ROUNDING) | (flat > domain[1] + ROUNDING)
        if self.scope == "domain" and bool(outside.any()):
            raise BadInput(
                "calibration inputs lie outside of the domain on which the function stays; expected values in "
                f"{float(domain[0].min()):.4g} to {float(domain[1].max()):.4g}\n"
                "type selection.low=... selection.high=..."
            )
        smaller, rows, unknown = self._compressed(layers, domain, flat, calibration.seed)
        built = build(model, smaller, calibration.inputs[:2])
        cost = cost_of(built, calibration.inputs[:2], smaller)
        reach = cost.achieved(dense or cost_of(model, calibration.inputs[:2], layers))[budget.kind]
        sure = "on calibration data only, not proved" if self.scope == "calibration" else "the function is the same"
        note = f"takes what it can, the budget was not consulted ({budget.kind}={reach:.4g}); {sure}"
        return built, cost, rows, note + (f"; {unknown} units left undecided" if unknown else "")

    def domain(self, inputs: Tensor) -> Box:
        """(d,) smallest and largest values of the flattened inputs.

        Args:
            inputs: (n, ...) for their shape.
        """
        shape = inputs.shape[1:]
        if self.low is not None and self.high is not None:
            ends = [torch.full(shape, value, dtype=torch.float64) for value in (self.low, self.high)]
        elif self.scope == "calibration":
            return inputs.flatten(1).min(0).values, inputs.flatten(1).max(0).values
        elif self.mean is None or self.std is None:
            raise BadInput(
                "exact compression needs the range of inputs on which the function is to stay; expected a data set "
                "with mean and std of its pixels, or a range\ntype for instance selection.low=0 selection.high=1"
            )
        else:
            mean, std = (torch.as_tensor(each, dtype=torch.float64).reshape(-1) for each in (self.mean, self.std))
            axes = (-1, *[1] * (len(shape) - 1))
            ends = [((end - mean) / std).view(axes).expand(shape) for end in (0.0, 1.0)]
        return ends[0].flatten(), ends[1].flatten()

    def _compressed(
        self, layers: Sequence[Affine], domain: Box, inputs: Tensor, seed: int
    ) -> tuple[list[Affine], list[dict[str, Any]], int]:
        """Compress layer by layer from the input, so that the layers before the current one are already small."""
        clock = Clock(self.seconds)
        todo, done = list(layers), list[Affine]()
        boxes: list[Box] = []
        rows: list[dict[str, Any]] = []
        unknown = 0
        for number in track(range(len(layers) - 1), "exact compression, layers"):
            layer, following = todo[number], todo[number + 1]
            if self.scope == "domain":
                found = states_on(domain, done, boxes, layer, clock, probes(domain, inputs, seed))
            else:
                found = states_seen(done, layer, inputs)
            unknown += found.states.count(UNKNOWN)
            new, todo[number + 1], box, row = shrunk(layer, following, found)
            rows.append({"name": layer.path, "units": len(layer.bias), "kept": 0, **row, **found.proved})
            if new is None:
                continue
            rows[-1]["kept"] = len(new.bias)
            done.append(new)
            boxes.append(box)
        return [*done, todo[-1]], rows, unknown


def probes(domain: Box, inputs: Tensor, seed: int) -> Tensor:
    """(n, d) calibration inputs, and random points and corners of the domain."""
    low, high = domain
    draw = torch.rand(PROBES, len(low), generator=stream(seed, "probes"), dtype=torch.float64)
    points = low + (high - low) * torch.cat([draw, draw.round()])
    return torch.cat([inputs, points])


def states_on(
    domain: Box, before: Sequence[Affine], boxes: Sequence[Box], layer: Affine, clock: Clock, points: Tensor
) -> Found:
    """Find out what each unit of a layer does on the domain, by points, bounds and integer programmes.

    Args:
        domain: of the network's inputs.
        before: the layers before it.
        boxes: of their ReLUs' inputs.
        layer: the one in question.
        clock: of the integer programmes.
        points: (n, d) of the domain.
    """
    low, high = interval(layer, after_relu(boxes[-1]) if boxes else domain)
    states, proved = _by_bounds(low, high), {}
    proved["by_interval"] = len(states) - states.count(UNKNOWN)
    if before:
        tighter = relaxed([*before, layer], boxes, domain)
        low, high = torch.maximum(low, tighter[0]), torch.minimum(high, tighter[1])
        states = _by_bounds(low, high)
    proved["by_relaxation"] = len(states) - states.count(UNKNOWN) - proved["by_interval"]
    read = forward([*before, layer], points)  # the last layer of a chain has no ReLU
    both = ((read > 0).any(0) & (read < 0).any(0)).tolist()
    # a single layer attains its bounds on a box, so that nothing is left to prove for the first one
    states = [
        UNSTABLE if state == UNKNOWN and (seen or not before) else state
        for state, seen in zip(states, both, strict=True)
    ]
    left = [unit for unit, state in enumerate(states) if state == UNKNOWN]
    programme = Programme(before, boxes, domain) if left and before and clock.left() else None
    decided = 0
    for place, unit in enumerate(track(left, f"integer programmes of {layer.path}", len(left)) if programme else ()):
        if not clock.left():
            break
        assert programme is not None
        weight, bias = layer.weight[unit], float(layer.bias[unit])
        seconds = min(clock.left(), SHARES * clock.left() / (len(left) - place))
        if not bool((read[:, unit] > 0).any()):
            most, reached = programme.largest(weight, bias, seconds)
            high[unit] = min(float(high[unit]), most)
        else:
            most, reached = programme.largest(-weight, -bias, seconds)
            low[unit] = max(float(low[unit]), -most)
        states[unit] = _by_bounds(low[unit : unit + 1], high[unit : unit + 1])[0]
        if states[unit] == UNKNOWN and reached:
            states[unit] = UNSTABLE
        decided += states[unit] != UNKNOWN
    proved["by_programme"] = decided
    return Found(states, (low, high), proved)


def states_seen(before: Sequence[Affine], layer: Affine, inputs: Tensor) -> Found:
    """Observe what each unit of a layer does on some inputs (n, d); nothing is proved."""
    read = forward([*before, layer], inputs)
    box = read.min(0).values, read.max(0).values
    states = [UNSTABLE if state == UNKNOWN else state for state in _by_bounds(*box)]
    return Found(states, box, {})


def _by_bounds(low: Tensor, high: Tensor) -> list[str]:
    ends = zip(low.tolist(), high.tolist(), strict=True)
    return [CLOSED if most <= 0 else OPEN if least >= 0 else UNKNOWN for least, most in ends]


def shrunk(layer: Affine, following: Affine, found: Found) -> tuple[Affine | None, Affine, Box, dict[str, int]]:
    """Remove the units of a layer that are not needed; return it, the next layer, the new box, and what was done.

    The layer is None where it was folded into the next one.
    """
    open_ = [unit for unit, state in enumerate(found.states) if state == OPEN]
    closed = [unit for unit, state in enumerate(found.states) if state == CLOSED]
    others = [unit for unit, state in enumerate(found.states) if state not in (OPEN, CLOSED)]
    if not others:
        weight = following.weight[:, open_] @ layer.weight[open_]
        bias = following.bias + following.weight[:, open_] @ layer.bias[open_]
        if weight.numel() <= len(open_) * (weight.shape[1] + weight.shape[0] + 1):
            row = {"removed": len(closed), "merged": 0, "folded": len(open_)}
            return None, Affine(following.path, weight, bias), found.box, row
    basis, combined = dependent(layer.weight, open_)
    kept = sorted([*others, *basis])
    removed = closed
    if not kept:  # a layer has one unit at least
        kept, removed = closed[:1], closed[1:]
    weight, bias = following.weight.clone(), following.bias.clone()
    for unit, coefficients in combined.items():
        column = following.weight[:, unit]
        weight[:, basis] += column[:, None] * coefficients
        bias += column * (layer.bias[unit] - coefficients @ layer.bias[basis])
    row = {"removed": len(removed), "merged": len(combined), "folded": 0}
    box = found.box[0][kept], found.box[1][kept]
    new = Affine(layer.path, layer.weight[kept], layer.bias[kept])
    return new, Affine(following.path, weight[:, kept], bias), box, row


def dependent(weight: Tensor, units: Sequence[int]) -> tuple[list[int], dict[int, Tensor]]:
    """Find units whose weights combine to those of all other units, and the coefficients for each of the others.

    The units of a basis are chosen by pivoted QR, so that coefficients stay small; a unit whose combination would not
    be accurate joins the basis.

    Args:
        weight: (m, d).
        units: some of the m.
    """
    if not units:
        return [], {}
    rows = weight[list(units)].numpy()
    _, triangle, order = linalg.qr(rows.T, mode="economic", pivoting=True)
    sizes = np.abs(np.diag(triangle))
    rank = int((sizes > DEPENDENT * max(float(sizes[0]), np.finfo(float).tiny)).sum())
    basis = sorted(int(place) for place in order[:rank])
    combined: dict[int, np.ndarray] = {}
    for place in sorted(int(place) for place in order[rank:]):
        found = linalg.lstsq(rows[basis].T, rows[place])[0] if basis else np.zeros(0)
        off = np.abs(found @ rows[basis] - rows[place]).max() if basis else np.abs(rows[place]).max()
        if off > DEPENDENT * max(np.abs(rows[place]).max(), float(sizes[0])) or np.abs(found).max(initial=0) > LARGEST:
            return list(units), {}  # not accurate enough to take the risk
        combined[place] = found
    return [units[place] for place in basis], {units[place]: torch.from_numpy(c) for place, c in combined.items()}


def cost_of(model: nn.Module, example: Tensor, layers: Sequence[Affine]) -> Cost:
    """Hidden units, parameters and MACs."""
    units = sum(len(layer.bias) for layer in layers[:-1])
    return Cost(max(1, units), sum(parameter.numel() for parameter in model.parameters()), count_macs(model, example))


def build(model: nn.Module, layers: Sequence[Affine], example: Tensor) -> nn.Module:
    """Return a copy of the network with these layers; the others, and their ReLUs, pass on what they read."""
    order = called(model, example)
    model, left = copy.deepcopy(model), {layer.path: layer for layer in layers}
    folded = False
    for path in order:
        module = model.get_submodule(path)
        if isinstance(module, nn.ReLU) and folded:
            model.set_submodule(path, nn.Identity())
        if isinstance(module, nn.Linear):
            folded = path not in left
            model.set_submodule(path, nn.Identity() if folded else _linear(module, left[path]))
    return model


def _linear(module: nn.Linear, layer: Affine) -> nn.Linear:
    """A linear layer like ``module`` with other numbers; it has a bias where one is needed."""
    bias = module.bias is not None or bool((layer.bias != 0).any())
    out, inputs = layer.weight.shape
    new = skip_init(nn.Linear, inputs, out, bias=bias, device=module.weight.device, dtype=module.weight.dtype)
    with torch.no_grad():
        new.weight.copy_(layer.weight)
        if bias:
            new.bias.copy_(layer.bias)
    return new.train(module.training)
