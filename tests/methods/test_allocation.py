"""Counts per layer: multiples, copies, and what every allocation promises."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import calibration, make, placed

from methods.allocation import Allocation, Copied, Everything, Global, Rounded, Uniform
from methods.baselines.magnitude import MagnitudeSelection
from methods.baselines.random import RandomSelection
from methods.budgets.budget import Budget
from methods.compensation import LeastSquares
from methods.errors import BadInput, Skipped
from methods.hessian.obd import OBDSelection
from methods.layers.seen import NodeLayer
from methods.network.graph import NetworkGraph, NodeGroup
from methods.pruner import Pruner
from methods.schedule import Iterative

DATA = calibration()


def layer(name, size, width=1):
    rows = torch.arange(size * width).reshape(size, width)
    return NodeLayer(NodeGroup(name, size, (name,), (), (), (rows,), ()), None, DATA, None, None)


class Fixed(Allocation):
    def __init__(self, counts):
        self.counts = counts

    def family(self, layers, selection):
        return lambda _s: self.counts


@given(size=st.integers(1, 70), count=st.integers(1, 70), multiple=st.integers(1, 20), width=st.integers(1, 12))
@settings(deadline=None, max_examples=200)
def test_rounded_counts_are_the_nearest_allowed_ones(size, count, multiple, width):
    count = min(size, count)
    found = Rounded(Fixed({"a": count}), multiple).family([layer("a", size, width)], None)(0.5)["a"]
    allowed = [k for k in range(1, size + 1) if k == size or (k * width) % multiple == 0]
    assert found in allowed
    assert abs(found - count) == min(abs(k - count) for k in allowed)


@given(st.integers(1, 16))
@settings(deadline=None, max_examples=16)
def test_rounding_is_monotone_and_keeps_everything_at_the_end(multiple):
    layers = [layer("a", 50), layer("b", 7)]
    family = Rounded(Uniform(), multiple).family(layers, None)
    counts = [family(s / 100) for s in range(101)]
    for name in ("a", "b"):
        row = [each[name] for each in counts]
        assert row == sorted(row)
    assert counts[-1] == {"a": 50, "b": 7}


@pytest.mark.parametrize("inner", [Uniform(), Global(normalise="mean")])
def test_a_pruned_network_has_the_widths_asked_for_and_the_nearest_cost(inner, device):
    model, data = placed(make("chain"), device), placed(DATA, device)
    pruned = Pruner(MagnitudeSelection(), Rounded(inner, 4)).prune(model, data, Budget("speedup", 2.0))
    assert all(row["kept"] % 4 == 0 for row in pruned.layers)

    def macs(first, second):
        return 64 * first + first * second + 4 * second

    achieved = pruned.achieved["speedup"]
    assert achieved == macs(20, 16) / macs(*(row["kept"] for row in pruned.layers))
    for other in ((20, 16), (16, 12), (8, 8), (4, 4)):  # the other widths of equal shares, in steps of four
        assert abs(achieved - 2) < abs(macs(20, 16) / macs(*other) - 2)
    assert pruned.note == f"nearest reachable size: speedup={achieved:.4g} for the requested 2"


def test_rounding_is_refused_for_edges_and_for_nonsense():
    with pytest.raises(BadInput, match="round_to=8 rounds numbers of channels"):
        Pruner(MagnitudeSelection("edge"), Rounded(Uniform(), 8)).prune(make("chain"), DATA, Budget("keep", 0.5))
    with pytest.raises(BadInput, match="round_to=0"):
        Rounded(Uniform(), 0)


@pytest.mark.parametrize("unit", ["node", "edge"])
@pytest.mark.parametrize("gradual", [False, True])
def test_copied_counts_are_exactly_those_of_the_donor(unit, gradual, device):
    model, budget, data = placed(make("convolution"), device), Budget("compression", 2.0), placed(DATA, device)
    schedule = Iterative(3) if gradual else None
    donor = Pruner(MagnitudeSelection(unit), Global(normalise="mean"), schedule=schedule).prune(model, data, budget)
    counts = {row["name"]: row["kept"] for row in donor.layers}
    seen = []
    copy = Pruner(RandomSelection(unit), Copied(counts, "magnitude", gradual), schedule=schedule).prune(
        model, data, budget, train=lambda *_: seen.append(1)
    )
    assert {row["name"]: row["kept"] for row in copy.layers} == counts
    assert copy.achieved == donor.achieved
    if gradual:
        sizes = [step["compression"] for step in copy.steps]
        assert sizes == sorted(sizes) and sizes[0] < sizes[-1] and seen == [1, 1]


@pytest.mark.parametrize("unit", ["node", "edge"])
def test_everything_stays_whatever_the_budget(unit, device):
    model, data = placed(make("convolution"), device), placed(DATA, device)
    pruned = Pruner(RandomSelection(unit), Everything()).prune(model, data, Budget("compression", 4.0))
    assert all(row["kept"] == row["units"] for row in pruned.layers)
    assert pruned.achieved["compression"] == 1 and "the budget was not consulted" in pruned.note
    assert torch.equal(pruned.model(data.inputs), model.eval()(data.inputs))


def test_a_shape_from_another_initialisation_has_the_masks_of_the_trained_network():
    """What the control ``scratch`` of an edge method rests on: masks come from the weights before they are rewound."""
    trained, other, budget = make("chain"), make("chain", seed=1), Budget("compression", 3.0)
    donor = Pruner(OBDSelection(), Global(per_cost=True), LeastSquares()).prune(trained, DATA, budget)
    scratch = Pruner(OBDSelection(), Global(per_cost=True), schedule=Iterative(1, rewind="new"))
    again = scratch.prune(trained, DATA, budget, rewind=other)
    assert again.masks.keys() == donor.masks.keys()
    for name, mask in donor.masks.items():
        assert torch.equal(mask, again.masks[name])
        weight = again.model.get_parameter(name)
        assert torch.equal(weight[mask] != 0, other.get_parameter(name)[mask] != 0)
        assert not torch.allclose(weight, trained.get_parameter(name) * mask)


def test_copied_counts_that_do_not_fit_are_no_failure_of_the_method():
    with pytest.raises(Skipped, match="counts of spectral do not fit.*not in both"):
        Pruner(RandomSelection(), Copied({"9": 3}, "spectral")).prune(make("chain"), DATA, Budget("keep", 0.5))
    sizes = {group.name: group.size + 1 for group in NetworkGraph(make("chain"), DATA.inputs).groups}
    with pytest.raises(Skipped, match="fewer units"):
        Pruner(RandomSelection(), Copied(sizes)).prune(make("chain"), DATA, Budget("keep", 0.5))
