"""Structures that pruning must get right or leave alone: what is offered is always removable."""

import copy
import re

import pytest
import torch
from networks import noise, uniform
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget, NodeCost, count_macs
from methods.hessian.hap import HAPSelection
from methods.layers.statistics import Calibration
from methods.network.graph import NetworkGraph, gated
from methods.pruner import Pruner
from methods.seeds import stream


class Of(nn.Module):
    """Modules by name and a forward pass given as a function."""

    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def conv(inputs, outputs, size=3, **options):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)


def norm(size):
    module = nn.BatchNorm2d(size)
    module.weight.data, module.bias.data = 0.5 + uniform(size), 0.3 * noise(size)
    module.running_mean, module.running_var = 0.3 * noise(size, seed=1), 0.5 + 1.5 * uniform(size, seed=1)
    return module


def cat_flatten():
    """Two branches, concatenated, then flattened: columns of the second branch come after all of the first's."""
    return Of(
        lambda m, x: m.head(torch.cat([m.a(x).relu(), m.b(x).tanh()], 1).flatten(1)),
        a=conv(2, 5), b=conv(2, 7), head=nn.Linear(12 * 36, 4),
    )  # fmt: skip


def cat_of_residual():
    """A concatenation that joins a sum, its own summand again, and a third branch, behind one batch norm."""

    def run(m, x):
        a, b, c = m.a(x), m.b(x), m.c(x)
        return m.head(m.norm(torch.cat([c, a + b, a], 1)).relu().mean((2, 3)))

    return Of(run, a=conv(2, 6), b=conv(2, 6), c=conv(2, 5), norm=norm(17), head=nn.Linear(17, 4))


def channels_last_flatten():
    return Of(lambda m, x: m.head(m.a(x).relu().permute(0, 2, 3, 1).flatten(1)), a=conv(2, 5), head=nn.Linear(180, 4))


def squeeze_excitation():
    def run(m, x):
        x = m.a(x).relu()
        gate = m.up(m.down(x.mean((2, 3))).relu()).sigmoid()
        return m.head((x * gate[:, :, None, None]).mean((2, 3)))

    return Of(run, a=conv(2, 8), down=nn.Linear(8, 3), up=nn.Linear(3, 8), head=nn.Linear(8, 4))


def depthwise():
    def run(m, x):
        return m.head(m.norm2(m.dw(m.act(m.norm1(m.a(x))))).relu().mean((2, 3)))

    dw = nn.Conv2d(6, 6, 3, padding="same", groups=6)
    return Of(run, a=conv(2, 6), norm1=norm(6), act=nn.PReLU(6), dw=dw, norm2=norm(6), head=nn.Linear(6, 4))


def norm_after_flatten():
    module = nn.BatchNorm1d(5 * 36)
    module.running_var = 0.5 + 1.5 * uniform(5 * 36)
    return Of(lambda m, x: m.head(m.norm(m.a(x).relu().flatten(1))), a=conv(2, 5), norm=module, head=nn.Linear(180, 4))


def read_twice():
    """One layer reads the nodes before and after an activation."""

    def run(m, x):
        x = m.a(x)
        return m.head((m.b(x) + m.b(x.relu())).mean((2, 3)))

    return Of(run, a=conv(2, 6), b=conv(6, 5), head=nn.Linear(5, 4))


def in_place():
    return nn.Sequential(
        conv(2, 6), nn.ReLU(inplace=True), norm(6), nn.ReLU6(inplace=True), conv(6, 5), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4),
    )  # fmt: skip


def scaled():
    model = Of(lambda m, x: m.head((m.a(x) * m.scale).relu().mean((2, 3))), a=conv(2, 6), head=nn.Linear(6, 4))
    model.scale = nn.Parameter(uniform(1, 6, 1, 1))
    return model


def chunked():
    def run(m, x):
        first, second = m.a(x).relu().chunk(2, 1)
        return m.head((m.b(first) + m.c(second)).mean((2, 3)))

    return Of(run, a=conv(2, 8), b=conv(4, 5), c=conv(4, 5), head=nn.Linear(5, 4))


def padded_shortcut():
    def run(m, x):
        x = m.a(x).relu()
        return m.head((m.b(x) + F.pad(x, (0, 0, 0, 0, 0, 4))).relu().mean((2, 3)))

    return Of(run, a=conv(2, 4), b=conv(4, 8), head=nn.Linear(8, 4))


