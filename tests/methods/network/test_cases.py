"""Networks as users have them: gates, odd reshapes, aliases, layers of one's own; pruned, or left alone and named."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget, NodeCost
from methods.errors import BadInput, Skipped
from methods.layers.statistics import Calibration
from methods.network.graph import NetworkGraph, gated
from methods.pruner import Pruner
from methods.pruning.checks import told

IMAGES = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(3))


class Of(nn.Module):
    """A network of named parts and a function of itself and what it reads."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, x)


class Own(nn.Linear):
    """A linear layer with a forward of its own, as adapters have it."""

    def forward(self, x):
        return functional.linear(x, self.weight * 1.5, self.bias)


def gate_from_its_last_channel():
    def run(m, x):
        y = m.a(x)
        return m.head(m.b(y * y[:, -1:].sigmoid()).relu().mean((2, 3)))

    return Of(run, a=nn.Conv2d(1, 12, 3, padding=1), b=nn.Conv2d(12, 16, 3, padding=1), head=nn.Linear(16, 10))


def gram():
    def run(m, x):
        y = m.a(x[:, 0]).relu()
        return m.head(m.b(y @ y.transpose(1, 2)).mean(1))

    return Of(run, a=nn.Linear(8, 12), b=nn.Linear(8, 16), head=nn.Linear(16, 10))


def squeeze_excitation():
    def run(m, x):
        x = functional.hardswish(m.stem(x))
        y = m.norm2(m.depth(functional.hardswish(m.norm1(m.expand(x)))))
        gate = functional.hardsigmoid(m.up(m.down(y.mean((2, 3), keepdim=True)).relu()))
        return m.head((x + m.project(functional.hardswish(y * gate))).mean((2, 3)))

    parts = {"stem": nn.Conv2d(1, 8, 3, padding=1), "expand": nn.Conv2d(8, 32, 1), "norm1": nn.BatchNorm2d(32)}
    parts |= {"depth": nn.Conv2d(32, 32, 3, padding=1, groups=32), "norm2": nn.BatchNorm2d(32)}
    parts |= {"down": nn.Conv2d(32, 8, 1), "up": nn.Conv2d(8, 32, 1), "project": nn.Conv2d(32, 8, 1)}
    return Of(run, **parts, head=nn.Linear(8, 10))


def gated_perceptron():
    def run(m, x):
        x = m.embed(x.flatten(1))
        return m.head(x + m.down(functional.silu(m.gate(x)) * m.up(x)))

    return Of(
        run,
        embed=nn.Linear(64, 16),
        gate=nn.Linear(16, 40),
        up=nn.Linear(16, 40),
        down=nn.Linear(40, 16),
        head=nn.Linear(16, 10),
    )


def heads_left_to_the_reshape():
    def run(m, x):
        x = m.embed(x[:, 0])
        q, k, v = m.qkv(x).reshape(len(x), x.shape[1], 3, -1, 4).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return m.head((x + m.out(y)).mean(1))

    return Of(run, embed=nn.Linear(8, 16), qkv=nn.Linear(16, 48), out=nn.Linear(16, 16), head=nn.Linear(16, 10))


def aliased():
    first, second, third = nn.Linear(64, 24), nn.Linear(24, 20), nn.Linear(20, 10)
    whole = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), third)
    return Of(lambda m, x: m.net(x), first=first, second=second, third=third, net=whole)


def without_statistics():
    norm = nn.BatchNorm1d(24, track_running_stats=False)
    return Of(lambda m, x: m.b(m.n(m.a(x.flatten(1))).relu()), a=nn.Linear(64, 24), n=norm, b=nn.Linear(24, 10))


def one_dimensional():
    def run(m, x):
        return m.head(m.b(m.a(x[:, 0]).relu()).relu().mean(2))

    return Of(run, a=nn.Conv1d(8, 24, 3, padding=1), b=nn.Conv1d(24, 20, 3, padding=1), head=nn.Linear(20, 10))


