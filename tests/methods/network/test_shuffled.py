"""Convolutions of several groups behind a channel shuffle: each group loses as many channels."""

import copy

import pytest
import torch
from networks import noise, whole_numbers
from torch import nn
from torch.nn import functional

import secateurs
from methods import NodeLayer, Selection
from methods.allocation import Explicit
from methods.budgets.budget import NodeCost
from methods.compensation import LeastSquares
from methods.network.counting import count_macs
from methods.network.graph import NetworkGraph, gated
from methods.network.kinds.balance import joined, relabelled, unbalanced
from methods.network.kinds.grouped import gathered, spread
from methods.network.nodes import Reader

X, LABELS = noise(6, 3, 8, 8, seed=1), whole_numbers(4, 6, seed=2)


class Shuffled(nn.Module):
    """Two grouped convolutions with a shuffle between them, and a residual stream around them."""

    def __init__(self, width, groups, others=None, shuffle=True):
        super().__init__()
        torch.manual_seed(3)
        self.groups, self.shuffle = groups, shuffle
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.first = nn.Conv2d(width, width, 1, groups=groups)
        self.norm = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.second = nn.Conv2d(width, width, 3, padding=1, groups=others or groups, bias=False)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.norm(self.first(x)).relu()
        if self.shuffle:
            y = y.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        return self.head((x + self.second(self.depthwise(y))).relu().mean((2, 3)))


def made(*arguments, **settings):
    model = Shuffled(*arguments, **settings)
    with torch.no_grad():
        model.norm.running_mean.add_(noise(len(model.norm.weight), seed=4))
    return model.eval()


# width, groups, groups behind the shuffle, nodes of the first convolution, of the stream
CASES = [(16, 2, None, 4, 8), (18, 3, None, 2, 6), (16, 2, 4, 2, 4), (16, 4, 2, 2, 4)]


@pytest.mark.parametrize(("width", "groups", "others", "inner", "stream"), CASES)
def test_removed_is_masked_and_the_claimed_cost_is_the_counted_one(width, groups, others, inner, stream):
    model = made(width, groups, others)
    graph = NetworkGraph(model, X, residual=True)
    assert {group.name: group.size for group in graph.groups} == {"stem": stream, "first": inner}
    assert [group.name for group in NetworkGraph(model, X).groups] == ["first"]
    kept = {"stem": torch.tensor([0, 2]), "first": torch.tensor([1])}
    smaller = copy.deepcopy(model)
    left = NetworkGraph.of(smaller, graph.groups)
    for name, nodes in kept.items():
        left.remove(left.find(name), nodes)
    with torch.no_grad(), gated(model, graph.groups, kept):
        expected = model(X)
    with torch.no_grad():
        assert not torch.allclose(expected, model(X), atol=1e-3)
        torch.testing.assert_close(smaller(X), expected, rtol=1e-5, atol=1e-5)
    assert (smaller.first.groups, smaller.second.groups) == (groups, others or groups)
    claimed = NodeCost(model, X, graph.groups)({name: len(nodes) for name, nodes in kept.items()})
    counted = sum(each.numel() for each in smaller.parameters()), count_macs(smaller, X)
    assert (claimed.compression, claimed.speedup) == counted


@pytest.mark.parametrize("method", ["spectral", "magnitude", "random", "thinet"])
def test_methods_prune_it_through_the_door(method):
    model = made(16, 2)
    only = {"allocation": Explicit({"first": 3})}
    pruned = secateurs.prune(model, X, LABELS, method, keep=0.5, **only)
    assert [(row["name"], row["units"], row["kept"]) for row in pruned.layers] == [("first", 4, 3)]
    assert tuple(pruned.model.second.weight.shape) == (16, 6, 3, 3)


class FirstNodes(Selection[NodeLayer]):
    """Keeps those with the lowest numbers."""

    def scores(self, layer):
        return -torch.arange(layer.size).double()


def closed_off(model, x):
    groups = NetworkGraph(model, x).groups
    with gated(model, groups, {"first": torch.arange(3)}):
        return model(x)


