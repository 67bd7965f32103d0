"""The cost of what lies beside weights: norms of several channels a block, and parameters of a block around layers."""

import copy

import pytest
import torch
from networks import noise
from torch import nn

from methods.budgets.budget import NodeCost
from methods.network.counting import count_macs
from methods.network.graph import NetworkGraph


class Scaled(nn.Module):
    """A block with a weight of its own, a temperature, around layers that have theirs."""

    def __init__(self, inner):
        super().__init__()
        self.weight, self.inner = nn.Parameter(torch.full((1,), 2.0)), inner

    def forward(self, x):
        return self.inner(x) * self.weight


def ends():
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)


NETWORKS = {
    "norm of four blocks": lambda: nn.Sequential(
        nn.Conv2d(2, 12, 3), nn.GroupNorm(4, 12), nn.ReLU(), nn.Conv2d(12, 6, 1), nn.ReLU(), *ends()
    ),
    "weight around": lambda: Scaled(
        nn.Sequential(nn.Conv2d(2, 12, 3), nn.ReLU(), Scaled(nn.Conv2d(12, 6, 1)), nn.ReLU(), *ends())
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cost_at_any_number_of_nodes_is_that_of_the_network_with_so_many(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = NETWORKS[name]().eval()
    example = noise(2, 2, 6, 6)
    groups = NetworkGraph(model, example).groups
    cost = NodeCost(model, example, groups)
    assert [group.size for group in groups] == [4 if "norm" in name else 12, 6]
    for group in groups:
        for count in (1, group.size // 2, group.size):
            smaller = copy.deepcopy(model)
            graph = NetworkGraph(smaller, example)
            graph.remove(graph.find(group.name), torch.arange(count))
            expected = cost(cost.sizes | {group.name: count})
            assert expected.compression == sum(p.numel() for p in smaller.parameters())
            assert expected.speedup == count_macs(smaller, example)
