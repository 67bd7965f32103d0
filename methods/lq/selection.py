"""Choose the edges of a neuron that stay: its largest weights, or those that sparse regression on its output picks.

Reconstruction from the theory of sparse linear approximation (Yang, Wang, Ding and Yang, 2022; Gao, Ing and Yang,
2013). Keeping the largest weights is thresholding. Orthogonal matching pursuit is Gao et al.'s Theorem 3: from nothing,
add the input most correlated with what is still missing of z = w·h and project again. The lasso is what the group used
in its plan of a backward approximation, from the output layer to the input. Both see only the second moment
M = E[h hᵀ], for z has covariance M w with the inputs and no noise of its own.

Followed by ``compensation=least_squares`` the kept weights are matching pursuit's own, or the relaxed lasso's.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from methods.budgets.budget import Count
from methods.errors import BadInput, Skipped
from methods.layers.seen import EdgeLayer, Layer
from methods.lq.allocation import outgoing_norms
from methods.lq.bounds import lq_effective_count, output_error, output_tail_bound, tail_bound
from methods.network.sparsity import check_exponent, gini, pq_index
from methods.progress import track
from methods.selection import Selection, largest_mask


class SparseLqSelection(Selection[Layer]):
    """Keeps the largest weights, or the nodes whose outgoing weights have the largest ℓq norm, and reports the bounds.

    Args:
        unit: ``edge`` or ``node``.
        q: 0 < q < 1, exponent of the report and of a node's norm.
        measure_up_to: largest d for which the output error is measured, which needs the (d, d) moments of the inputs.
    """

    def __init__(self, unit: str = "edge", q: float = 0.5, measure_up_to: int = 1024) -> None:
        check_exponent(q, below_one=True)
        self.unit, self.q, self.measure_up_to = unit, q, measure_up_to

    def scores(self, layer: Layer) -> Tensor:
        """|w| (out, d) for edges, ℓq norm of the outgoing weights (m,) for nodes."""
        return layer.weight.abs() if isinstance(layer, EdgeLayer) else outgoing_norms(layer, self.q)

    def report(self, layer: Layer, kept: Tensor) -> dict[str, Any]:
        """Sparsity of the layer before this step and, for edges, what theory says and data show of the removed part."""
        if not isinstance(layer, EdgeLayer):
            return sparsity_report(outgoing_norms(layer, self.q)[None], None, self.q)
        report = sparsity_report(layer.weight, layer.live, self.q)
        grouped = layer.weight.shape[1] != _inputs(layer)
        second = None if grouped or layer.weight.shape[1] > self.measure_up_to else layer.moments.second
        return report | removal_report(layer.weight * layer.live, kept, self.q, second)


def sparsity_report(weight: Tensor, live: Tensor | None, q: float) -> dict[str, float]:
    """PQ index (0.5, 1) and Gini index of a layer's live weights; effective counts over its rows."""
    counts = lq_effective_count(weight, q, live)
    flat = None if live is None else live.reshape(-1)
    return {
        "pq_index": float(pq_index(weight.reshape(-1), live=flat)),
        "gini": float(gini(weight.reshape(-1), flat)),
        "lq_count_mean": float(counts.mean()),
        "lq_count_min": float(counts.min()),
        "lq_count_max": float(counts.max()),
    }


def removal_report(weight: Tensor, mask: Tensor, q: float, second: Tensor | None = None) -> dict[str, float]:
    """Bound and value of what thresholding removes, as root mean squares over the rows of a layer.

    ``tail`` is ‖w - w_S‖₂; with the second moment of the inputs also ``output_error``, the error of the pre-activation.
    """
    change = weight * ~mask
    kept = mask.sum(1).clamp(min=1)  # the bound needs k >= 1; an emptied row is bounded by its own norm
    empty = mask.sum(1) == 0
    bound = torch.where(empty, weight.norm(dim=1), tail_bound(weight, q, kept))
    report = {"tail": _mean_square(change.norm(dim=1)), "tail_bound": _mean_square(bound)}
    if second is not None:
        exact = output_error(change, second)
        bound = torch.where(empty, exact, output_tail_bound(weight, q, kept, second))
        report |= {"output_error": _mean_square(exact), "output_bound": _mean_square(bound)}
    return report


def matching_pursuit(target: Tensor, second: Tensor, k: int) -> Tensor:
    """Indices of at most ``k`` inputs that orthogonal matching pursuit picks for an output of covariance ``target``.

    Args:
        target: (d,) covariance M w of the output with the inputs.
        second: (d, d) second moment M.
        k: number of inputs; fewer are returned when fewer explain the output.
    """
    from sklearn.linear_model import orthogonal_mp_gram

    usable, gram, right = _unit_variance(target, second)
    k = min(k, len(usable))
    if k == 0:
        return usable[:0]
    with warnings.catch_warnings():  # stops early, with a warning, once the output is explained
        warnings.simplefilter("ignore", RuntimeWarning)
        coefficients = orthogonal_mp_gram(gram.numpy(), right.numpy(), n_nonzero_coefs=k)
    return usable[torch.from_numpy(coefficients).nonzero().squeeze(1)]


