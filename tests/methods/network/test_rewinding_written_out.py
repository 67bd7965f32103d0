"""A network that is written out for pruning goes back to earlier weights of its own structure."""

import pytest
import torch
from networks import noise, whole_numbers
from torch import nn

from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.layers.statistics import Calibration
from methods.pruner import Pruner


class Answer(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent, self.head = nn.GRU(5, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.recurrent(x)[0]).mean(1)


@pytest.mark.hardware("an emulated device has no fused recurrent cells")
def test_the_pruner_rewinds_a_recurrent_layer_and_leaves_both_given_networks_as_they_were():
    torch.manual_seed(0)
    model, initial = Answer(), Answer()
    inputs, labels = noise(12, 4, 5, seed=2), whole_numbers(3, 12, seed=3)
    calibration = Calibration(inputs, labels, torch.arange(12), batch_size=6)
    pruned = Pruner(MagnitudeSelection()).prune(model, calibration, Budget("keep", 0.5), rewind=initial)
    rows = initial.recurrent.weight_ih_l0
    found = pruned.model.recurrent.weight_ih_l0
    assert type(model.recurrent) is type(initial.recurrent) is nn.GRU
    assert len(found) == 9 and all(bool((rows == row).all(1).any()) for row in found)
