r"""Prune by determinantal point processes: keep a diverse set of nodes, or of edges per unit.

Nodes (DIVNET): Z. Mariet, S. Sra, "Diversity Networks: Neural Network Compression Using Determinantal Point Processes",
ICLR 2016. With v_i the activations of node i after the nonlinearity over t samples, keep a draw from the k-DPP of

    L_ij = exp(-beta ||v_i - v_j||^2) + 0.01 [i = j],   beta = 10 / t,

then fuse: the removed nodes are regressed on the kept ones without intercept (``compensation=least_squares``).

Edges: R. Acharyya et al., arXiv 2006.16617 (version 1, "Understanding Diversity based Pruning of Neural Networks:
Statistical Mechanical Analysis"; later UAI 2021). Each unit draws from its own k-DPP over its incoming edges, where
edge e contributes u_e = w_e x_e to the pre-activation; the same kernel with u in place of v. All kernels of a layer
follow from one (d, d) second moment S of its inputs: the mean squared difference of u_e and u_f is
w_e^2 S_ee + w_f^2 S_ff - 2 w_e w_f S_ef.

Neither paper treats convolutions. Our extension: a channel is an item, its vector runs over samples and positions; the
edges of a filter are its weights, their inputs the unfolded patches, in a grouped convolution those of its group. Nodes
tied by a residual sum, and nodes with several readers, share one draw, from the average of their second moments.

beta = 10 / t was published for sigmoid units. With unbounded activations distances are large, L approaches the identity
and a "diverse" draw is a uniform one: a warning says so, and beta = "median" (1 / median squared distance) is our
deviation for such networks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from methods.budgets.budget import Count
from methods.dpp.determinantal import KDPP, PAPER_SCALE, kernel_from_moments, linear_kernel, map_k_dpp, median_scale
from methods.errors import BadInput
from methods.layers.seen import EdgeLayer, NodeLayer
from methods.progress import track
from methods.selection import Selection

Beta = float | str
CHUNK_BYTES = 2**28  # working memory for the kernels of several units at once
NEARLY_IDENTITY, NEARLY_CONSTANT = 1e-3, 0.99


class DPPKernel:
    """Computes the kernel L of a DPP selection from second moments.

    Args:
        kernel: ``rbf`` (the papers') or ``linear`` (S itself, as in Acharyya et al.'s teacher-student simulations).
        beta: ``paper`` (10 / t), ``median`` (our deviation) or the number that multiplies the squared distance over
            all t samples (and positions).
        jitter: added to the diagonal, relative to its mean, which is 1 for rbf.
    """

    def __init__(self, kernel: str = "rbf", beta: Beta = "paper", jitter: float = 0.01) -> None:
        if kernel not in ("rbf", "linear"):
            raise BadInput(f"selection.kernel={kernel} is unknown; choose rbf or linear")
        if isinstance(beta, str) and beta not in ("paper", "median"):
            raise BadInput(f"selection.beta={beta} is unknown; choose paper, median or a positive number")
        if not isinstance(beta, str) and not (beta > 0 and math.isfinite(beta)):
            raise BadInput(
                f"selection.beta={beta} must be a positive number; choose paper (10 / samples), median or 0.5"
            )
        if not (jitter >= 0 and math.isfinite(jitter)):
            raise BadInput(f"selection.jitter={jitter} must be 0 or more; the papers use 0.01")
        self.kind, self.beta, self.jitter = kernel, beta, jitter

    def __call__(self, second: Tensor, count: int) -> Tensor:
        """L (n, n) from the second moments (n, n) of the items over ``count`` samples."""
        if count < 1:
            raise BadInput(
                "no calibration samples reached this layer; expected at least one: set calibration.samples=1000"
            )
        if self.kind == "linear":
            return linear_kernel(second, self.jitter)
        if self.beta == "median":
            return kernel_from_moments(second, median_scale(second), self.jitter)
        scale = PAPER_SCALE if isinstance(self.beta, str) else self.beta * count
        return kernel_from_moments(second, scale, self.jitter)


def mean_off_diagonal(kernel: Tensor) -> float:
    """Average of L_ij / sqrt(L_ii L_jj) over i != j: 0 for the identity (a uniform draw), 1 if all items look alike."""
    size = len(kernel)
    if size < 2:
        return 0.0
    scale = kernel.diagonal().clamp_min(torch.finfo(kernel.dtype).tiny).rsqrt()
    return float((scale @ kernel @ scale - (kernel.diagonal() * scale**2).sum()) / (size * (size - 1)))


class DPPSelection(Selection[NodeLayer]):
    """Keeps a diverse set of nodes, one k-DPP per layer (DIVNET).

    Args:
        kernel, beta, jitter: see :class:`DPPKernel`.
        order: ``forward`` computes the kernel on the network whose earlier layers are already pruned and fused;
            ``independent`` on the original network.
        map: take the greedy mode of the k-DPP instead of a draw (deterministic; not in the paper).
    """

    def __init__(
        self,
        kernel: str = "rbf",
        beta: Beta = "paper",
        jitter: float = 0.01,
        order: str = "forward",
        map: bool = False,
    ) -> None:
        if order not in ("forward", "independent"):
            raise BadInput(f"selection.order={order} is unknown; choose forward or independent")
        self.kernel = DPPKernel(kernel, beta, jitter)
        self.order = order
        self.map = map
        self._reports: dict[str, dict[str, Any]] = {}

    def select(self, layer: NodeLayer, k: Count) -> Tensor:
        """Sorted indices (k,) of one draw, or of the greedy mode."""
        self._reports.pop(layer.name, None)
        if k == layer.size:
            return torch.arange(layer.size, device=layer.incoming.device)
        kernel = self.kernel(layer.covariance, layer.moments[0].count)
        dpp = KDPP.from_kernel(kernel)
        kept = map_k_dpp(kernel, int(k)) if self.map else dpp.sample(int(k), layer.generator)
        self._reports[layer.name] = _kernel_report(layer.name, [mean_off_diagonal(kernel)], [dpp.eigenvalue_range])
        return kept.to(kernel.device)

    def report(self, layer: NodeLayer, kept: Tensor) -> dict[str, Any]:
        """How far the kernel is from the identity, and its eigenvalue range."""
        return self._reports.get(layer.name, {})


class DPPEdgeSelection(Selection[EdgeLayer]):
    """Keeps a diverse set of incoming edges for each output unit, the same number for all (Acharyya et al.).

    Args:
        kernel, beta, jitter: see :class:`DPPKernel`.
    """

    def __init__(self, kernel: str = "rbf", beta: Beta = "paper", jitter: float = 0.01) -> None:
        self.kernel = DPPKernel(kernel, beta, jitter)
        self._reports: dict[str, dict[str, Any]] = {}

    def select(self, layer: EdgeLayer, k: Count) -> Tensor:
        """Boolean mask (out, d) with k / out edges per unit (or k[i] in unit i), all of them live."""
        self._reports.pop(layer.name, None)
        counts = edges_per_unit(k, layer.live)
        if torch.equal(counts, layer.live.sum(1).cpu()):
            return layer.live.clone()
        masks = torch.zeros_like(layer.live)
        generators = unit_generators(len(counts), layer.generator)
        closeness, ranges = [], []
        groups = zip(
            layer.weight.chunk(layer.groups), layer.moments_of_groups, layer.live.chunk(layer.groups), strict=True
        )
        units = chain.from_iterable(
            unit_kernels(weight, own.second, own.count, self.kernel, live) for weight, own, live in groups
        )
        for unit, (kernel, dpp) in enumerate(track(units, f"DPP over the edges of {layer.name}", len(counts))):
            if counts[unit] > 0:
                masks[unit, dpp.sample(int(counts[unit]), generators[unit])] = True
            live = layer.live[unit]
            closeness.append(mean_off_diagonal(kernel[live][:, live]))
            ranges.append(dpp.eigenvalue_range)
        self._reports[layer.name] = _kernel_report(layer.name, closeness, ranges)
        return masks

    def report(self, layer: EdgeLayer, kept: Tensor) -> dict[str, Any]:
        """How far the units' kernels are from the identity on average, and the range of their eigenvalues."""
        return self._reports.get(layer.name, {})


