"""Spectral pruning of Elman's recurrent networks.

Furuya, Suetake, Taniguchi, Kusumoto, Saiin and Daimon, "Spectral Pruning for Recurrent Neural Networks", AISTATS 2022,
arXiv 2105.10832. The network, with h_0 = 0:

    h_t = sigma(W^x x_t + W^h h_(t-1) + b) in R^m,    y_t = W^o h_t + b^o

The hidden state is one group of nodes with the non-centred covariance averaged over time,

    S = 1/(n T) sum_i sum_t h_t^i (h_t^i)^T,    A_J = S_FJ (S_JJ + diag tau)^-1,    R_J = S - A_J S_JF,

and the kept nodes J minimise theta_1 L^A + theta_2 L^o + theta_3 L^h, the thetas summing to one:

    L^A(J) = Tr[R_J]                             what the state loses
    L^o(J) = Tr[W^o R_J W^oT]                    what the output loses
    L^h(J) = Tr[W^h_JF R_J W^h_JF^T]             what the rest of the next state loses; its metric depends on J

Surgery: W^x_J, b_J, W^h_JF A_J, W^o A_J; b^o stays. It is what the pruner does to any group of nodes whose readers
include one of its writers (``methods.network.coupling``), with the moments of all steps and readers pooled.

The papers' text was not at hand: the rows of W^o and W^h are scaled here as those of Z in
``methods.spectral.selection`` (q uniform over the outputs, and over the kept k of the m states: sqrt(m / out) and
sqrt(m / k) over the largest row norm), which makes the three losses similar in size. That scaling and the greedy search
are our reconstruction.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from methods.budgets.budget import Count
from methods.errors import BadInput, Skipped
from methods.layers.seen import NodeLayer
from methods.spectral.greedy import EXHAUSTED, TIE, checked
from methods.spectral.selection import SpectralSelection, reconstruction_matrix

THIRD = 1 / 3


def time_averaged_covariance(states: Tensor) -> Tensor:
    """(m, m) S of hidden states (n, T, m) without h_0."""
    flat = states.double().flatten(0, 1)
    return flat.T @ flat / len(flat)


def recurrent_losses(
    covariance: Tensor, kept: Tensor, ridge: Tensor | float | None, recurrent: Tensor, output: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """L^A, L^o and L^h of the kept nodes.

    Args:
        covariance: (m, m) S.
        kept: (k,) J.
        ridge: (k,) tau in the order of ``kept``, or one number.
        recurrent: (m, m) W^h, scaled or not.
        output: (out, m) W^o, scaled or not.
    """
    covariance = covariance.double()
    residual = covariance - reconstruction_matrix(covariance, kept, ridge) @ covariance[kept]
    rows = recurrent[kept]
    return residual.trace(), ((output @ residual) * output).sum(), ((rows @ residual) * rows).sum()


def greedy_states(
    covariance: Tensor,
    k: int,
    ridge: Tensor | float | None,
    recurrent: Tensor,
    output: Tensor,
    thetas: Sequence[float],
) -> Tensor:
    """(k,) nodes in the order of picking: each gives the smallest theta_1 L^A + theta_2 L^o + theta_3 L^h.

    With r = R e_j, d = R_jj + tau_j and the metric M of the nodes picked so far, picking j changes the loss by
    - r^T M r / d + theta_3 (w_j^T R w_j - (w_j^T r)^2 / d): j's own row of W^h has to be predicted from then on.
    As that may be positive, the loss is no longer monotone. Ties go to the lowest index; a node that the picked ones
    determine exactly (d = 0) can only add its own row's loss; dead nodes come last. O(m^3) a step.

    Args:
        covariance: (m, m) S.
        k: nodes to keep.
        ridge: (m,) tau, or one number.
        recurrent: (m, m) scaled W^h.
        output: (out, m) scaled W^o.
        thetas: the three shares.
    """
    covariance, tau = checked(covariance, k, ridge)
    first, second, third = thetas
    metric = first * torch.eye(len(covariance), dtype=torch.float64, device=covariance.device)
    metric += second * output.T @ output
    residual, moments = covariance.clone(), covariance.diagonal()
    order: list[int] = []
    closed = torch.zeros_like(moments, dtype=torch.bool)
    for _ in range(k):
        pivot = residual.diagonal() + tau
        usable = pivot > EXHAUSTED * moments
        inverse = torch.where(usable, 1 / pivot, torch.zeros_like(pivot))
        seen = recurrent @ residual
        change = third * ((seen * recurrent).sum(1) - seen.diagonal().square() * inverse)
        change -= ((metric @ residual) * residual).sum(0) * inverse
        change = torch.where(moments > 0, change, change.max().clamp(min=0) + moments.max() + 1)
        change = change.masked_fill(closed, torch.inf)
        best = change.min()
        node = int((change <= best + TIE * best.abs()).nonzero()[0])
        if bool(usable[node]):
            column = residual[:, node].clone()
            residual.addr_(column, column, alpha=-float(inverse[node]))
        metric.addr_(recurrent[node], recurrent[node], alpha=third)
        closed[node] = True
        order.append(node)
    return torch.tensor(order, dtype=torch.int64, device=covariance.device)


def pruned_elman(
    weights: tuple[Tensor, Tensor, Tensor, Tensor], kept: Tensor, matrix: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W^x_J, b_J, W^h_JF A and W^o A for weights (W^x, b, W^h, W^o)."""
    drive, bias, recurrent, output = weights
    return drive[kept], bias[kept], recurrent[kept] @ matrix, output @ matrix


