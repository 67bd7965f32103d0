"""LAMP scales magnitudes so that they can be compared between layers.

Lee, Park, Mo, Ahn and Shin, "Layer-Adaptive Sparsity for the Magnitude-Based Pruning", ICLR 2021. Within a layer, with
the weights in ascending order of their squares,

    score(u) = w_u^2 / sum_{v >= u} w_v^2                                                    (equation 4)

the share of a weight in those that are left once all smaller ones have gone. The largest weight of every layer scores
1, so that no layer is emptied by the ranking over all layers that follows (``allocation=global``).
"""

from torch import Tensor, zeros_like

from methods.layers.seen import EdgeLayer
from methods.selection import Selection


def lamp_scores(weight: Tensor, live: Tensor) -> Tensor:
    """Shares of the squared weights that are not smaller, shaped like ``weight``; 0 where ``live`` is False."""
    squares = weight.square().masked_fill(~live, 0).flatten()
    ascending = squares.sort(stable=True)
    left = ascending.values.flip(0).cumsum(0).flip(0)
    shares = ascending.values / left.where(left > 0, 1)
    return zeros_like(squares).scatter_(0, ascending.indices, shares).view_as(weight)


class LAMPSelection(Selection[EdgeLayer]):
    """Keeps the weights with the largest share in the squares of all weights that are not smaller."""

    def scores(self, layer: EdgeLayer) -> Tensor:
        """(out, d) shares in [0, 1]."""
        return lamp_scores(layer.weight, layer.live)