def lasso_path(target: Tensor, second: Tensor, k: int) -> Tensor:
    """Indices of at most ``k`` inputs: the last point of the lasso path (LARS) with no more than k nonzero weights.

    Arguments as for :func:`matching_pursuit`.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import lars_path_gram

    usable, gram, right = _unit_variance(target, second)
    if min(k, len(usable)) == 0:
        return usable[:0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        _, _, path = lars_path_gram(right.numpy(), gram.numpy(), n_samples=1, max_iter=4 * k, method="lasso")
    path = torch.from_numpy(path)  # (usable, points)
    point = int(((path != 0).sum(0) <= k).nonzero().max())
    return usable[path[:, point].nonzero().squeeze(1)]


class RegressionSelection(Selection[EdgeLayer]):
    """Keeps the edges that sparse regression of each neuron's pre-activation on its inputs picks. For small layers.

    A count for the whole layer is divided among neurons as magnitude would. Where the regression explains a neuron with
    fewer edges than it may keep, its largest other weights fill up.

    Args:
        how: ``matching_pursuit`` or ``lasso``.
        backward: from the output layer to the input; neurons that no later layer reads get no edges, and the neurons of
            the same layer that are read share theirs. Only between layers that follow each other directly.
        largest: largest number of inputs of a neuron; layers above are skipped with an error.
    """

    def __init__(self, how: str = "matching_pursuit", backward: bool = False, largest: int = 1024) -> None:
        if how not in ("matching_pursuit", "lasso"):
            raise BadInput(f"selection.how={how} is unknown; choose matching_pursuit or lasso")
        self.pick = matching_pursuit if how == "matching_pursuit" else lasso_path
        self.backward, self.largest = backward, largest

    def select(self, layer: EdgeLayer, k: Count) -> Tensor:
        """Mask (out, d) with exactly the given counts."""
        size = layer.weight.shape[1]
        if size > self.largest:
            raise Skipped(
                f"{layer.name} has {size} inputs per neuron; sparse regression treats layers with at most "
                f"{self.largest}: set selection.largest higher, or use method=lq"
            )
        magnitude = layer.weight.abs().masked_fill(~layer.live, -torch.inf)
        counts = largest_mask(magnitude, k).sum(1) if isinstance(k, int) else k
        weight, seconds = (layer.weight * layer.live).cpu(), [own.second.cpu() for own in layer.moments_of_groups]
        target = torch.cat([own @ second for own, second in zip(weight.chunk(layer.groups), seconds, strict=True)])
        live, rows = layer.live.cpu(), len(weight) // layer.groups
        preferred = torch.zeros_like(live)
        for row in track(range(len(weight)), f"sparse regression of {layer.name}"):
            alive = live[row].nonzero().squeeze(1)
            second = seconds[row // rows]
            picked = self.pick(target[row, alive], second[alive][:, alive], int(counts[row]))
            preferred[row, alive[picked]] = True
        preferred = preferred.to(magnitude.device)
        # picked edges outrank every magnitude; the magnitude decides among the others
        return largest_mask(torch.where(preferred, magnitude + 2 * layer.weight.abs().max() + 1, magnitude), counts)

    def select_all(self, layers: Sequence[EdgeLayer], counts: Mapping[str, Count]) -> dict[str, Tensor]:
        """Masks of all layers; in backward order a neuron that no kept edge reads gets no edges."""
        if not self.backward:
            return super().select_all(layers, counts)
        masks: dict[str, Tensor] = {}
        later: EdgeLayer | None = None
        for layer in reversed(layers):
            count = counts[layer.name]
            if later is not None and _inputs(later) % len(layer.weight) == 0:
                read = torch.cat([own.any(0) for own in masks[later.name].chunk(later.groups)])
                read = read.reshape(len(layer.weight), -1).any(1)
                if isinstance(count, int):
                    count = largest_mask(layer.weight.abs().masked_fill(~layer.live, -torch.inf), count).sum(1)
                count = hand_over(count, read, layer.live.sum(1))
            masks[layer.name] = self.select(layer, count)
            later = layer
        return {layer.name: masks[layer.name] for layer in layers}


def hand_over(counts: Tensor, read: Tensor, size: Tensor) -> Tensor:
    """Counts (n,) with those of unread neurons given to the read ones, as far as these have room; the sum stays."""
    if bool(read.all()) or not bool(read.any()):
        return counts
    result = counts * read
    spare = int(counts.sum() - result.sum())
    room = (size - result).clamp(min=0) * read
    given = torch.floor(room.double() * min(1.0, spare / max(int(room.sum()), 1))).long()
    rest = spare - int(given.sum())
    left = room - given
    # one by one in order of index: at most one weight per neuron is still owed by rounding
    given += (left > 0) & ((left > 0).cumsum(0) <= rest)
    # whatever the read neurons cannot take stays with the unread ones
    owed = spare - int(given.sum())
    unread = counts * ~read
    before = unread.cumsum(0) - unread
    return result + given + (owed - before).clamp(min=0).minimum(unread)


def _unit_variance(target: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs that are not constantly zero, and the problem scaled so that each has mean square 1."""
    scale = second.diagonal().clamp(min=0).sqrt()
    largest_scale = float(scale.max()) if len(scale) else 0.0  # a neuron may have lost all its edges in earlier steps
    usable = (scale > 1e-12 * max(largest_scale, 1e-300)).nonzero().squeeze(1)
    scale = scale[usable]
    gram = second[usable][:, usable] / torch.outer(scale, scale)
    return usable, gram, target[usable] / scale


def _inputs(layer: EdgeLayer) -> int:
    """Features of the layer's unfolded input: d unless the convolution is grouped."""
    return layer.weight.shape[1] * layer.groups


def _mean_square(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
