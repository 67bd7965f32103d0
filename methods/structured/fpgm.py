"""FPGM removes filters near the geometric median of their layer, which the others can replace.

He, Liu, Wang, Hu and Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration",
CVPR 2019. The geometric median x* of the filters F_1 ... F_m minimises sum_j ||x - F_j||_2. Instead of x* the paper
takes the filters that are themselves nearest to it, those with the smallest

    g(F_i) = sum_j ||F_i - F_j||_2                                                            (section 3.3)

and removes them. Its authors prune softly, while the network trains, at the same rate in every layer; here it is one
criterion among others, with any schedule and allocation.
"""

from torch import Tensor, cdist

from methods.layers.seen import NodeLayer
from methods.selection import Selection


def summed_distances(rows: Tensor) -> Tensor:
    """(m,) sum of the Euclidean distances of each of the (m, d) ``rows`` to all rows.

    Distances are taken from differences: from inner products, equal filters would not be at distance 0.
    """
    return cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


class FPGMSelection(Selection[NodeLayer]):
    """Keeps the nodes whose incoming weights are farthest from those of the others."""

    def scores(self, layer: NodeLayer) -> Tensor:
        """(m,) summed distances between incoming weights, biases not included."""
        return summed_distances(layer.incoming)