def unit_kernels(
    weight: Tensor, second: Tensor, count: int, kernel: DPPKernel, live: Tensor | None = None
) -> Iterator[tuple[Tensor, KDPP]]:
    """For each unit the kernel (d, d) over its incoming edges and its decomposition, to draw from as often as needed.

    Args:
        weight: (out, d) incoming weights.
        second: (d, d) second moment of the inputs, common to all units.
        count: samples (and positions) behind ``second``.
        kernel: from second moments to L.
        live: (out, d) edges that may be drawn; None is all.
    """
    inputs = weight.shape[1]
    chunk = max(1, CHUNK_BYTES // (4 * 8 * inputs**2))
    for start in range(0, len(weight), chunk):
        rows = weight[start : start + chunk].double()
        kernels = torch.stack([kernel(second * torch.outer(row, row), count) for row in rows])
        if live is not None:
            alive = live[start : start + chunk].double()
            kernels *= alive.unsqueeze(1) * alive.unsqueeze(2)
        yield from zip(kernels, KDPP.from_kernels(kernels), strict=True)


def sample_edges(
    weight: Tensor, second: Tensor, count: int, counts: Tensor, generator: torch.Generator, kernel: DPPKernel
) -> Tensor:
    """Draw several masks for one layer from one decomposition per unit, (draws, out, d) boolean.

    Args:
        weight: (out, d) incoming weights.
        second: (d, d) second moment of the inputs, common to all units.
        count: samples (and positions) behind ``second``.
        counts: (draws, out) int64 edges that each unit keeps in each draw; draws may differ in size.
        generator: every unit derives a stream of its own from it.
        kernel: from second moments to L.
    """
    masks = torch.zeros((*counts.shape, weight.shape[1]), dtype=torch.bool)
    generators = unit_generators(len(weight), generator)
    units = unit_kernels(weight, second, count, kernel)
    for unit, (_, dpp) in enumerate(track(units, "DPP over edges", len(weight))):
        for draw, k in enumerate(counts[:, unit].tolist()):
            masks[draw, unit, dpp.sample(k, generators[unit])] = True
    return masks


def unit_generators(units: int, generator: torch.Generator) -> list[torch.Generator]:
    """Return an independent stream per unit, so that one unit's draws do not change the others'."""
    seeds = torch.randint(2**62, (units,), generator=generator).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def edges_per_unit(k: Count, live: Tensor) -> Tensor:
    """How many edges each unit keeps, (out,): as given, or ``k`` in total in equal shares.

    Units with too few live edges keep all of theirs and the others make up; the remainder goes to the first units.
    """
    available = live.sum(1).cpu()
    if isinstance(k, Tensor):
        counts = k.cpu().long()
        if counts.shape != available.shape or bool((counts < 0).any()) or bool((counts > available).any()):
            raise BadInput(
                "edge counts per unit must be between 0 and the unit's live edges, one count per output unit"
            )
        return counts
    if not 1 <= k <= int(available.sum()):
        raise BadInput(f"cannot keep {k} edges of {int(available.sum())} that are left; expected a number in between")
    counts, left = torch.zeros_like(available), k
    while left:
        free = (counts < available).nonzero().squeeze(1)
        if left < len(free):
            counts[free[:left]] += 1
            break
        added = (available - counts)[free].clamp_max(left // len(free))
        counts[free] += added
        left -= int(added.sum())
    return counts


def equal_parameters(edges: int, inputs: int, hidden: int, outputs: int) -> int:
    """Nodes to keep so that node pruning has as many weights as edge pruning (Acharyya et al.), at most ``hidden``.

    Around a hidden layer of width h between d inputs and m outputs, n nodes leave n (d + m) weights, k edges per unit
    h (k + m); hence n = ceil(h (k + m) / (d + m)).
    """
    if not 0 <= edges <= inputs:
        raise BadInput(f"cannot keep {edges} of {inputs} edges per unit; expected a number from 0 to {inputs}")
    return -(-hidden * (edges + outputs) // (inputs + outputs))


def equal_edges(nodes: int, inputs: int, hidden: int, outputs: int) -> int:
    """Edges per unit with as many weights as ``nodes`` kept nodes: k = ceil(n (d + m) / h - m), at least 0."""
    if not 0 <= nodes <= hidden:
        raise BadInput(f"cannot keep {nodes} of {hidden} nodes; expected a number from 0 to {hidden}")
    return max(0, -(-nodes * (inputs + outputs) // hidden) - outputs)


def _kernel_report(name: str, closeness: list[float], ranges: list[tuple[float, float]]) -> dict[str, Any]:
    mean = sum(closeness) / len(closeness)
    if mean < NEARLY_IDENTITY or mean > NEARLY_CONSTANT:
        alike = "the identity, so the draw is nearly uniform" if mean < 0.5 else "constant: all items look alike"
        warnings.warn(
            f"the DPP kernel of '{name}' is nearly {alike} (mean off-diagonal {mean:.2g}); "
            "beta=10/samples suits sigmoid units, for others try selection.beta=median",
            stacklevel=3,
        )
    return {
        "kernel_mean_off_diagonal": mean,
        "kernel_smallest_eigenvalue": min(low for low, _ in ranges),
        "kernel_largest_eigenvalue": max(high for _, high in ranges),
    }
