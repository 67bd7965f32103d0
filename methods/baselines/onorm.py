r"""Prune nodes with small outgoing weights ("onorm").

T. He, Y. Fan, Y. Qian, T. Tan, K. Yu, "Reshaping deep neural network for fast decoding by node-pruning", ICASSP 2014;
the importance baseline of DIVNET (Mariet & Sra, ICLR 2016) and of Acharyya et al. (UAI 2021):

    onorm_i = (1/m) sum_j |W_ji|,    W (m outputs x nodes): weights with which the next layer reads node i.

For convolutions and flattened maps the mean also runs over the positions that read the node, and with several readers
over all of them (our extension; the papers have one linear reader).
"""

import torch
from torch import Tensor

from methods.errors import Skipped
from methods.layers.seen import NodeLayer
from methods.selection import Selection


def outgoing_norm(outgoing: list[Tensor]) -> Tensor:
    """Mean absolute outgoing weight per node, (m,).

    Args:
        outgoing: one (out, m, r) tensor per reader: r weights for each output unit and node.
    """
    total = torch.stack([weight.double().abs().sum((0, 2)) for weight in outgoing]).sum(0)
    return total / sum(weight.shape[0] * weight.shape[2] for weight in outgoing)


class OutgoingNormSelection(Selection[NodeLayer]):
    """Keeps the nodes whose outgoing weights are largest on average."""

    def scores(self, layer: NodeLayer) -> Tensor:
        """The onorm of each node, (m,)."""
        if not layer.outgoing:
            raise Skipped(f"no layer reads '{layer.name}', so its nodes have no outgoing norm; use method=magnitude")
        return outgoing_norm(layer.outgoing)
