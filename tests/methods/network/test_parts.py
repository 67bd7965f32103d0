"""Parts of a layer's units, where the forward pass splits, slices or chunks what it gives: groups of their own."""

import copy

import pytest
import torch
from networks import noise
from torch import nn
from torch.nn import functional

from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget, NodeCost
from methods.layers.statistics import Calibration
from methods.network.counting import count_macs
from methods.network.graph import NetworkGraph, gated
from methods.pruner import Pruner
from methods.spectral.selection import SpectralSelection

X = noise(24, 8)
LABELS = torch.arange(24) % 3


class Of(nn.Module):
    """A layer of 16 units, what is made of them, and a head."""

    def __init__(self, run, head=16, **remembered):
        super().__init__()
        self.run = run
        self.first, self.one, self.other = nn.Linear(8, 16), nn.Linear(6, 9), nn.Linear(10, 9)
        self.head = nn.Linear(head, 3)
        for name, value in remembered.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.head(self.run(self, self.first(x)))


def summed(one, other):
    return lambda m, parts: (m.one(one(parts[0])) + m.other(other(parts[1]))).relu()


def acted(parts):
    return torch.cat([parts[1].sigmoid(), parts[0].relu()], 1)


def split_by_list():
    return Of(lambda m, y: summed(torch.relu, torch.tanh)(m, y.split(m.sizes, 1)), head=9, sizes=(6, 10))


def split_by_numbers_of_the_module():
    return Of(lambda m, y: summed(torch.relu, torch.tanh)(m, y.split([m.p, m.q], 1)), head=9, p=6, q=10)


def sliced():
    return Of(lambda m, y: summed(torch.relu, torch.tanh)(m, (y[:, : m.first_units], y[:, m.first_units :])), 9,
              first_units=6)  # fmt: skip


def sliced_at_the_end():
    def run(m, y):
        return (m.one(y[:, : m.stop].relu()) + m.other(y[:, m.stop : m.total].tanh())).relu()

    return Of(run, head=9, stop=6, total=16)


def chunked():
    return Of(lambda m, y: acted(y.chunk(2, 1)))


def split_and_joined():
    return Of(lambda m, y: acted(y.split(m.sizes, 1)), sizes=[6, 10])


def gate_and_rest():
    def run(m, y):
        value, gate, rest = y.split([m.hidden, m.hidden, m.rest], 1)
        return torch.cat([value * gate.sigmoid(), rest], 1)

    return Of(run, head=11, hidden=5, rest=6)


FOUND = {  # nodes of each group, and what attributes are when half of them are left
    split_by_list: ({"first[0:6]": 6, "first[6:16]": 10}, {"sizes": (3, 5)}),
    split_by_numbers_of_the_module: ({"first[0:6]": 6, "first[6:16]": 10}, {"p": 3, "q": 5}),
    sliced: ({"first[0:6]": 6, "first[6:16]": 10}, {"first_units": 3}),
    sliced_at_the_end: ({"first[0:6]": 6, "first[6:16]": 10}, {"stop": 3}),
    chunked: ({"first": 8}, {}),
    split_and_joined: ({"first[0:6]": 6, "first[6:16]": 10}, {"sizes": [3, 5]}),
    gate_and_rest: ({"first[0:10]": 5, "first[10:16]": 6}, {"hidden": 3, "rest": 3}),
}