def test_the_repair_is_least_squares_on_what_is_left():
    """Where what goes was computed from what stays, nothing is lost: here the last node repeats the first."""
    model = made(16, 2)
    group = NetworkGraph(model, X).find("first")
    with torch.no_grad():
        for own in (model.first.weight, model.first.bias, model.norm.running_mean):
            own[group.rows[0][3]] = own[group.rows[0][0]]
        model.first.weight[group.rows[0][3]] *= 2
        model.first.bias[group.rows[0][3]] *= 2
        model.norm.running_mean[group.rows[0][3]] *= 2
        model.norm.bias.zero_()
        carried = group.entries[group.carriers.index("depthwise")]
        model.depthwise.weight[carried[3]] = model.depthwise.weight[carried[0]]
        model.depthwise.bias.zero_()
    repair = LeastSquares(ridge=1e-9)
    pruned = secateurs.prune(model, X, LABELS, FirstNodes(), keep=0.75, compensation=repair)
    with torch.no_grad():
        torch.testing.assert_close(pruned.model(X), model(X), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(pruned.model(X), closed_off(model, X), atol=1e-3)


def test_channels_that_no_shuffle_keeps_apart_go_by_whole_groups():
    graph = NetworkGraph(made(16, 2, shuffle=False), X)
    [group] = graph.groups
    assert (group.name, group.size) == ("stem", 2) and {"first", "norm", "depthwise", "second"} == set(group.carriers)


def test_widths_that_the_groups_do_not_divide_are_left_alone_with_a_reason():
    """Five channels of each group: what the shuffle puts into one group behind it, it puts there no more."""
    graph = NetworkGraph(made(10, 2), X, residual=True)
    assert [group.name for group in graph.groups] == ["stem"]
    assert graph.left_alone["first"] == "the 2 groups of second would not lose as many channels each"


def test_a_weight_that_two_of_them_share_is_left_whole():
    """The places of a node in a shared weight are those inside of its groups."""
    model = made(16, 2)
    model.second = nn.Conv2d(16, 16, 1, groups=2, bias=False)
    model.second.weight = model.first.weight
    graph = NetworkGraph(model, X, residual=True)
    assert not graph.groups and graph.left_alone["stem"]


def test_blocks_of_a_weight_are_read_and_written_group_by_group():
    convolution, read = nn.Conv2d(6, 4, 1, groups=2, bias=False), noise(2, 6, 3, 3, seed=5)
    weight = convolution.weight.detach().clone()
    whole = spread(weight, 2)
    torch.testing.assert_close(functional.conv2d(read, whole), convolution(read).detach())
    assert torch.equal(gathered(whole, 2), weight) and spread(weight, 1) is weight
    reader = Reader("", torch.tensor([[0, 3], [1, 4], [2, 5]]), True, 2)
    blocks = reader.weights(weight)
    assert torch.equal(blocks[0, :, 0], weight[0, :, 0, 0]) and not bool(blocks[0, :, 1].any())
    assert torch.equal(blocks[3, :, 1], weight[3, :, 0, 0]) and not bool(blocks[3, :, 0].any())
    after = weight.clone()
    reader.put(after, torch.tensor([0, 2]), 2 * blocks[:, [0, 2]])
    assert torch.equal(after, weight * torch.tensor([2.0, 1.0, 2.0]).view(1, 3, 1, 1))


def test_labels_at_the_same_place_of_each_group_are_joined():
    eight = torch.arange(8, device="cpu")  # labels are kept on the CPU
    groups = eight.chunk(2)
    shuffled = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7], device="cpu").chunk(2)
    assert torch.equal(relabelled(eight, joined([groups])), eight % 4)
    for order in ([groups, shuffled], [shuffled, groups]):
        assert torch.equal(relabelled(eight, joined(order)), eight % 2)
    assert joined([]) == {} and torch.equal(relabelled(eight[:3], {}), eight[:3])
    assert not unbalanced(torch.tensor([[0, 2], [1, 3]]), 4, 2)
    assert unbalanced(torch.tensor([[0, 1], [2, 3]]), 4, 2) and unbalanced(torch.tensor([[0], [2]]), 4, 2)
