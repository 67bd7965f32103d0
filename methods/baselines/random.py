"""Random pruning: the control that every method has to beat, for nodes and for edges."""

import torch
from torch import Tensor

from methods.layers.seen import EdgeLayer, Layer
from methods.selection import Selection


class RandomSelection(Selection[Layer]):
    """Keeps units drawn uniformly without replacement, each layer from its own random stream.

    Args:
        unit: ``node`` or ``edge``.
    """

    def __init__(self, unit: str = "node") -> None:
        self.unit = unit

    def scores(self, layer: Layer) -> Tensor:
        """Independent uniform numbers: (m,) for nodes, (out, d) for edges."""
        weight = layer.weight if isinstance(layer, EdgeLayer) else layer.incoming
        shape = weight.shape if isinstance(layer, EdgeLayer) else (layer.size,)
        return torch.rand(shape, generator=layer.generator, dtype=torch.float64).to(weight.device)