class RecurrentSpectralSelection(SpectralSelection):
    """Keeps hidden states from which all states, the output and the next state can be predicted.

    A group of nodes that is not recurrent is treated as :class:`SpectralSelection` does with theta = theta_1, all its
    readers counting as outputs.

    Args:
        thetas: theta_1, theta_2, theta_3, the shares of L^A, L^o and L^h; they must sum to one.
        lam: ridge lambda relative to the trace of the covariance.
        constraint: ``log`` reports the constraint sum_J 1/tau' <= (5/3) m k, ``off`` leaves it out.
    """

    def __init__(
        self, thetas: Sequence[float] = (THIRD, THIRD, THIRD), lam: float = 1e-6, constraint: str = "log"
    ) -> None:
        if len(thetas) != 3 or min(thetas) < 0 or abs(sum(thetas) - 1) > 1e-6:
            raise BadInput(
                f"selection.thetas={list(thetas)}; expected three shares, 0 or more, that sum to 1: "
                "of the state's, the output's and the next state's loss; for instance [0.2,0.4,0.4]"
            )
        if constraint == "enforce":
            raise BadInput("selection.constraint=enforce is not offered for recurrent networks; choose log or off")
        super().__init__(min(1.0, float(thetas[0])), lam, constraint=constraint)
        self.thetas = tuple(float(theta) for theta in thetas)

    def select(self, layer: NodeLayer, k: Count) -> Tensor:
        """The k kept nodes, sorted."""
        k = int(k)
        if not layer.group.recurrent or k == layer.size:
            return super().select(layer, k)
        covariance = layer.covariance
        ridge = self._ridge(covariance, self.leverage(layer), k)
        recurrent, output = scaled_readers(layer, k)
        return greedy_states(covariance, k, ridge, recurrent, output, self.thetas).sort().values

    def report(self, layer: NodeLayer, kept: Tensor) -> dict[str, Any]:
        """The numbers of :class:`SpectralSelection`, and the three losses relative to keeping nothing."""
        result = super().report(layer, kept)
        if not layer.group.recurrent:
            return result
        recurrent, output = scaled_readers(layer, len(kept))
        losses = recurrent_losses(layer.covariance, kept, self.ridge(layer, kept), recurrent, output)
        rows = recurrent[kept]
        wholes = layer.covariance.trace(), _form(output, layer.covariance), _form(rows, layer.covariance)
        names = ("state_loss", "readout_loss", "next_state_loss")
        relative = [float(loss / whole) if whole > 0 else 0.0 for loss, whole in zip(losses, wholes, strict=True)]
        return result | dict(zip(names, relative, strict=True))


def scaled_readers(layer: NodeLayer, k: int) -> tuple[Tensor, Tensor]:
    """W^h (m, m) and the rows of all other readers (out, m) of a recurrent group, with the module's scaling."""
    own: list[Tensor] = []
    others: list[Tensor] = []
    for path, weight in zip(layer.readers, layer.outgoing, strict=True):
        rows = weight.transpose(1, 2).reshape(-1, layer.size)
        (own if path in layer.writers else others).append(rows)
    if len(own) != 1 or len(own[0]) != layer.size:
        raise Skipped(f"{layer.name}: expected one recurrent weight; for gated or stacked cells use method=spectral")
    output = torch.cat(others) if others else own[0].new_zeros(1, layer.size)
    return _scaled(own[0], layer.size / k), _scaled(output, layer.size / len(output))


def _scaled(rows: Tensor, share: float) -> Tensor:
    return rows * share**0.5 / rows.norm(dim=1).max().clamp(min=torch.finfo(rows.dtype).tiny)


def _form(rows: Tensor, covariance: Tensor) -> Tensor:
    return ((rows @ covariance) * rows).sum()
