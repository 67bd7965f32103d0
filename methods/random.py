"""Random pruning: the control that every method has to beat, for nodes and for edges."""

import torch
from torch import Tensor

from methods.layers import Layer
from methods.selection import Selection


class RandomSelection(Selection):
    """Keeps units drawn uniformly without replacement, each layer from its own random stream.

    Args:
        unit: ``node`` or ``edge``.
    """

    def __init__(self, unit: str = "node") -> None:
        self.unit = unit

    def scores(self, layer: Layer) -> Tensor:
        """Independent uniform numbers: (m,) for nodes, (out, d) for edges."""
        weight = layer.incoming if layer.unit == "node" else layer.weight
        shape = (layer.size,) if layer.unit == "node" else weight.shape
        return torch.rand(shape, generator=layer.generator, dtype=torch.float64).to(weight.device)
