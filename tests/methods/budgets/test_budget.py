"""The search for sizes that meet a budget; measured ones with a clock that is a rule instead of a machine."""

import copy
import itertools
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import calibration, make

from methods.allocation import Rounded, Uniform
from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget, Cost, NodeCost, count_macs
from methods.budgets.latency_cost import LatencyCost, forward_seconds, relative_time
from methods.budgets.meeting import meet
from methods.errors import BadInput
from methods.layers.statistics import Calibration
from methods.network.graph import NetworkGraph
from methods.pruner import Pruner

DATA = calibration()


def by_macs(model, inputs, repeats):
    """A machine whose time is its MACs and a fixed overhead."""
    return repeats * (2000 + count_macs(model, inputs))


def timed(model):
    graph = NetworkGraph(model, DATA.inputs)
    return LatencyCost(graph, NodeCost(model, DATA.inputs, graph.groups), model, DATA.inputs, by_macs)


def test_the_search_finds_the_widths_that_take_the_time_asked_for():
    model = make("convolution")
    cost = timed(model)
    dense = cost.count(cost.sizes)
    counts, note = meet(
        Budget("latency", 1.5), lambda s: {n: max(1, round(s * m)) for n, m in cost.sizes.items()}, cost, dense
    )
    reached = cost(counts).achieved(dense)["latency"]
    built = cost.built(counts)
    assert reached == pytest.approx(by_macs(model, DATA.inputs, 1) / by_macs(built, DATA.inputs, 1))
    assert note is None and reached == pytest.approx(1.5, rel=0.05)
    assert {p.shape for p in built.parameters()} != {p.shape for p in model.parameters()}


def test_a_speed_that_the_overhead_forbids_is_refused_with_what_can_be_reached():
    cost = timed(make("convolution"))
    with pytest.raises(BadInput, match="budget.latency=100 cannot be reached.*ask for less"):
        meet(Budget("latency", 100), Uniform().family(_layers(cost), None), cost, cost.count(cost.sizes))


def _layers(cost):
    return [type("Layer", (), {"name": name, "size": size})() for name, size in cost.sizes.items()]


def test_the_same_sizes_are_timed_once_and_the_network_is_left_alone():
    model = make("chain")
    before = copy.deepcopy(model.state_dict())
    calls = []
    cost = timed(model)
    cost.clock = lambda *arguments: calls.append(1) or by_macs(*arguments)
    half = {name: size // 2 for name, size in cost.sizes.items()}
    assert cost(half) == cost(dict(half))
    assert len(calls) == 2 + 2 * 9
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_relative_time_is_the_median_of_pairs():
    ticks = iter([1, 1, 2.0, 4.0, 9.0, 4.0, *[2.0, 4.0] * 7])
    assert relative_time(make("chain"), make("chain"), DATA.inputs, lambda *_: next(ticks)) == 0.5


def test_a_latency_budget_is_met_and_recorded_by_the_pruner(monkeypatch):
    monkeypatch.setattr("methods.budgets.latency_cost.forward_seconds", by_macs)
    pruned = Pruner(MagnitudeSelection()).prune(make("convolution"), DATA, Budget("latency", 1.5))
    assert pruned.achieved["latency"] == pytest.approx(1.5, rel=0.1)
    assert set(pruned.achieved) == {"keep", "compression", "speedup", "latency"}
    rounded = Pruner(MagnitudeSelection(), Rounded(Uniform(), 2)).prune(
        make("convolution"), DATA, Budget("latency", 1.5)
    )
    assert all(row["kept"] % 2 == 0 for row in rounded.layers)


def test_a_real_clock_gives_a_positive_time():
    assert forward_seconds(make("chain"), DATA.inputs, 2) > 0


def test_latency_of_masked_weights_is_refused():
    with pytest.raises(BadInput, match="masked weights bring none.*\ntype budget.compression"):
        Pruner(MagnitudeSelection("edge")).prune(make("chain"), DATA, Budget("latency", 2))


def test_parsing():
    section = {"keep": None, "compression": None, "speedup": None, "latency": 2, "default_compression": 4}
    assert Budget.parse(section) == Budget("latency", 2.0, 32)
    assert Budget.parse({**section, "latency": None}) == Budget("compression", 4.0)
    assert Budget.parse({"default_keep": 0.2}) == Budget("keep", 0.2), "of a record from before"
    assert Budget.parse({**section, "latency_batch": 4}).at(0.25) == Budget("latency", 4.0, 4)
    with pytest.raises(BadInput, match="latency_batch=0"):
        Budget.parse({**section, "latency_batch": 0})
    with pytest.raises(BadInput, match="budget.latency=0.5 is outside"):
        Budget("latency", 0.5)


def chain_cost(positions):
    """MACs of layers in a row, the i-th of which has counts[i] outputs, counts[i-1] inputs and so many positions."""

    def cost(counts):
        sizes = [1, *counts.values(), 10]
        macs = sum(a * b * n for (a, b), n in zip(itertools.pairwise(sizes), positions, strict=True))
        return Cost(sum(counts.values()), macs, macs)

    return cost


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=4),
    st.lists(st.integers(1, 500), min_size=5, max_size=5),
    st.floats(1, 40),
)
def test_narrow_layers_are_held_where_their_next_unit_would_cost_too_much(sizes, positions, speedup):
    """No budget is missed while another layer could still go on along the family; held layers were at its bottom."""
    sizes = {f"layer{i}": size for i, size in enumerate(sizes)}
    cost = chain_cost(positions[: len(sizes) + 1])
    dense, limit = cost(sizes), cost(sizes).speedup / speedup

    def family(s):
        return {name: max(1, round(s * size)) for name, size in sizes.items()}

    if cost(family(0.0)).speedup > 1.01 * limit:
        with pytest.raises(BadInput, match="cannot be reached"):
            meet(Budget("speedup", speedup), family, cost, dense)
        return
    counts, note = meet(Budget("speedup", speedup), family, cost, dense)
    off = cost(counts).speedup / limit - 1
    assert all(1 <= counts[name] <= size for name, size in sizes.items())
    assert (note is None) == (abs(dense.speedup / cost(counts).speedup / speedup - 1) <= 0.01)
    members = [family(k / 2000) for k in range(2001)]
    assert abs(off) <= min(abs(cost(member).speedup / limit - 1) for member in members) + 1e-12
    if note and off < 0:  # not one unit more fits better, whichever layer takes it
        for name in (name for name, size in sizes.items() if counts[name] < size):
            grown = cost({**counts, name: counts[name] + 1}).speedup / limit - 1
            assert grown > 0 and grown >= -off