def three_dimensional():
    def run(m, x):
        return m.head(m.b(m.a(x[:, None])).relu().mean((2, 3, 4)))

    return Of(run, a=nn.Conv3d(1, 8, (1, 3, 3)), b=nn.Conv3d(8, 12, (1, 3, 3)), head=nn.Linear(12, 10))


def instance_normed():
    def run(m, x):
        return m.head(m.b(m.n(m.a(x)).relu()).relu().mean((2, 3)))

    norm = nn.InstanceNorm2d(12, affine=True)
    return Of(run, a=nn.Conv2d(1, 12, 3), n=norm, b=nn.Conv2d(12, 16, 3), head=nn.Linear(16, 10))


def called_by_keyword():
    def run(m, x):
        return m.head(m.b(input=m.a(input=x).relu()).relu().mean((2, 3)))

    return Of(run, a=nn.Conv2d(1, 12, 3), b=nn.Conv2d(12, 16, 3), head=nn.Linear(16, 10))


PRUNED = {
    gate_from_its_last_channel: {"a[0:11]": 11, "b": 16},
    squeeze_excitation: {"expand": 32, "down": 8},
    gated_perceptron: {"gate": 40},
    heads_left_to_the_reshape: {"qkv": 4},
    aliased: {"first": 24, "second": 20},
    without_statistics: {"a": 24},
    one_dimensional: {"a": 24, "b": 20},
    three_dimensional: {"a": 8, "b": 12},
    instance_normed: {"a": 12, "b": 16},
    called_by_keyword: {"a": 12, "b": 16},
}


def made(build):
    torch.manual_seed(5)
    return build().eval()


@pytest.mark.parametrize("build", PRUNED, ids=lambda build: build.__name__)
def test_groups_are_found_removed_equals_masked_and_costs_are_counted(build):
    model = made(build)
    graph = NetworkGraph(model, IMAGES)
    assert {group.name: group.size for group in graph.groups} == PRUNED[build]
    kept = {group.name: torch.arange(0, group.size, 2) for group in graph.groups}
    with torch.no_grad(), gated(model, graph.groups, kept):
        masked = model(IMAGES)
    cost = NodeCost(model, IMAGES, graph.groups)({name: len(nodes) for name, nodes in kept.items()})
    smaller = copy.deepcopy(model)
    shrinking = NetworkGraph.of(smaller, graph.groups)
    for name, nodes in kept.items():
        shrinking.remove(shrinking.find(name), nodes)
    with torch.no_grad():
        assert torch.allclose(smaller(IMAGES), masked, atol=1e-5)
        assert not torch.allclose(model(IMAGES), masked, atol=1e-4)
    assert cost.compression == sum(parameter.numel() for parameter in smaller.parameters())


@pytest.mark.parametrize("build", PRUNED, ids=lambda build: build.__name__)
def test_a_method_prunes_them(build):
    model = made(build)
    samples = Calibration(IMAGES, torch.zeros(len(IMAGES), dtype=torch.long), torch.arange(len(IMAGES)))
    pruned = Pruner(MagnitudeSelection("node")).prune(model, samples, Budget.parse({"keep": 0.5}))
    assert pruned.model(IMAGES).shape == (12, 10)
    assert {row["name"]: row["kept"] for row in pruned.layers} == {
        name: round(size / 2) for name, size in PRUNED[build].items()
    }


def left_alone(build):
    graph = NetworkGraph(made(build), IMAGES)
    return {group.name for group in graph.groups}, graph.left_alone


def test_a_channel_on_which_all_others_depend_stays_and_these_are_nodes():
    groups, reasons = left_alone(gate_from_its_last_channel)
    assert groups == {"a[0:11]", "b"}
    assert reasons["a[11:12]"] == "all other nodes of a share these units"


def test_products_of_everything_with_everything_are_left_alone():
    groups, reasons = left_alone(gram)
    assert "b" in groups
    assert "a" in reasons


