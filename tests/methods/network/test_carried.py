"""Networks with norms over channels, convolutions of several groups and transposed ones: masked equals removed."""

import copy

import pytest
import torch
from networks import noise, uniform
from torch import nn

import secateurs
from methods.budgets.budget import NodeCost
from methods.network.counting import count_macs
from methods.network.graph import NetworkGraph, gated
from methods.network.kinds.registry import find_kind
from methods.seeds import stream


class OwnRMSNorm(nn.Module):
    """As libraries of language models write it."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(0.5 + uniform(size))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class ImageNorm(nn.LayerNorm):
    """A layer norm of images, channels in dimension 1, as libraries write it."""

    def forward(self, x):
        return nn.functional.layer_norm(
            x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps
        ).permute(0, 3, 1, 2)


def dense(norm):
    return nn.Sequential(nn.Linear(6, 12), norm, nn.ReLU(), nn.Linear(12, 8), nn.GELU(), nn.Linear(8, 3))


def images(*middle, wide=8):
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), *middle, nn.ReLU(), nn.Conv2d(wide, 6, 3), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def series(*middle, wide=8):
    return nn.Sequential(
        nn.Conv1d(2, 8, 3, padding=2, dilation=2), *middle, nn.ReLU(), nn.Conv1d(wide, 6, 3), nn.AdaptiveAvgPool1d(1),
        nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def volumes(*middle, wide=8):
    return nn.Sequential(
        nn.Conv3d(2, 8, 3, padding=1), *middle, nn.ReLU(), nn.Conv3d(wide, 6, 2), nn.AdaptiveAvgPool3d(1),
        nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


class Residual(nn.Module):
    """A stream behind a first layer, with the norm in front of the branch and of the classifier."""

    def __init__(self, norm):
        super().__init__()
        self.first, self.norm, self.up, self.down = nn.Linear(6, 12), norm(), nn.Linear(12, 20), nn.Linear(20, 12)
        self.last_norm, self.head = norm(), nn.Linear(12, 3)

    def forward(self, x):
        x = self.first(x)
        x = x + self.down(self.up(self.norm(x)).relu())
        return self.head(self.last_norm(x))


class QueryNorm(nn.Module):
    """Attention with a norm of every head's queries and keys, which sees one head at a time."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(6, 12) for _ in range(3))
        self.query_norm, self.key_norm = nn.RMSNorm(3), nn.RMSNorm(3)
        self.project, self.head = nn.Linear(12, 6), nn.Linear(6, 3)

    def forward(self, x):
        q, k, v = (f(x).unflatten(2, (-1, 3)).transpose(1, 2) for f in (self.query, self.key, self.value))
        read = (self.query_norm(q) @ self.key_norm(k).transpose(2, 3)).softmax(-1) @ v
        return self.head(self.project(read.transpose(1, 2).flatten(2)).mean(1))


FLAT, TOKENS, PLANE, LINE, SPACE = (6,), (5, 6), (2, 7, 6), (2, 9), (2, 4, 5, 4)
# network, shape of a sample, sizes of its groups: (nodes, output units of the first writer per node)
NETWORKS = {
    "layer norm": (lambda: dense(nn.LayerNorm(12)), FLAT, [(12, 1), (8, 1)]),
    "plain layer norm": (lambda: dense(nn.LayerNorm(12, elementwise_affine=False)), FLAT, [(12, 1), (8, 1)]),
    "rms norm of tokens": (lambda: nn.Sequential(dense(nn.RMSNorm(12))), TOKENS, [(12, 1), (8, 1)]),
    "own rms norm": (lambda: dense(OwnRMSNorm(12)), FLAT, [(12, 1), (8, 1)]),
    "layer norm of images": (lambda: images(ImageNorm(8)), PLANE, [(8, 1), (6, 1)]),
    "group norm": (lambda: images(nn.GroupNorm(4, 8)), PLANE, [(4, 2), (6, 1)]),
    "plain group norm": (lambda: images(nn.GroupNorm(4, 8, affine=False)), PLANE, [(4, 2), (6, 1)]),
    "one group": (lambda: images(nn.GroupNorm(1, 8)), PLANE, [(8, 1), (6, 1)]),
    "instance norm": (lambda: images(nn.InstanceNorm2d(8, affine=True)), PLANE, [(8, 1), (6, 1)]),
    "plain instance norm": (lambda: series(nn.InstanceNorm1d(8)), LINE, [(8, 1), (6, 1)]),
    "grouped": (lambda: images(nn.Conv2d(8, 8, 3, groups=4)), PLANE, [(4, 2), (6, 1)]),
    "widening groups": (lambda: images(nn.Conv2d(8, 12, 3, groups=4), wide=12), PLANE, [(4, 2), (6, 1)]),
    "narrowing groups": (lambda: images(nn.Conv2d(8, 4, 1, groups=2), wide=4), PLANE, [(2, 4), (6, 1)]),
    "depth multiplier": (lambda: images(nn.Conv2d(8, 16, 3, groups=8), wide=16), PLANE, [(8, 1), (6, 1)]),
    "reflecting": (lambda: images(nn.Conv2d(8, 8, 3, 1, 1, groups=8, padding_mode="reflect")), PLANE, [(8, 1), (6, 1)]),
    "one dimension": (lambda: series(nn.Conv1d(8, 16, 3, groups=8), nn.PReLU(16), wide=16), LINE, [(8, 1), (6, 1)]),
    "three dimensions": (
        lambda: volumes(nn.Conv3d(8, 8, 3, 1, "same", groups=4), nn.BatchNorm3d(8)), SPACE, [(4, 2), (6, 1)]
    ),
    "transposed": (
        lambda: images(nn.ConvTranspose2d(8, 5, 3, 2, 1, 1), wide=5), PLANE, [(8, 1), (5, 1), (6, 1)]
    ),
    "transposed in one": (lambda: series(nn.ConvTranspose1d(8, 5, 2, 2), wide=5), LINE, [(8, 1), (5, 1), (6, 1)]),
    "transposed groups": (
        lambda: images(nn.ConvTranspose2d(8, 12, 2, 2, groups=4), wide=12), PLANE, [(4, 2), (6, 1)]
    ),
    "stream behind layer norm": (lambda: Residual(lambda: nn.LayerNorm(12)), FLAT, [(12, 1), (20, 1)]),
    "stream behind rms norm": (lambda: Residual(lambda: OwnRMSNorm(12)), TOKENS, [(12, 1), (20, 1)]),
    "norm of queries": (QueryNorm, TOKENS, [(4, 3), (6, 1)]),
}  # fmt: skip