GOOD = {
    "cat_flatten": (cat_flatten, {"a", "b"}),
    "cat_of_residual": (cat_of_residual, {"c"}),
    "channels_last_flatten": (channels_last_flatten, {"a"}),
    "squeeze_excitation": (squeeze_excitation, {"a", "down"}),
    "depthwise": (depthwise, {"a"}),
    "norm_after_flatten": (norm_after_flatten, {"a"}),
    "read_twice": (read_twice, {"a", "b"}),
    "in_place": (in_place, {"0", "4"}),
    "scaled": (scaled, {"a"}),
    "chunked": (chunked, {"a", "b"}),
    "padded_shortcut": (padded_shortcut, {"a"}),
}
X = torch.randn(3, 2, 6, 6, generator=stream(0, "x"))


def made(factory):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return factory().eval()


@pytest.mark.parametrize("name", GOOD)
def test_gated_equals_removed_and_the_cost_is_that_of_the_built_network(name):
    factory, expected = GOOD[name]
    model = made(factory)
    closed = copy.deepcopy(model)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    graph = NetworkGraph(model, X, residual=True)
    assert {group.name for group in graph.groups} >= expected
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    groups = list(graph.groups)
    draw = stream(3, name)
    kept = {g.name: torch.randperm(g.size, generator=draw)[: g.size // 2].sort().values for g in groups}
    predicted = NodeCost(model, X, groups)({name: len(nodes) for name, nodes in kept.items()})
    with gated(closed, groups, kept), torch.no_grad():
        expected_output = closed(X)
    for each, nodes in kept.items():
        graph.remove(graph.find(each), nodes)
    with torch.no_grad():
        assert torch.allclose(model(X), expected_output, atol=1e-5)
        assert not torch.allclose(closed(X), expected_output, atol=1e-3)
    assert predicted.compression == sum(p.numel() for p in model.parameters())
    assert predicted.speedup == count_macs(model, X)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", GOOD)
def test_groups_do_not_depend_on_gradients(name, mode):
    plain = NetworkGraph(made(GOOD[name][0]), X, residual=True).groups
    with mode():
        groups = NetworkGraph(made(GOOD[name][0]).requires_grad_(False), X, residual=True).groups
    assert [(each.name, each.size, each.writers) for each in groups] == [
        (each.name, each.size, each.writers) for each in plain
    ]


def test_a_network_is_left_as_it_was():
    model = Of(lambda m, x: m.b(m.a(x.flatten(1)).detach().relu()), a=nn.Linear(72, 6), b=nn.Linear(6, 4))
    model.train()
    model.a.requires_grad_(False)
    [group] = NetworkGraph(model, X).groups
    assert group.name == "a"
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, False, True, True]


def test_columns_behind_a_concatenation_and_a_flattening_are_those_of_each_branch():
    graph = NetworkGraph(made(cat_flatten), X)
    columns = torch.arange(12 * 36, device="cpu").reshape(12, 36)  # columns are kept on the CPU
    assert torch.equal(graph.find("a").readers[0].columns, columns[:5])
    assert torch.equal(graph.find("b").readers[0].columns, columns[5:])
    last = NetworkGraph(made(channels_last_flatten), X).find("a").readers[0].columns
    assert torch.equal(last, torch.arange(180, device="cpu").reshape(36, 5).T)


def test_gates_and_sums_are_coupled_with_what_they_meet():
    group = NetworkGraph(made(squeeze_excitation), X, residual=True).find("a")
    assert group.writers == ("a", "up") and [reader.name for reader in group.readers] == ["down", "head"]
    assert NetworkGraph(made(squeeze_excitation), X).find("a").writers == group.writers  # a gate is no residual stream
    assert "residual" in NetworkGraph(made(cat_of_residual), X).left_alone["a"]
    sums = NetworkGraph(made(cat_of_residual), X, residual=True)
    assert sums.find("a").writers == ("a", "b") and sums.find("a").readers[0].columns.shape == (6, 2)


def split_by_numbers():
    def run(m, x):
        first, second = m.a(x).relu().split([3, 5], 1)
        return m.head((m.b(first) + m.c(second)).mean((2, 3)))

    return Of(run, a=conv(2, 8), b=conv(3, 5), c=conv(5, 5), head=nn.Linear(5, 4))


def shuffled():
    def run(m, x):
        x = m.a(x).relu()
        return m.head(m.b(x.view(len(x), 2, 4, 6, 6).transpose(1, 2).reshape(len(x), 8, 6, 6)).mean((2, 3)))

    return Of(run, a=conv(2, 8), b=conv(8, 5), head=nn.Linear(5, 4))


def fixed_view():
    return Of(lambda m, x: m.head(m.a(x).relu().view(-1, 5 * 36)), a=conv(2, 5), head=nn.Linear(180, 4))


def tied():
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 72), nn.ReLU(), nn.Linear(72, 72), nn.ReLU(), nn.Linear(72, 4))
    model[3].weight = model[1].weight
    return model


def parametrised():
    return nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(72, 9)), nn.ReLU(), nn.Linear(9, 4))