def test_a_layer_with_a_forward_of_its_own_leaves_its_group_alone_and_not_the_network():
    def build():
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 24),
            nn.ReLU(),
            Own(24, 24),
            nn.ReLU(),
            nn.Linear(24, 20),
            nn.ReLU(),
            nn.Linear(20, 10),
        )

    groups, reasons = left_alone(build)
    assert groups == {"5"}
    assert list(reasons) == ["1"]
    assert "3 (Own)" in reasons["1"]


def test_streams_and_computed_weights_are_called_what_they_are():
    _, reasons = left_alone(gated_perceptron)
    assert "residual stream" in reasons["embed"]

    def normed():
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 10)
        )
        nn.utils.parametrizations.weight_norm(model[3])
        return model

    groups, reasons = left_alone(normed)
    assert groups == set()
    assert all("computed from other parameters" in reason for reason in reasons.values())


def test_why_nothing_can_be_pruned_is_true():
    graph = NetworkGraph(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), IMAGES)
    with pytest.raises(Skipped, match="returns what 1 computes|one layer only"):
        graph.require_groups()
    empty = NetworkGraph(nn.Sequential(nn.Flatten(), nn.ReLU()), IMAGES)
    with pytest.raises(Skipped, match="no layer of a known kind"):
        empty.require_groups()


STREAMS = {
    "sum": lambda m, y, b: y + b,
    "bounded sum": lambda m, y, b: functional.relu6(y + b),
    "squashed branch": lambda m, y, b: y + b.tanh(),
    "squashed sum": lambda m, y, b: (y + b).tanh(),
    "rectified sum": lambda m, y, b: (y + b).relu(),
    "gated sum": lambda m, y, b: m.gate(y.detach() * 0 + 1).sigmoid() * (y + b),
    "branch added twice": lambda m, y, b: y + b + b,
}
GATES = {
    "product": lambda m, y, b: y * b,
    "sigmoid": lambda m, y, b: y * b.sigmoid(),
    "tanh": lambda m, y, b: y.tanh() * b,
    "hard": lambda m, y, b: functional.hardswish(y) * functional.hardsigmoid(b),
    "gelu": lambda m, y, b: functional.gelu(y) * b,
}


@pytest.mark.parametrize(("name", "streams"), [*((n, True) for n in STREAMS), *((n, False) for n in GATES)])
def test_sums_are_streams_and_products_are_gates(name, streams):
    meet = (STREAMS if streams else GATES)[name]

    def build():
        def run(m, x):
            y = m.stem(x.flatten(1))
            return m.head(meet(m, y, m.branch(m.inner(y).relu())))

        parts = {"stem": nn.Linear(64, 12), "inner": nn.Linear(12, 9), "branch": nn.Linear(9, 12)}
        return Of(run, **parts, gate=nn.Linear(12, 12), head=nn.Linear(12, 10))

    groups, reasons = left_alone(build)
    assert "inner" in groups
    assert ("residual stream" in reasons.get("stem", "")) is streams
    assert ("stem" in groups) is not streams


def test_a_budget_that_cannot_be_reached_names_what_is_left_alone():
    samples = Calibration(IMAGES, torch.zeros(len(IMAGES), dtype=torch.long), torch.arange(len(IMAGES)))
    with pytest.raises(BadInput, match=r"cannot be reached: .*\nleft alone: embed \(residual stream"):
        Pruner(MagnitudeSelection("node")).prune(made(gated_perceptron), samples, Budget("compression", 50))


def test_all_layers_that_are_left_alone_are_named_with_the_reason_those_with_the_same_one_together():
    assert told({"a": "why", "b": "other", "c": "why", "d": "why"}) == "a (why), as are c, d; b (other)"
    assert told({f"{n}": "why" for n in range(11)}) == "0 (why), as are 1, 2, 3, 4, 5, 6, 7, 8 and 2 more"
    assert told({f"{n}": f"why {n}" for n in range(8)}).endswith("; 5 (why 5); and 2 more")