def made(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return build().eval()


@pytest.mark.parametrize("build", FOUND, ids=lambda build: build.__name__)
def test_parts_are_groups_removed_equals_masked_sizes_follow_and_it_trains(build):
    model, (expected, remembered) = made(build), FOUND[build]
    graph = NetworkGraph(model, X[:2])
    assert {group.name: group.size for group in graph.groups} == expected
    kept = {group.name: torch.arange(0, group.size, 2) for group in graph.groups}
    smaller = copy.deepcopy(model)
    left = NetworkGraph.of(smaller, graph.groups)
    for name in reversed(kept):  # the last part first, so that rows of the others must not shift
        left.remove(left.find(name), kept[name])
    for batch in (1, 5):
        with torch.no_grad(), gated(model, graph.groups, kept):
            masked = model(X[:batch])
        with torch.no_grad():
            assert torch.allclose(smaller(X[:batch]), masked, atol=1e-5)
            assert not torch.allclose(model(X[:batch]), masked, atol=1e-3)
    cost = NodeCost(model, X, graph.groups)({name: len(nodes) for name, nodes in kept.items()})
    assert cost.compression == sum(parameter.numel() for parameter in smaller.parameters())
    assert cost.speedup == count_macs(smaller, X)
    assert {name: getattr(smaller, name) for name in remembered} == remembered
    functional.cross_entropy(smaller(X), LABELS).backward()
    assert all(bool(parameter.grad.isfinite().all()) for name, parameter in smaller.named_parameters()
               if not (name.startswith(("one", "other")) and parameter.grad is None))  # fmt: skip


@pytest.mark.parametrize("selection", [lambda: MagnitudeSelection("node"), SpectralSelection])
@pytest.mark.parametrize("build", [split_by_list, gate_and_rest, chunked], ids=lambda build: build.__name__)
def test_methods_prune_parts(build, selection):
    model = made(build)
    samples = Calibration(X, LABELS, batch_size=16)
    pruned = Pruner(selection()).prune(model, samples, Budget("keep", 0.5))
    assert {row["name"]: row["units"] for row in pruned.layers}.keys() >= FOUND[build][0].keys()
    assert pruned.model(X).shape == (24, 3)
    assert pruned.model.first.out_features < 16


def test_sizes_that_the_code_has_written_down_leave_the_layer_alone():
    model = made(lambda: Of(lambda m, y: summed(torch.relu, torch.tanh)(m, y.split([6, 10], 1)), head=9))
    graph = NetworkGraph(model, X[:2])
    assert not [group for group in graph.groups if "first" in group.writers]
    assert "fixed sizes (split_with_sizes expects" in graph.left_alone["first"]


def test_half_of_a_chunk_is_no_group_by_chance():
    """Whichever units are tried, those of one half alone cannot go: a chunk would then be cut elsewhere."""
    for units in (8, 10, 12):
        model = made(lambda units=units: Of(lambda m, y: acted(y.chunk(2, 1)), head=units))
        model.first = nn.Linear(8, units)
        [group] = NetworkGraph(model, X[:2]).groups
        assert (group.size, group.width) == (units // 2, 2)
        assert torch.equal(group.rows[0], torch.arange(units, device="cpu").view(2, -1).T)


def test_the_shape_that_a_vector_is_brought_into_follows():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = nn.Linear(8, 32), nn.Unflatten(1, (8, 2, 2)), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2), nn.Flatten()
        model = nn.Sequential(*layers, nn.Linear(36, 3)).eval()
    graph = NetworkGraph(model, X[:2])
    assert {group.name: (group.size, group.width) for group in graph.groups} == {"0": (8, 4), "3": (4, 1)}
    kept = {"0": torch.tensor([0, 2, 3, 7, 5]).sort().values}
    with torch.no_grad(), gated(model, graph.groups, kept):
        masked = model(X)
    graph.remove(graph.find("0"), kept["0"])
    assert model[1].unflattened_size == (5, 2, 2)
    assert torch.allclose(model(X), masked, atol=1e-5)


FIXED = {
    "the first unit": lambda m, y: torch.cat([y[:, :1].sigmoid(), y[:, 1:].relu()], 1),
    "the last unit": lambda m, y: torch.cat([y[:, :-1].relu(), y[:, -1:].tanh()], 1),
    "the last three": lambda m, y: torch.cat([y[:, :-3].relu(), y[:, -3:].tanh()], 1),
    "the first four": lambda m, y: torch.cat([y[:, :4].sigmoid(), y[:, 4:].relu()], 1),
    "every other one": lambda m, y: torch.cat([y[:, ::2].relu(), y[:, 1::2].tanh()], 1),
    "each one further": lambda m, y: y.roll(1, 1).relu(),
}


@pytest.mark.parametrize("fixed", FIXED)
def test_places_written_down_fit_no_part_by_chance(fixed):
    for units in (8, 10, 13, 16, 21):
        model = Of(FIXED[fixed], units)
        model.first, model.one, model.other = nn.Linear(8, units), nn.Identity(), nn.Identity()
        graph = NetworkGraph(model, X[:2])
        assert [group.name for group in graph.groups] == [], units
        assert any(name.startswith("first") for name in graph.left_alone), units


def test_numbers_that_are_as_large_by_chance_stay():
    model = Of(
        lambda m, y: acted([y[:, m.k :], y[:, : m.k]]), 16, k=6, classes=6, patience=16, longest=10, counts=[6, 1, 10]
    )
    calibration = Calibration(X, LABELS)
    pruned = Pruner(MagnitudeSelection("node")).prune(model, calibration, Budget("keep", 0.5)).model
    assert (pruned.k, pruned.first.out_features) == (3, 8)
    assert (pruned.classes, pruned.patience, pruned.longest, pruned.counts) == (6, 16, 10, [6, 1, 10])


def test_every_part_is_in_a_group_or_has_a_reason():
    model = Of(lambda m, y: acted([y[:, m.k :].clamp(-1, 1) * y[:, 7:8].sigmoid(), y[:, : m.k]]), 16, k=6)
    graph = NetworkGraph(model, X[:2])
    rows = [group.rows[0].flatten() for group in graph.groups if group.writers[0] == "first"]
    inside = {int(row) for own in rows for row in own}
    assert inside <= set(range(6))
    assert len(inside) == 16 or any(name.startswith("first") for name in graph.left_alone)
