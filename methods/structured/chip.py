"""CHIP removes first the channels that the others can replace.

Sui, Yin, Xie, Phan, Zonouz and Yuan, "CHIP: CHannel Independence-based Pruning for Compact Neural Networks", NeurIPS
2021. With A (m, p) the feature maps of one sample, one row per channel and p positions, a channel's independence is
the decrease of the nuclear norm (the sum of the singular values) when its row is set to zero,

    CI_i = ||A||_* - ||M_i A||_*                                             (equation 3, one channel at a time)

averaged over samples. Channels of small independence are linearly expressed by others. The authors take 128 x 5 images
and remove the same fraction of each stage's channels, as tables of their repository list them.

The norms come from the eigenvalues of the smaller Gram matrix, ||A||_* = Tr (A A^T)^(1/2) = Tr (A^T A)^(1/2): setting a
row a of A to zero takes a row and a column from the first, and a a^T from the second. The maps are those that the
readers take in, behind activation and pooling; several readers are averaged. In fully connected layers p = 1, and CI is
the decrease of the vector's length.
"""

import torch
from torch import Tensor

from methods.errors import BadInput
from methods.layers.seen import NodeLayer
from methods.progress import track
from methods.selection import Selection

ENTRIES = 2**24  # of the Gram matrices decomposed at once: 128 MiB in float64


def independence(maps: Tensor) -> Tensor:
    """(m,) decrease of the nuclear norm of the (n, m, p) ``maps`` without each row, averaged over n; float64."""
    maps = maps.double()
    size, positions = maps.shape[1:]
    losses = torch.zeros(size, dtype=torch.float64, device=maps.device)
    others = torch.ones(size, size, dtype=torch.bool, device=maps.device).fill_diagonal_(False)
    columns = others.nonzero()[:, 1].view(size, size - 1)
    at_once = max(1, ENTRIES // min(size, positions) ** 2)
    for own in maps:
        gram = own @ own.T if size <= positions else own.T @ own
        whole = _nuclear(gram)
        for rows in torch.arange(size, device=maps.device).split(at_once):
            if size <= positions:
                left = columns[rows]
                without = gram[left[:, :, None], left[:, None, :]]
            else:
                without = gram - own[rows][:, :, None] * own[rows][:, None, :]
            losses[rows] += whole - _nuclear(without)
    return losses / len(maps)


def _nuclear(grams: Tensor) -> Tensor:
    """(...,) sums of the square roots of the eigenvalues of (..., s, s) Gram matrices."""
    return torch.linalg.eigvalsh(grams).clamp_min(0).sqrt().sum(-1)


class CHIPSelection(Selection[NodeLayer]):
    """Keeps the nodes whose activations the others cannot express.

    Args:
        samples: of the calibration set whose maps are decomposed; each takes m eigendecompositions of size m.
    """

    def __init__(self, samples: int = 32) -> None:
        if samples < 1:
            raise BadInput(f"selection.samples={samples} is not a number of samples; expected 1 or more: type 32")
        self.samples = samples

    def scores(self, layer: NodeLayer) -> Tensor:
        """(m,) channel independence, averaged over samples and readers."""
        total = torch.zeros(layer.size, dtype=torch.float64, device=layer.incoming.device)
        for place, reader in enumerate(layer.group.readers):
            maps = self._maps(layer, place, reader.columns.shape[1])
            for part in track(maps.split(8), f"channel independence of {layer.name}"):
                total += independence(part) * len(part) / len(maps)
        return total / len(layer.group.readers)

    def _maps(self, layer: NodeLayer, place: int, repeat: int) -> Tensor:
        """(n, m, p) what a reader takes in, sample by sample."""
        taken: list[Tensor] = []
        for rows, (inputs, _) in zip(layer.activations(place), layer.calibration.batches(), strict=True):
            # (m, repeat, samples, positions)
            parts = rows.view(layer.size, repeat, len(inputs), -1).permute(2, 0, 1, 3).flatten(2)
            taken.append(parts)
            if sum(map(len, taken)) >= self.samples:
                break
        return torch.cat(taken)[: self.samples]