def made(name, n=16):
    build, shape, _ = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().eval()
    for number, parameter in enumerate(model.parameters()):
        if parameter.dim() == 1:  # scales and shifts of norms too
            parameter.data = 0.5 + uniform(len(parameter), seed=number)
    labels = torch.randint(0, 3, (n,), generator=stream(0, "y"))
    return model, noise(n, *shape), labels if shape != TOKENS or name == "norm of queries" else None


@pytest.mark.parametrize("name", NETWORKS)
def test_masked_equals_removed_and_the_claimed_cost_is_the_counted_one(name):
    model, inputs, _ = made(name)
    closed = copy.deepcopy(model)
    graph = NetworkGraph(model, inputs[:2], residual=True)
    assert [(group.size, group.width) for group in graph.groups] == NETWORKS[name][2]
    groups, draw = list(graph.groups), stream(3, name)
    kept = {g.name: torch.randperm(g.size, generator=draw)[: g.size // 2].sort().values for g in groups}
    claimed = NodeCost(model, inputs, groups)({name: len(nodes) for name, nodes in kept.items()})
    with torch.no_grad():
        before = closed(inputs)
        with gated(closed, groups, kept):
            expected = closed(inputs)
        assert torch.equal(closed(inputs), before) and not torch.allclose(before, expected, atol=1e-3)
        for each, nodes in kept.items():
            graph.remove(graph.find(each), nodes)
        assert torch.allclose(model(inputs), expected, atol=1e-5)
    assert claimed.compression == sum(p.numel() for p in model.parameters())
    assert claimed.speedup == count_macs(model, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", ["spectral", "magnitude_edge"])
def test_it_is_pruned_through_the_door(name, method):
    model, inputs, labels = made(name)
    if labels is None:
        model = nn.Sequential(model, nn.Flatten())
        labels = torch.zeros(len(inputs), dtype=torch.int64)
    pruned = secateurs.prune(model, inputs, labels, method=method, keep=0.5, prune_residual=True)
    assert pruned.achieved["keep"] == pytest.approx(0.5, rel=0.1)
    with torch.no_grad():
        assert bool(pruned.model(inputs).isfinite().all())
    macs = count_macs(model, inputs), count_macs(pruned.model, inputs)
    if method != "magnitude_edge":
        assert pruned.achieved["speedup"] == pytest.approx(macs[0] / macs[1])


@pytest.mark.parametrize("name", ["grouped", "depth multiplier", "one dimension", "transposed", "own rms norm"])
@pytest.mark.slow
def test_single_weights_of_every_kind_are_chosen_by_their_hessians_and_repaired(name):
    model, inputs, labels = made(name)
    pruned = secateurs.prune(model, inputs, labels, method="exact_obs", keep=0.5)
    layers = {path for path, module in model.named_modules() if find_kind(module) is not None}
    assert {key.removesuffix(".weight") for key in pruned.masks} == layers
    for key, mask in pruned.masks.items():
        assert bool((pruned.model.get_parameter(key)[~mask] == 0).all())
    live = sum(int(mask.sum()) for mask in pruned.masks.values())
    assert live == pytest.approx(0.5 * sum(mask.numel() for mask in pruned.masks.values()), rel=0.02)
    plain = secateurs.prune(model, inputs, labels, method="magnitude_edge", allocation="uniform", keep=0.5)
    with torch.no_grad():
        errors = [(each.model(inputs) - model(inputs)).norm() for each in (pruned, plain)]
    assert errors[0] < errors[1]
