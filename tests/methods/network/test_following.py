"""Attention whose modules remember how many heads there are: these numbers follow, and nothing else."""

import copy

import pytest
import torch
from networks import noise
from torch import nn
from torch.nn import functional

from methods.budgets.budget import NodeCost
from methods.network.counting import count_macs
from methods.network.graph import NetworkGraph, gated
from methods.network.surgery import remove_in_training

EXAMPLE = noise(2, 6, 8, seed=1)


class Attention(nn.Module):
    """Queries and (shared) keys and values, reshaped by what the module remembers."""

    def __init__(self, heads=4, shared=1, size=2, causal=False):
        super().__init__()
        self.num_heads, self.num_key_value_groups, self.embed_dim = heads, shared, heads * size
        self.size, self.causal = size, causal
        self.q = nn.Linear(8, heads * size)
        self.k, self.v = (nn.Linear(8, heads // shared * size) for _ in range(2))
        self.out = nn.Linear(heads * size, 8)

    def forward(self, x):
        n = len(x)
        q = self.q(x).view(n, -1, self.num_heads, self.size).transpose(1, 2)
        k, v = (
            layer(x).view(n, -1, self.num_heads // self.num_key_value_groups, self.size).transpose(1, 2)
            for layer in (self.k, self.v)
        )
        k, v = (part.repeat_interleave(self.num_key_value_groups, 1) for part in (k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).reshape(n, -1, self.embed_dim))


class Fused(nn.Module):
    """One layer for all three, split by a number, as in GPT-2."""

    def __init__(self):
        super().__init__()
        self.split_size, self.num_heads, self.size = 8, 4, 2
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        parts = self.qkv(x).split(self.split_size, 2)
        q, k, v = (part.unflatten(2, (-1, self.size)).transpose(1, 2) for part in parts)
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Net(nn.Module):
    def __init__(self, attention):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.attention, self.head = nn.Linear(8, 8), attention, nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x)
        return self.head((x + self.attention(x)).mean(1))


def halved(model):
    """The network without half of its heads; and the group."""
    graph = NetworkGraph(model, EXAMPLE)
    [group] = graph.groups
    kept = {group.name: torch.tensor([1, group.size - 1][: group.size // 2])}
    claimed = NodeCost(model, EXAMPLE, graph.groups)({group.name: len(kept[group.name])})
    smaller = copy.deepcopy(model)
    NetworkGraph.of(smaller, [group]).remove(group, kept[group.name])
    for x in (EXAMPLE, EXAMPLE[:, :5], EXAMPLE[:1]):
        with torch.no_grad(), gated(model, graph.groups, kept):
            expected = model(x)
        with torch.no_grad():
            torch.testing.assert_close(smaller(x), expected)
    assert int(claimed.speedup) == count_macs(smaller, EXAMPLE)
    assert int(claimed.compression) == sum(parameter.numel() for parameter in smaller.parameters())
    return smaller, group, graph.left_alone


@pytest.mark.parametrize("causal", [False, True])
def test_heads_and_their_number_go_together(causal):
    """Copies of keys that are folded into a causal sequence are never looked at: the whole network has to be run."""
    smaller, group, _ = halved(Net(Attention(causal=causal)).eval())
    assert group.writers == ("attention.q", "attention.k", "attention.v")
    assert (group.size, group.width) == (4, 2)
    own = smaller.attention
    assert (own.num_heads, own.embed_dim, own.size, own.num_key_value_groups) == (2, 4, 2, 1)


def test_queries_that_share_keys_go_with_them():
    smaller, group, _ = halved(Net(Attention(heads=4, shared=2, causal=True)).eval())
    assert (group.size, group.width) == (2, 4)
    own = smaller.attention
    assert (own.num_heads, own.num_key_value_groups, own.k.out_features) == (2, 2, 2)


def test_of_queries_that_all_share_one_key_single_ones_go():
    smaller, group, left_alone = halved(Net(Attention(heads=4, shared=4, causal=True)).eval())
    assert (group.writers, group.size) == (("attention.q",), 4)
    own = smaller.attention
    assert (own.num_heads, own.num_key_value_groups, own.k.out_features) == (2, 2, 2)
    assert left_alone["attention.k"] == left_alone["attention.v"] == "all nodes of attention.q share its units"


def test_one_layer_that_is_split_by_a_number():
    smaller, group, _ = halved(Net(Fused()).eval())
    assert (group.size, group.width) == (4, 6)
    assert (smaller.attention.split_size, smaller.attention.qkv.out_features) == (4, 12)


class ReadOff(Attention):
    """Which remembers the numbers, but reads them off."""

    def forward(self, x):
        q, k, v = (layer(x).unflatten(2, (-1, self.size)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_where_the_sizes_are_read_off_nothing_is_changed():
    smaller, group, _ = halved(Net(ReadOff()).eval())
    assert group.follows == ()
    assert smaller.attention.num_heads == 4


class RepeatsWhereAsked(ReadOff):
    """Attention that has the kernel share the key, or repeats it, as libraries do where there is a mask."""

    repeats = False

    def forward(self, x):
        q, k, v = (layer(x).unflatten(2, (-1, self.size)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.repeats:
            k, v = (part.repeat_interleave(self.num_key_value_groups, 1) for part in (k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, enable_gqa=not self.repeats)
        return self.out(mixed.transpose(1, 2).flatten(2))


def test_the_number_of_queries_for_the_only_key_follows_also_where_this_call_does_without():
    smaller, group, _ = halved(Net(RepeatsWhereAsked(heads=4, shared=4)).eval())
    assert (group.writers, group.size) == (("attention.q",), 4)
    own = smaller.attention
    assert own.num_key_value_groups == own.q.out_features // own.k.out_features == 2
    with torch.no_grad():
        expected = smaller(EXAMPLE)
        own.repeats = True
        torch.testing.assert_close(smaller(EXAMPLE), expected)


class Two(nn.Module):
    """Two attentions in turn that go by the same number."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.size = 4, 2
        self.first, self.second = (nn.ModuleList(nn.Linear(8, 8) for _ in range(4)) for _ in range(2))

    def forward(self, x):
        for query, key, value, out in (self.first, self.second):
            q, k, v = (
                layer(x).view(len(x), -1, self.num_heads, self.size).transpose(1, 2) for layer in (query, key, value)
            )
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + out(mixed.transpose(1, 2).flatten(2))
        return x


def test_a_number_that_two_groups_need_is_left_alone_with_both():
    graph = NetworkGraph(Net(Two()).eval(), EXAMPLE)
    assert graph.groups == []
    assert {"attention.first.0", "attention.second.0"} < graph.left_alone.keys()


def test_numbers_follow_in_the_middle_of_a_training():
    model = Net(Attention()).eval()
    graph = NetworkGraph(model, EXAMPLE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(EXAMPLE).square().sum().backward()
    optimizer.step()
    remove_in_training(graph, {graph.groups[0].name: torch.tensor([0, 2, 3])}, optimizer)
    assert model.attention.num_heads == 3
    model(EXAMPLE).square().sum().backward()
    optimizer.step()
    assert model.attention.out.in_features == 6
