"""ThiNet: remove the channels whose sum contributes least to what the next layer computes.

Luo, Wu and Lin, "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression", ICCV 2017. An output entry
of the next layer is a sum of channel contributions, y = sum_j x_j. The removed channels T should contribute little:

    min_T  sum_samples (sum_{j in T} x_j)^2,    |T| = m - k,

solved greedily by growing T. The paper samples single output positions. Here the sum is evaluated for all samples at
once from second moments (our reconstruction): with S (m, m) the second moment of the nodes that the reader takes in and
W_i (out, m) its weights at kernel position i,

    Q = S * sum_i W_i^T W_i  (elementwise),    objective(T) = 1_T^T Q 1_T.

This is exact for linear layers; for k x k convolutions it leaves out correlations between kernel positions, as the
output loss of spectral pruning does. Several readers add up (our extension). The paper rescales the survivors by least
squares afterwards; here that is ``compensation=least_squares``, with a full matrix instead of one scale per channel.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.budgets.budget import Count
from methods.errors import BadInput
from methods.layers.seen import NodeLayer
from methods.selection import Selection

TIE = 1e-9
"""Costs this close, relative to the sizes of what was added up for them, are ties; the lower index stays."""


def contribution_matrix(seconds: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Q (m, m), with 1_T^T Q 1_T the mean squared contribution of the channels T to the readers' outputs.

    Args:
        seconds: per reader the (m, m) second moment of what it reads.
        weights: per reader its (out, m, r) weights.
    """
    total = torch.zeros_like(seconds[0], dtype=torch.float64)
    for second, weight in zip(seconds, weights, strict=True):
        gram = sum(weight[:, :, i].T @ weight[:, :, i] for i in range(weight.shape[2]))
        total += second * gram
    return total


def least_contribution(contributions: Tensor, k: int) -> Tensor:
    """Remove nodes greedily by 1_T^T Q 1_T until k are left; return these, sorted.

    Args:
        contributions: (m, m) Q.
        k: number of nodes that stay.
    """
    m = len(contributions)
    if not 0 <= k <= m:
        raise BadInput(f"{k} nodes to keep were asked of a layer with {m}; choose a number between 0 and {m}")
    gone = torch.tensor([node for node, _ in removals(contributions, m - k)], dtype=torch.int64)
    stays = torch.ones(m, dtype=torch.bool)
    stays[gone] = False
    return stays.nonzero().flatten().to(contributions.device)


def removals(contributions: Tensor, count: int) -> list[tuple[int, float]]:
    """The first ``count`` nodes that the greedy removal takes, each with the increase of 1_T^T Q 1_T.

    Args:
        contributions: (m, m) Q.
        count: number of nodes to remove.
    """
    m = len(contributions)
    cost = contributions.diagonal().clone()
    size = cost.abs()
    stays = torch.ones(m, dtype=torch.bool, device=contributions.device)
    taken = []
    for _ in range(count):
        open_cost = cost.masked_fill(~stays, torch.inf)
        best = open_cost.argmin()
        tied = stays & (open_cost <= open_cost[best] + TIE * torch.maximum(size, size[best]))
        gone = tied.nonzero()[-1, 0]
        taken.append((int(gone), float(cost[gone])))
        stays[gone] = False
        cost += 2 * contributions[gone]
        size += 2 * contributions[gone].abs()
    return taken


class ThiNetSelection(Selection[NodeLayer]):
    """Removes the nodes of least joint contribution to the readers and keeps the other k."""

    additive = True  # mean squared changes of the readers' outputs

    def select(self, layer: NodeLayer, k: Count) -> Tensor:
        """The k kept nodes, sorted."""
        return least_contribution(self._contributions(layer), int(k))

    def gains(self, layer: NodeLayer) -> Tensor:
        """(m,) decreases of the objective with the first kept node, the second, ...: the removals' costs backwards."""
        costs = [cost for _, cost in removals(self._contributions(layer), layer.size)]
        return torch.tensor(costs[::-1], dtype=torch.float64, device=layer.incoming.device)

    def _contributions(self, layer: NodeLayer) -> Tensor:
        return contribution_matrix([moments.second for moments in layer.moments], layer.outgoing)
