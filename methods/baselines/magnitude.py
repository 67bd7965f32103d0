"""Magnitude pruning assumes that small weights matter little.

Edges are ranked by |w| (Han et al., 2015); nodes by the L1 (Li et al., 2017) or L2 norm of their incoming weights.
"""

from torch import Tensor

from methods.errors import BadInput
from methods.layers.seen import EdgeLayer, Layer
from methods.selection import Selection


class MagnitudeSelection(Selection[Layer]):
    """Keeps the units with the largest weights.

    Args:
        unit: ``node`` or ``edge``.
        norm: 1 or 2; the norm of a node's incoming weights (bias not included). Edges always use |w|.
    """

    def __init__(self, unit: str = "node", norm: int = 1) -> None:
        if norm not in (1, 2):
            raise BadInput(f"selection.norm={norm} is not a norm that magnitude pruning knows; choose 1 or 2")
        self.unit = unit
        self.norm = norm

    def scores(self, layer: Layer) -> Tensor:
        """Norm of the incoming weights (m,) for nodes, |w| (out, d) for edges."""
        if isinstance(layer, EdgeLayer):
            return layer.weight.abs()
        return layer.incoming.norm(p=self.norm, dim=1)
