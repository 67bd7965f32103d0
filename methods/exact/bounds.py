"""Bound the inputs of ReLUs on a box of network inputs: by intervals, linear relaxation and integer programmes.

- Intervals: each layer's box from the box before it (Moore's interval arithmetic).
- Linear relaxation: every ReLU lies between two lines over its own interval, and a layer's input is bounded by putting
  these lines into one another back to the inputs of the network (Zhang et al., "Efficient Neural Network Robustness
  Certification with General Activation Functions" (CROWN), NeurIPS 2018, section 3).
- Integer programmes: a ReLU h = max(0, z) with z in [l, u], l < 0 < u, is h >= 0, h >= z, h <= u a, h <= z - l (1 - a)
  with a in {0, 1} (Tjeng, Xiao & Tedrake, ICLR 2019, section 4), solved by SciPy's HiGHS. What it has proved when its
  time is up counts: the bound, not the best point found, and with a margin for the solver's own tolerance.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from scipy import optimize, sparse
from torch import Tensor

from methods.exact.chain import Affine

MARGIN = 1e-6  # added to bounds, since the solver meets constraints up to about as much

Box = tuple[Tensor, Tensor]  # smallest and largest values, (m,) float64 each


def interval(layer: Affine, box: Box) -> Box:
    """Bound a layer's outputs for a box of inputs."""
    positive, negative = layer.weight.clamp(min=0), layer.weight.clamp(max=0)
    low = positive @ box[0] + negative @ box[1] + layer.bias
    high = positive @ box[1] + negative @ box[0] + layer.bias
    return low, high


def after_relu(box: Box) -> Box:
    """Bound the outputs of a ReLU."""
    return box[0].clamp(min=0), box[1].clamp(min=0)


def relaxed(layers: Sequence[Affine], boxes: Sequence[Box], domain: Box) -> Box:
    """Bounds of the last layer's results by linear relaxation of the ReLUs before it.

    Args:
        layers: l of them.
        boxes: of the results of the first l - 1, before their ReLUs.
        domain: of the network's inputs.
    """
    return -_upper(layers, boxes, domain, -1.0), _upper(layers, boxes, domain, 1.0)


def _upper(layers: Sequence[Affine], boxes: Sequence[Box], domain: Box, sign: float) -> Tensor:
    """Upper bounds of ``sign`` times the last layer's results."""
    weight, constant = sign * layers[-1].weight, sign * layers[-1].bias
    for layer, (low, high) in zip(reversed(layers[:-1]), reversed(boxes), strict=True):
        open_ = (low < 0) & (high > 0)
        slope = torch.where(high <= 0, 0.0, torch.where(open_, high / (high - low).clamp(min=1e-300), 1.0))
        shift = torch.where(open_, -low * slope, 0.0)
        below = torch.where(open_, (high > -low).double(), slope)  # the lower line that leaves the smaller triangle
        up, down = weight.clamp(min=0), weight.clamp(max=0)
        constant = constant + up @ shift
        weight = up * slope + down * below
        constant = constant + weight @ layer.bias
        weight = weight @ layer.weight
    return weight.clamp(min=0) @ domain[1] + weight.clamp(max=0) @ domain[0] + constant


class Programme:
    """The mixed-integer programme of a chain up to some layer; it is solved for one unit of that layer at a time.

    Args:
        layers: those before the layer in question.
        boxes: of their results before the ReLU.
        domain: of the network's inputs.
    """

    def __init__(self, layers: Sequence[Affine], boxes: Sequence[Box], domain: Box) -> None:
        self.lower, self.upper, self.whole = [*domain[0].tolist()], [*domain[1].tolist()], [0] * len(domain[0])
        self.rows: list[sparse.csr_array] = []
        self.limits: list[tuple[np.ndarray, np.ndarray]] = []
        previous = np.arange(len(domain[0]))
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        for low, high in boxes:
            units = len(low)
            first = len(self.lower)
            self.lower += [0.0] * units
            self.upper += high.clamp(min=0).tolist()
            self.whole += [0] * units
            switches = first + units + np.arange(units)
            self.lower += ((low >= 0) & (high > 0)).double().tolist()
            self.upper += (high > 0).double().tolist()
            self.whole += [1] * units
            here = first + np.arange(units)
            parts.append((previous, here, switches, low.numpy(), high.numpy()))
            previous = here
        self.size, self.last = len(self.lower), previous
        for layer, part in zip(layers, parts, strict=True):
            self._relu(layer, *part)

    def _relu(
        self, layer: Affine, read: np.ndarray, here: np.ndarray, switch: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> None:
        units = len(here)
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        weight = self._placed(layer.weight.numpy(), read)
        h, a, bias = self._chosen(here), self._chosen(switch), layer.bias.numpy()
        infinite = np.full(units, np.inf)
        self._add(h - weight, bias, infinite)  # h >= z
        self._add(h - sparse.diags_array(high) @ a, -infinite, np.zeros(units))  # h <= u a
        self._add(h - weight - sparse.diags_array(low) @ a, -infinite, bias - low)  # h <= z - l (1 - a)

    def _placed(self, weight: np.ndarray, columns: np.ndarray) -> sparse.csr_array:
        place = sparse.csr_array((np.ones(len(columns)), (np.arange(len(columns)), columns)), (len(columns), self.size))
        return sparse.csr_array(sparse.csr_array(weight) @ place)

    def _chosen(self, columns: np.ndarray) -> sparse.csr_array:
        return self._placed(np.eye(len(columns)), columns)

    def _add(self, matrix: sparse.csr_array, low: np.ndarray, high: np.ndarray) -> None:
        self.rows.append(matrix)
        self.limits.append((low, high))

    def largest(self, weight: Tensor, bias: float, seconds: float) -> tuple[float, bool]:
        """An upper bound of weight . h + bias over the domain, infinite if none is proved, and whether it is reached.

        Args:
            weight: (m,) of a unit of the layer in question.
            bias: its bias.
            seconds: of the solver.
        """
        goal = np.zeros(self.size)
        goal[self.last] = -weight.numpy()  # the solver minimises
        constraints = (
            optimize.LinearConstraint(
                sparse.vstack(self.rows).tocsc(), *(np.concatenate(each) for each in zip(*self.limits, strict=True))
            )
            if self.rows
            else ()
        )
        found = optimize.milp(
            goal,
            integrality=np.array(self.whole),
            bounds=optimize.Bounds(np.array(self.lower), np.array(self.upper)),
            constraints=constraints,
            options={"time_limit": max(seconds, 0.01), "mip_rel_gap": 0.0},
        )
        proved = getattr(found, "mip_dual_bound", None)
        if proved is None or not np.isfinite(proved):
            return float("inf"), False
        return bias - float(proved) + MARGIN, found.status == 0


class Clock:
    """Counts down a number of seconds."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        """The seconds that are left, at least 0."""
        return max(0.0, self.end - time.monotonic())
