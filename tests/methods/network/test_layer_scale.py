"""Branches that start with a scale of 1e-6, as those of ConvNeXt: their groups are found, and mistakes show."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.errors import Skipped
from methods.layers.statistics import Calibration
from methods.network import remembered
from methods.network.coupling import find_groups
from methods.network.graph import NetworkGraph
from methods.network.influence import find_influences
from methods.network.mockup import Mockup
from methods.network.verification import misunderstood
from methods.pruner import Pruner

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(2))


class Block(nn.Module):
    """x + scale * pw2(gelu(pw1(norm(depthwise(x)))))."""

    def __init__(self, width, scale, vector):
        super().__init__()
        self.depth = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.BatchNorm2d(width)
        self.pw1, self.pw2 = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)
        self.scale = nn.Parameter(torch.full((width, 1, 1) if vector else (), scale))

    def forward(self, x):
        return x + self.scale * self.pw2(functional.gelu(self.pw1(self.norm(self.depth(x)))))


class Network(nn.Module):
    def __init__(self, scale=1e-6, vector=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, stride=2)
        self.blocks = nn.Sequential(*(Block(8, scale, vector) for _ in range(2)))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def made(scale=1e-6, vector=True):
    torch.manual_seed(4)
    return Network(scale, vector).eval()


def samples():
    return Calibration(IMAGES, torch.zeros(8, dtype=torch.int64), torch.arange(8))


def wrong(group):
    """The group as it would be if its columns were mistaken by one."""
    return replace(group, readers=tuple(replace(each, columns=each.columns.roll(1, 0)) for each in group.readers))


@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("scale", [0.0, 1e-6])
def test_a_scale_hides_no_branch(vector, mode, scale):
    model = made(scale, vector)
    with mode():
        found = find_influences(Mockup(model, IMAGES))
    own = [[unit, unit] for unit in range(8)]
    assert found["blocks.1.pw2"].pairs["head"].tolist() == own
    if vector:  # the second block has a parameter of its own for every unit that it reads
        assert found["blocks.0.pw2"].obstacle == "blocks.1 (Block)"
    else:
        assert found["blocks.0.pw2"].pairs["head"].tolist() == own
    assert all(bool((block.scale == scale).all()) for block in model.blocks)


@pytest.mark.parametrize("vector", [True, False])
def test_a_stream_whose_branches_are_scaled_is_pruned_with_all_of_its_writers_and_scales(vector):
    groups, left = find_groups(made(vector=vector), IMAGES, residual=True)
    assert [group.name for group in groups] == ["stem", "blocks.0.pw1", "blocks.1.pw1"] and not left
    assert groups[0].writers == ("stem", "blocks.0.pw2", "blocks.1.pw2")
    scales = [(each.name, each.dimension, each.places[:, 0].tolist()) for each in groups[0].held]
    assert scales == ([(f"blocks.{place}.scale", 0, list(range(8))) for place in (0, 1)] if vector else [])


@pytest.mark.parametrize("scale", [1.0, 1e-6])
@pytest.mark.parametrize("name", ["blocks.0.pw1", "blocks.1.pw1"])
def test_a_mistake_behind_a_small_scale_is_seen(name, scale):
    model = made(scale)
    groups = NetworkGraph(model, IMAGES).groups
    kept = {group.name: torch.arange(0, group.size, 2) for group in groups}
    assert misunderstood(model, groups, kept, IMAGES) == {}
    mistaken = [wrong(group) if group.name == name else group for group in groups]
    [(found, why)] = misunderstood(model, mistaken, kept, IMAGES).items()
    assert found == name and f"does not equal closing them off, as {name.replace('pw1', 'pw2')} shows" in why


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_the_pruner_refuses_a_network_that_is_misunderstood(scale, monkeypatch):
    def mistaken(*arguments):
        groups, left = find_groups(*arguments)
        return [wrong(group) for group in groups], left

    pruner, budget = Pruner(MagnitudeSelection()), Budget("keep", 0.5)
    assert pruner.prune(made(scale), samples(), budget).achieved["keep"] == pytest.approx(0.5)
    remembered.forget()
    monkeypatch.setattr(remembered, "find_groups", mistaken)
    with pytest.raises(Skipped, match=r"blocks\.0\.pw1: .* not understood; blocks\.1\.pw1: .* not understood"):
        pruner.prune(made(scale), samples(), budget)
    remembered.forget()


def test_networks_that_insist_on_single_precision_are_compared_in_it():
    class Single(Network):
        def forward(self, x):
            return super().forward(x.float())

    torch.manual_seed(4)
    model = Single().eval()
    groups = NetworkGraph(model, IMAGES).groups
    kept = {group.name: torch.arange(0, group.size, 2) for group in groups}
    assert misunderstood(model, groups, kept, IMAGES) == {}
    assert misunderstood(model, [wrong(group) for group in groups], kept, IMAGES).keys() == kept.keys()
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