def norm_of_places():
    return nn.Sequential(
        conv(2, 6), nn.LayerNorm((6, 6, 6)), conv(6, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)
    )


def fused_attention():
    """Queries, keys and values from one layer, the number of heads written down."""

    def run(m, x):
        tokens = m.patch(x).flatten(2).transpose(1, 2)
        query, key, value = m.qkv(tokens).reshape(len(x), -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return m.head(m.project(read).mean(1))

    return Of(
        run, patch=nn.Conv2d(2, 8, 2, stride=2), qkv=nn.Linear(8, 24), project=nn.Linear(8, 8), head=nn.Linear(8, 4)
    )


def leaking():
    """The classifier's logits are also read by another layer."""

    def run(m, x):
        logits = m.a(x.flatten(1))
        return logits + m.b(logits.relu())

    return Of(run, a=nn.Linear(72, 4), b=nn.Linear(4, 4))


BAD = {
    "split_by_numbers": (split_by_numbers, "a", "fixed sizes"),
    "shuffled": (shuffled, "a", "fixed sizes"),
    "fixed_view": (fixed_view, "a", "fixed sizes"),
    "tied": (tied, "1", "share a weight"),
    "parametrised": (parametrised, "1", "computed from other parameters"),
    "fused_attention": (fused_attention, "qkv", "fixed sizes|alike"),
    "norm_of_places": (norm_of_places, "0", r"1 \(LayerNorm\)"),
    "leaking": (leaking, "a", "returns"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_removed_is_left_alone_with_the_layer_and_the_reason(name):
    factory, layer, reason = BAD[name]
    graph = NetworkGraph(made(factory), X, residual=True)
    assert layer not in [group.name for group in graph.groups]
    assert re.search(reason, graph.left_alone[layer])


def test_the_rest_of_such_a_network_is_pruned():
    graph = NetworkGraph(made(norm_of_places), X)
    assert [group.name for group in graph.groups] == ["2"]


class TransformerLike(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(12, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, dropout=0.1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.layer(self.embed(x.reshape(len(x), 6, 12))).mean(1))


def test_pytorchs_own_transformer_layer_loses_hidden_neurons_only():
    model = made(TransformerLike)
    graph = NetworkGraph(model, X)
    assert [group.name for group in graph.groups] == ["layer.linear1"]
    assert "MultiheadAttention" in graph.left_alone["embed"]
    closed, kept = copy.deepcopy(model), {"layer.linear1": torch.arange(3, 20)}
    with gated(closed, graph.groups, kept), torch.no_grad():
        expected = closed(X)
    graph.remove(graph.groups[0], kept["layer.linear1"])
    with torch.no_grad():
        assert torch.allclose(model(X), expected, atol=1e-5)


def test_dead_units_do_not_hide_a_connection():
    model = made(depthwise)
    with torch.no_grad():
        for path in ("norm1", "norm2", "dw", "a"):
            model.get_submodule(path).weight[1:4] = 0
        model.norm2.bias.fill_(-100)
    graph = NetworkGraph(model, X)
    assert graph.find("a").readers[0].columns.shape == (6, 1)


class Heads(nn.Module):
    """Attention whose number of heads is read off the layers' sizes."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(2, 12, 2, stride=2)
        self.query, self.key, self.value = (nn.Linear(12, 12) for _ in range(3))
        self.project = nn.Linear(12, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = (f(tokens).unflatten(2, (-1, 3)).transpose(1, 2) for f in (self.query, self.key, self.value))
        read = (q @ k.transpose(2, 3) / 3**0.5).softmax(-1) @ v
        return self.head(self.project(read.transpose(1, 2).flatten(2)).mean(1))


def test_heads_are_nodes_of_queries_keys_values_and_projection():
    model = made(Heads)
    group = NetworkGraph(model, X).find("query")
    assert group.writers == ("query", "key", "value") and group.size == 4 and group.width == 3 and not group.plain
    own = torch.arange(12, device="cpu").reshape(4, 3)
    assert all(torch.equal(rows, own) for rows in group.rows)
    assert torch.equal(group.readers[0].columns, own)
    assert group.product_macs == 2 * 9 * 9 * 3


def test_a_method_that_scores_single_output_units_leaves_heads_alone_and_says_so():
    data = Calibration(X, torch.zeros(3, dtype=torch.int64), torch.arange(3))
    pruned = Pruner(MagnitudeSelection()).prune(made(Heads), data, Budget("speedup", 1.5))
    assert pruned.achieved["speedup"] > 1.2
    pruned = Pruner(HAPSelection(probes=1)).prune(made(Heads), data, Budget("keep", 0.5))
    assert "its nodes are attention heads of 3 output units each" in pruned.left_alone["query"]
    assert {row["name"]: row["kept"] for row in pruned.layers} == {"patch": 6, "project": 6}
