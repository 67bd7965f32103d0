"""Sizes that meet a budget exactly are taken, and what has no units is not counted as if it had."""

import pytest
import torch
from networks import noise
from torch import nn

from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget, Cost
from methods.budgets.meeting import meet
from methods.layers.statistics import Calibration
from methods.pruner import Pruner


def test_of_the_layers_that_go_on_alone_the_one_that_ends_at_the_budget_is_taken():
    """One unit of the narrow layer costs a hundred of the wide one: it stays, and the wide one makes up for it."""

    def family(s):
        return {"narrow": 1 + (s >= 0.5), "wide": max(1, round(100 * s))}

    def cost(counts):
        return Cost(100.0 * counts["narrow"] + counts["wide"], 1.0, 1.0)

    counts, note = meet(Budget("keep", 0.6), family, cost, cost(family(1.0)))
    assert counts == {"narrow": 1, "wide": 80} and note is None


@pytest.mark.parametrize("parameters", [1, 16])
def test_an_activation_with_one_parameter_for_all_channels_loses_none(parameters):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.PReLU(parameters), nn.Linear(16, 3))
    data = Calibration(noise(32, 6), torch.arange(32) % 3)
    pruned = Pruner(MagnitudeSelection()).prune(model, data, Budget("keep", 0.5))
    left, total = (sum(each.numel() for each in network.parameters()) for network in (pruned.model, model))
    assert pruned.achieved["compression"] == pytest.approx(total / left)
    assert pruned.model[1].weight.numel() == (1 if parameters == 1 else 8)
