"""SNIP scores a connection before training by how sensitive the loss is to its presence.

Lee, Ajanthan and Torr, "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019. With an
indicator c = 1 on every weight of a network at its initialisation, the sensitivity of a connection is

    |dL / dc_q|  =  |g_q w_q|,     g = dL / dw                                             (equations 4 to 6)

for the loss of a batch; the largest ones of all layers together stay, and the network is trained afterwards
(``schedule=before_training``). On a trained network this is a first-order Taylor score. Batch norms are in evaluation
mode here, which at the initialisation leaves their inputs as they are; the paper's networks run in training mode.
"""

from torch import Tensor

from methods.layers.seen import EdgeLayer
from methods.selection import Selection


class SNIPSelection(Selection[EdgeLayer]):
    """Keeps the weights to whose presence the mean loss over the calibration set is most sensitive."""

    additive = True  # changes of the loss, to first order

    def scores(self, layer: EdgeLayer) -> Tensor:
        """(out, d) |gradient x weight|, in units of the loss."""
        return (layer.gradient * layer.weight).abs()
