"""What is claimed of a pruned network is what an independent count of it finds, for every kind of layer."""

import pytest
import torch
from networks import noise
from torch import nn
from torch.nn import functional

from methods.allocation import ErdosRenyiKernel
from methods.baselines.magnitude import MagnitudeSelection
from methods.baselines.random import RandomSelection
from methods.budgets.budget import Budget, EdgeCost, NodeCost
from methods.compensation import LeastSquares
from methods.hessian.exact_obs import ExactOBSSelection
from methods.hessian.obd import OBDSelection
from methods.layers.statistics import Calibration
from methods.layers.views import edge_layers
from methods.network.counting import count_macs, products
from methods.network.graph import NetworkGraph
from methods.pruner import Pruner
from methods.seeds import stream


class Conv1D(nn.Module):
    """Linear with a transposed weight, as in GPT-2."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(noise(nx, nf)), nn.Parameter(noise(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).reshape(*x.shape[:-1], self.nf)


class TokensInBatch(nn.Module):
    """Every token is a row of the batch: nothing in the outputs' shapes says how many belong to one sample."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.head = nn.Linear(8, 64), nn.Linear(64, 8), nn.Linear(8, 3)

    def forward(self, x):
        y = self.down(self.up(x.reshape(-1, 8)).relu())
        return self.head(y.reshape(len(x), -1, 8).mean(1))


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(input=self.conv(input=x).relu().mean((2, 3)))


class Shared(nn.Module):
    """One layer that is called twice, the second time at another resolution."""

    def __init__(self):
        super().__init__()
        self.stem, self.twice, self.head = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 3)

    def forward(self, x):
        y = self.twice(self.stem(x).relu()).relu()
        return self.head(self.twice(functional.max_pool2d(y, 2)).mean((2, 3)))


def sequence(*layers, pool):
    return nn.Sequential(*layers, pool(1), nn.Flatten(), nn.Linear(8, 3))


NETWORKS = {
    "tokens": (TokensInBatch, (20, 8)),
    "keyword": (ByKeyword, (2, 6, 5)),
    "shared": (Shared, (2, 8, 8)),
    "conv1d": (
        lambda: sequence(nn.Conv1d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv1d(6, 8, 3), pool=nn.AdaptiveAvgPool1d),
        (2, 9),
    ),
    "conv2d": (
        lambda: sequence(nn.Conv2d(2, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3), pool=nn.AdaptiveAvgPool2d),
        (2, 9, 7),
    ),
    "grouped": (
        lambda: sequence(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2), pool=nn.AdaptiveAvgPool2d),
        (2, 9, 7),
    ),
    "conv3d": (
        lambda: sequence(nn.Conv3d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv3d(6, 8, 2), pool=nn.AdaptiveAvgPool3d),
        (2, 4, 5, 3),
    ),
    "transposed": (lambda: nn.Sequential(Conv1D(6, 5), nn.ReLU(), Conv1D(8, 6), nn.ReLU(), nn.Linear(8, 3)), (5,)),
}  # fmt: skip


def made(name, n=24):
    build, shape = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().eval()
    inputs = torch.randn(n, *shape, generator=stream(0, "x"))
    labels = torch.randint(0, 3, (n,), generator=stream(0, "y"))
    return model, Calibration(inputs, labels, torch.arange(n), batch_size=7)


def effective(model, example):
    return sum(product.effective for product in products(model, example))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cost_of_masked_weights_is_the_counted_one(name):
    model, data = made(name)
    names = edge_layers(model, data.inputs)
    pruner = Pruner(RandomSelection("edge"), ErdosRenyiKernel())
    pruned = pruner.prune(model, data, Budget("compression", 1.8))
    kept = {key.removesuffix(".weight"): int(mask.sum()) for key, mask in pruned.masks.items()}
    cost = EdgeCost(model, data.inputs, names)(kept)
    masks = {id(dict(pruned.model.named_parameters())[key]): mask for key, mask in pruned.masks.items()}
    live = sum(int(masks[id(p)].sum()) if id(p) in masks else p.numel() for p in pruned.model.parameters())
    assert cost.compression == live
    for key, mask in pruned.masks.items():  # whatever stays counts, so that no zero is there by chance
        weight = pruned.model.get_parameter(key)
        assert bool((weight[~mask] == 0).all()) and bool((weight[mask] != 0).all())
    assert cost.speedup == effective(pruned.model, data.inputs)
    assert pruned.achieved["speedup"] == pytest.approx(count_macs(model, data.inputs) / cost.speedup)


@pytest.mark.parametrize("name", ["tokens", "conv2d"])
@pytest.mark.parametrize("kind", ["speedup", "compression"])
def test_the_cost_of_removed_nodes_is_the_counted_one(name, kind):
    model, data = made(name)
    graph = NetworkGraph(model, data.inputs[:2])
    pruned = Pruner(MagnitudeSelection()).prune(model, data, Budget(kind, 1.5))
    cost = NodeCost(model, data.inputs, graph.groups)({group: len(nodes) for group, nodes in pruned.kept.items()})
    assert cost.speedup == count_macs(pruned.model, data.inputs)
    assert cost.compression == sum(p.numel() for p in pruned.model.parameters())
    off = abs(pruned.achieved[kind] / 1.5 - 1)
    assert off <= 0.05 and (pruned.note is None) == (off <= 0.01)


def test_tokens_in_the_batch_dimension_are_positions_of_one_sample():
    model, data = made("tokens")
    pruned = Pruner(MagnitudeSelection()).prune(model, data, Budget("keep", 0.5))
    dense, left = count_macs(model, data.inputs), count_macs(pruned.model, data.inputs)
    assert dense == 20 * 2 * 8 * 64 + 8 * 3
    assert pruned.achieved["speedup"] == pytest.approx(dense / left) == pytest.approx(1.995, abs=0.01)


@pytest.mark.parametrize("name", ["conv1d", "conv3d", "transposed", "keyword"])
@pytest.mark.parametrize("selection", [MagnitudeSelection("edge"), OBDSelection(), ExactOBSSelection()])
def test_single_weights_of_new_kinds_are_pruned_and_repaired(name, selection):
    model, data = made(name)
    masked = Pruner(selection).prune(model, data, Budget("keep", 0.5))
    repaired = Pruner(selection, compensation=LeastSquares()).prune(model, data, Budget("keep", 0.5))
    assert len(masked.masks) == sum(isinstance(m, nn.Module) and hasattr(m, "weight") for m in model.modules())
    for key, mask in repaired.masks.items():
        assert torch.equal(mask, masked.masks[key])
        assert bool((repaired.model.get_parameter(key)[~mask] == 0).all())
    with torch.no_grad():
        target = model(data.inputs)
        errors = [(pruned.model(data.inputs) - target).norm() for pruned in (masked, repaired)]
    assert errors[1] < errors[0]