def test_narrow_convolutions_are_held_and_the_layers_behind_them_share_one_fraction():
    """LeNet-5's six first channels at speed-up 4: equal fractions jump from 3.4 to 7.7, a held layer meets it."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 5, padding=2),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 16, 5),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(1600, 120),
        torch.nn.ReLU(),
        torch.nn.Linear(120, 84),
        torch.nn.ReLU(),
        torch.nn.Linear(84, 10),
    )
    images = torch.randn(40, 1, 28, 28)
    data = Calibration(images, torch.zeros(40, dtype=torch.long), torch.arange(40), seed=0, batch_size=40)
    pruned = Pruner(MagnitudeSelection()).prune(model, data, Budget("speedup", 4))
    assert pruned.note is None and pruned.achieved["speedup"] == pytest.approx(4, rel=0.01)
    first, second, *dense = [row["kept"] / row["units"] for row in pruned.layers]
    assert first < second < min(dense) and max(dense) - min(dense) <= 2 / 84


def jumping(small, large):
    """A family that has two members."""
    return lambda s: small if s < 0.5 else large


def units(counts):
    """A cost that counts units, of a hundred."""
    return Cost(*(float(sum(counts.values())) for _ in fields(Cost)))


@pytest.mark.parametrize("keep", [0.2, 0.35, 0.5, 0.62])
def test_where_a_family_jumps_the_steps_between_are_tried_one_unit_at_a_time(keep):
    counts, note = meet(Budget("keep", keep), jumping({"a": 4, "b": 5}, {"a": 40, "b": 60}), units, units({"a": 100}))
    assert sum(counts.values()) == round(100 * keep) and note is None


def test_all_that_an_allocation_allows_is_taken_within_a_clocks_tolerance_and_never_above_a_counted_budget():
    kept = {}
    for kind in ("speedup", "latency"):
        budget = Budget(kind, 2.0)
        over = round(1000 * (1 + budget.tolerance * 0.9) / 2)  # a little more than half, within the tolerance
        found, _ = meet(budget, lambda s, over=over: {"a": max(1, round(s * over))}, units, units({"a": 1000}))
        kept[kind] = found["a"] - over
    assert kept["latency"] == 0
    assert kept["speedup"] < 0


def test_of_a_jump_that_does_not_fit_the_part_that_fits_is_made():
    """Two layers that jump together from 2 to 10 units: the budget in between is met all the same."""

    def family(s):
        return {"a": 2, "b": 2} if s < 0.5 else {"a": 10, "b": 10}

    def cost(counts):
        return Cost(keep=1.0, compression=100.0 * counts["a"] + 7 * counts["b"], speedup=1.0)

    dense = cost(family(1.0))
    for value in (1.3, 1.7, 2.0, 3.0):
        counts, note = meet(Budget("compression", value), family, cost, dense)
        reached = cost(counts).achieved(dense)["compression"]
        best = min(abs(dense.compression / (100 * a + 7 * b) / value - 1) for a in range(2, 11) for b in range(2, 11))
        assert abs(reached / value - 1) <= max(0.01, best + 0.03), (value, counts, note)
