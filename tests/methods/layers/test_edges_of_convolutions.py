"""Single weights of convolutions, plain and transposed, of any number of groups: masks, n:m, counts and costs."""

import itertools

import pytest
import torch
from networks import noise
from torch import nn

from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.layers.statistics import Calibration
from methods.network.counting import products
from methods.network.kinds.registry import kind_of
from methods.pruner import Pruner
from methods.unstructured.n_m import NM
from methods.unstructured.wanda import WandaSelection

CLASSES = {
    (1, False): nn.Conv1d, (2, False): nn.Conv2d, (3, False): nn.Conv3d,
    (1, True): nn.ConvTranspose1d, (2, True): nn.ConvTranspose2d, (3, True): nn.ConvTranspose3d,
}  # fmt: skip
SIDES = (5, 4, 3)
CASES = list(itertools.product((1, 2, 3), (False, True), (1, 2, 8)))


def made(dimensions, transposed, groups):
    """Two convolutions of 8 channels, the second one of the case, each group of which writes twice what it reads."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        first = CLASSES[dimensions, False](2, 8, 1)
        second = CLASSES[dimensions, transposed](8, 16, 2, 2, 1, groups=groups)
        features = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(1))
        width = features(torch.zeros(1, 2, *SIDES[:dimensions])).shape[1]
        return features.append(nn.Linear(width, 3))


def pruned(dimensions, transposed, groups, selection, budget, allocation=None):
    model, inputs = made(dimensions, transposed, groups), noise(12, 2, *SIDES[:dimensions])
    pruner = Pruner(allocation.imposed_on(selection), allocation) if allocation else Pruner(selection)
    return model, pruner.prune(model, Calibration(inputs, torch.arange(12) % 3), Budget(*budget)), inputs


def matrix(weight, transposed, groups):
    """(out, in / groups, kernel), written with loops."""
    if not transposed:
        return weight.flatten(2)
    inputs, outputs = weight.shape[0] // groups, weight.shape[1]
    rows = [
        torch.stack([weight[group * inputs + read, out].flatten() for read in range(inputs)])
        for group in range(groups)
        for out in range(outputs)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize(("dimensions", "transposed", "groups"), CASES)
def test_the_smallest_weights_go_and_costs_are_those_that_are_counted(dimensions, transposed, groups):
    model, result, inputs = pruned(dimensions, transposed, groups, MagnitudeSelection("edge"), ("keep", 0.5))
    old, new = model[2].weight.detach(), result.model[2].weight.detach()
    mask = result.masks["2.weight"]
    assert mask.shape == old.shape and int(mask.sum()) == old.numel() // 2
    assert torch.equal(new, old * mask)
    rows = matrix(old.abs(), transposed, groups)
    assert torch.equal(rows.flatten(1), kind_of(model[2]).matrix(model[2]).abs().flatten(1))
    kept = matrix(mask, transposed, groups)
    assert float(rows[kept].min()) >= float(rows[~kept].max())
    with torch.no_grad():
        written = result.model[:3](inputs[:1])
        uses = {"0": SIDES[:dimensions], "2": SIDES[:dimensions] if transposed else written.shape[2:], "5": ()}
    macs = sum(
        int(result.masks[f"{path}.weight"].sum()) * int(torch.tensor(each).prod()) for path, each in uses.items()
    )
    dense = sum(model[int(path)].weight.numel() * int(torch.tensor(each).prod()) for path, each in uses.items())
    assert result.achieved["speedup"] == pytest.approx(dense / macs)
    # a product with a mask is counted as a whole, so that of rounding down
    assert sum(each.effective for each in products(result.model, inputs)) == pytest.approx(macs, abs=3)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    left = sum(int(parameter.count_nonzero()) for parameter in result.model.parameters())
    assert result.achieved["compression"] == pytest.approx(parameters / left)


@pytest.mark.parametrize("selection", [lambda: MagnitudeSelection("edge"), WandaSelection], ids=["magnitude", "wanda"])
@pytest.mark.parametrize(("dimensions", "transposed", "groups"), [case for case in CASES if case[2] < 8])
def test_two_of_four_inputs_of_an_output_stay_at_each_place_of_the_kernel(dimensions, transposed, groups, selection):
    model, result, inputs = pruned(dimensions, transposed, groups, selection(), ("keep", 0.5), NM(2, 4))
    kept = matrix(result.masks["2.weight"], transposed, groups)
    out, inputs_of_a_group, kernel = kept.shape
    assert inputs_of_a_group == 8 // groups
    for unit, place, first in itertools.product(range(out), range(kernel), range(0, inputs_of_a_group, 4)):
        assert int(kept[unit, first : first + 4, place].sum()) == 2
    model = result.model.train()
    loss = model(inputs).square().mean()
    loss.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())
