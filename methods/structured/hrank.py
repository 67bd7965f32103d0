"""HRank: channels whose feature maps have low rank carry little information.

Lin, Ji, Wang, Zhang, Zhang, Tian and Shao, "HRank: Filter Pruning using High-Rank Feature Map", CVPR 2020. With
o_j(x) (h, w) the map of channel j for sample x, the score is

    E_x rank(o_j(x))                                                                    (equation 5)

which hardly depends on the samples, so that a few hundred suffice. The authors hook the activations behind the layers;
here the maps are those that the readers take in, behind activation and pooling. A reader of flattened maps sees them as
rows; if their number of positions is a square number, the map is taken to be square. A node without positions (a
neuron) has rank 1 unless it is zero. Several readers are averaged.
"""

import math

import torch
from torch import Tensor

from methods.errors import BadInput
from methods.layers.seen import NodeLayer
from methods.network.reading import evaluating, listening
from methods.selection import Selection


def as_maps(read: Tensor, columns: Tensor) -> Tensor:
    """(n, m, h, w) feature maps of m nodes in the tensor that a layer reads.

    Args:
        read: (n, channels, h, w), (n, channels, length), (n, features) or (n, tokens, features).
        columns: (m, r) channels or features that carry each node.
    """
    columns = columns.to(read.device)
    if read.dim() == 4:
        return read[:, columns].flatten(2, 3) if columns.shape[1] > 1 else read[:, columns[:, 0]]
    if read.dim() == 3:  # tokens: positions come first
        return read[..., columns].permute(0, 2, 1, 3)
    maps = read[:, columns]
    side = math.isqrt(columns.shape[1])
    return maps.unflatten(2, (side, side)) if side**2 == columns.shape[1] else maps.unsqueeze(2)


class HRankSelection(Selection[NodeLayer]):
    """Keeps the nodes whose feature maps have the highest rank.

    Args:
        samples: of the calibration set over which the rank is averaged.
    """

    def __init__(self, samples: int = 256) -> None:
        if samples < 1:
            raise BadInput(f"selection.samples={samples} is not a number of samples; expected 1 or more: type 256")
        self.samples = samples

    @torch.no_grad()
    def scores(self, layer: NodeLayer) -> Tensor:
        """(m,) mean rank of the maps."""
        inputs = layer.calibration.inputs[: self.samples]
        total = torch.zeros(layer.size, dtype=torch.float64, device=layer.incoming.device)
        for reader in layer.group.readers:
            maps: list[Tensor] = []
            with evaluating(layer.model), listening(layer.model, {reader.name: maps.append}):
                for part in inputs.split(layer.calibration.batch_size):
                    layer.model(part)
            for read in maps:
                total += torch.linalg.matrix_rank(as_maps(read, reader.columns)).double().sum(0)
        return total / (len(inputs) * len(layer.group.readers))
