"""RigL drops small weights and adds those with large gradients while the network trains from scratch.

Evci, Gale, Menick, Castro and Elsen, "Rigging the Lottery: Making All Tickets Winners", ICML 2020. The network starts
with random masks, at Erdos-Renyi-kernel densities (``allocation=erdos_renyi``). Every Delta T steps, up to a part of
the training, each layer drops of its live weights the fraction

    alpha / 2 (1 + cos(pi t / T_end))

with the smallest magnitude, and gets the same number of others where the dense gradient of the batch is largest in
magnitude; they begin at 0, without momentum. In the paper no weight is trained in that step; here it is also a step of
the optimizer.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.optim import Optimizer

from methods.errors import BadInput
from methods.unstructured.training_masks import MaskTraining, with_largest, without_smallest


class RigL(MaskTraining):
    """Trains from scratch with masks that follow magnitudes and gradients.

    Args:
        fraction: alpha, of the live weights of a layer that go at the first change.
        every: Delta T, steps between changes.
        end: fraction of the training after which the masks stay.
    """

    does = "trains from scratch with masks that follow weights and gradients"

    def __init__(self, fraction: float = 0.3, every: int = 100, end: float = 0.75) -> None:
        if not 0 < fraction < 1 or every < 1 or not 0 < end <= 1:
            raise BadInput(
                f"schedule.fraction={fraction:g}, every={every}, end={end:g}: expected a fraction in (0, 1), a number "
                "of steps, and a fraction in (0, 1]\ntype schedule.fraction=0.3 schedule.every=100 schedule.end=0.75"
            )
        super().__init__()
        self.fraction, self.every, self.end = fraction, every, end
        self.gradients: dict[str, Tensor] = {}

    def due(self, step: int) -> bool:
        """Every ``every`` steps, but not at the first one, nor after the end."""
        return step > 0 and step % self.every == 0 and step < self.end * self.length.steps

    def dropped(self, step: int) -> float:
        """Fraction of a layer's live weights that goes at a step."""
        return self.fraction / 2 * (1 + math.cos(math.pi * step / (self.end * self.length.steps)))

    def observe(self, model: nn.Module, step: int) -> None:
        """Keep the dense gradients of a step at which the masks change."""
        self.gradients = {}
        if self.due(step):
            for name in self.masks:
                slope = model.get_parameter(name).grad
                assert slope is not None  # the loss depends on every layer that is called
                self.gradients[name] = slope.detach().clone()

    def renew(self, model: nn.Module, optimizer: Optimizer, step: int) -> dict[str, Tensor]:
        """Drop small weights, grow where gradients are large."""
        share, renewed = self.dropped(step), {}
        for name, mask in self.masks.items():
            weight = model.get_parameter(name).detach()
            live = mask.to(weight.device)
            count = min(int(share * int(live.sum())), int((~live).sum()))
            kept = without_smallest(live, weight, count)
            renewed[name] = with_largest(kept, self.gradients[name].abs(), count)
            weight.mul_(live)  # new weights begin at zero, whatever the optimizer did to them
        self.gradients = {}
        return renewed
