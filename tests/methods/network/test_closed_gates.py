"""Products of which a factor can be zero, as with ReLU gates: all nodes are found, however many there are."""

import copy

import pytest
import torch
from networks import noise
from torch import nn
from torch.nn import functional

from benchmarks.zoo.divided import SelectiveScan
from methods.network.graph import NetworkGraph, gated


def squared(x):
    return x.relu().square()


class Gated(nn.Module):
    """A gate and what it lets through, from two layers or from one."""

    def __init__(self, act, fused, width):
        super().__init__()
        self.act, self.fused = act, fused
        self.first = nn.Linear(8, 2 * width if fused else width)
        self.other, self.down = nn.Linear(8, width), nn.Linear(width, 3)

    def forward(self, x):
        gate, value = self.first(x).chunk(2, -1) if self.fused else (self.first(x), self.other(x))
        return self.down(self.act(gate) * value)


class Excited(nn.Module):
    """Channels scaled by a squeeze and excitation that ends in a ReLU, behind a ReLU."""

    def __init__(self, width):
        super().__init__()
        self.first, self.squeeze, self.excite = nn.Conv2d(3, width, 3), nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.first(x).relu()
        return self.head((x * self.excite(self.squeeze(x.mean((2, 3), True)).relu()).relu()).mean((2, 3)))


def made(build, *arguments):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return build(*arguments).eval()


def assert_removed_equals_masked(model, graph, inputs):
    kept = {group.name: torch.arange(0, group.size, 2) for group in graph.groups}
    smaller = copy.deepcopy(model)
    left = NetworkGraph.of(smaller, graph.groups)
    for name, nodes in kept.items():
        left.remove(left.find(name), nodes)
    with torch.no_grad(), gated(model, graph.groups, kept):
        masked = model(inputs)
    with torch.no_grad():
        assert torch.allclose(smaller(inputs), masked, atol=1e-5)
        assert not torch.allclose(model(inputs), masked, atol=1e-3)


@pytest.mark.parametrize("width", [6, 64, 256])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("act", [torch.relu, squared, functional.relu6, functional.hardswish])
def test_gates_that_can_be_closed_hide_nothing_of_what_they_let_through(act, fused, width):
    model, inputs = made(Gated, act, fused, width), noise(4, 8)
    graph = NetworkGraph(model, inputs)
    [group] = graph.groups
    assert (group.writers, group.size, group.width) == (
        (("first",), width, 2) if fused else (("first", "other"), width, 1)
    )
    assert not graph.left_alone
    assert_removed_equals_masked(model, graph, inputs)


@pytest.mark.parametrize("width", [8, 64])
def test_gates_behind_each_other(width):
    model, inputs = made(Excited, width), noise(2, 3, 6, 6)
    graph = NetworkGraph(model, inputs)
    assert {group.name: group.writers for group in graph.groups} == {
        "first": ("first", "excite"), "squeeze": ("squeeze",),
    }  # fmt: skip
    assert not graph.left_alone
    assert_removed_equals_masked(model, graph, inputs)


@pytest.mark.parametrize("inner", [24, 25, 48, 128])
def test_a_state_space_of_any_width_loses_whole_channels(inner):
    model = made(lambda: nn.Sequential(nn.Linear(6, 8), SelectiveScan(8, inner, 8, 3), nn.Linear(8, 3)))
    inputs = noise(2, 5, 6)
    graph = NetworkGraph(model, inputs)
    assert {group.name: group.size for group in graph.groups} == {
        "0": 8, "1.in_proj": inner, "1.x_proj[0:3]": 3, "1.out_proj": 8,
    }  # fmt: skip
    assert graph.left_alone == {"1.x_proj[3:19]": "all other nodes of 1.in_proj share these units"}
    assert_removed_equals_masked(model, graph, inputs)
