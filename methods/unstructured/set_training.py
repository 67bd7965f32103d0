"""SET, sparse evolutionary training, drops small weights and adds random ones after every epoch.

Mocanu, Mocanu, Stone, Nguyen, Gibescu and Liotta, "Scalable training of artificial neural networks with adaptive sparse
connectivity inspired by network science", Nature Communications 2018. The network starts with random masks at
Erdos-Renyi densities (``allocation=erdos_renyi``). After every epoch each layer loses the fraction zeta of its live
weights, those closest to zero on either side, and gets the same number at random places, with random values as at the
beginning: normal, with the spread that the layer's live weights had then. After the last epoch nothing is grown.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods.budgets.budget import Budget
from methods.errors import BadInput
from methods.layers.statistics import Calibration
from methods.pruner import Pruner
from methods.seeds import stream
from methods.sparse_training import Length
from methods.unstructured.training_masks import MaskTraining, with_largest


def without_extremes(live: Tensor, weight: Tensor, zeta: float) -> Tensor:
    """The live mask without the smallest positive and the largest negative weights, the fraction ``zeta`` of each."""
    kept = live.clone().flatten()
    for sign in (1, -1):
        side = (sign * weight > 0) & live
        count = int(zeta * int(side.sum()))
        values = (sign * weight).masked_fill(~side, torch.inf).flatten()
        kept[values.sort(stable=True).indices[:count]] = False
    return kept.view_as(live)


class SET(MaskTraining):
    """Trains from scratch with masks that lose small weights and get random ones.

    Args:
        fraction: zeta, of a layer's live weights that go after each epoch.
        end: fraction of the training after which the masks stay.
    """

    does = "trains from scratch with masks that lose small weights and get random ones"

    def __init__(self, fraction: float = 0.3, end: float = 1.0) -> None:
        if not 0 < fraction < 1 or not 0 < end <= 1:
            raise BadInput(
                f"schedule.fraction={fraction:g}, end={end:g}: expected fractions in (0, 1) and (0, 1]\n"
                "type schedule.fraction=0.3 schedule.end=1"
            )
        super().__init__()
        self.fraction, self.end = fraction, end
        self.spread: dict[str, float] = {}

    def prepare(
        self, pruner: Pruner, model: nn.Module, calibration: Calibration, budget: Budget, length: Length, seed: int
    ) -> None:
        """Take the first masks, and the spread of the initial weights in them."""
        super().prepare(pruner, model, calibration, budget, length, seed)
        for name, mask in self.masks.items():
            values = model.get_parameter(name).detach()[mask]
            self.spread[name] = float(values.square().mean().sqrt()) if len(values) else 0.0

    def due(self, step: int) -> bool:
        """At the last step of every epoch but the last one, up to the end."""
        done, rest = divmod(step + 1, self.length.per_epoch)
        return rest == 0 and done < self.length.epochs and done <= self.end * self.length.epochs

    def renew(self, model: nn.Module, optimizer: Optimizer, step: int) -> dict[str, Tensor]:
        """Drop weights close to zero, grow at random places."""
        renewed = {}
        for name, mask in self.masks.items():
            weight = model.get_parameter(name).detach()
            live = mask.to(weight.device)
            kept = without_extremes(live, weight, self.fraction)
            random = stream(self.seed, "set", name, step)
            places = torch.rand(weight.shape, generator=random).to(weight.device)
            values = torch.randn(weight.shape, generator=random).to(weight) * self.spread[name]
            renewed[name] = with_largest(kept, places, int(live.sum()) - int(kept.sum()))
            came = renewed[name] & ~kept
            weight[came] = values[came]
            state = optimizer.state.get(model.get_parameter(name), {})
            for value in state.values():  # also of those that went and came back
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    value[came] = 0
        return renewed
