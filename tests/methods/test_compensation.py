"""Reweighting against least squares by definition, for every set that may stay (Mariet & Sra 2016, section 3.2)."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import noise
from torch import nn

from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.compensation import Compensation, LeastSquares
from methods.layers.ridge import solve_ridge
from methods.layers.seen import NodeLayer
from methods.layers.statistics import Calibration, Moments
from methods.network.graph import NetworkGraph
from methods.pruner import Pruner
from methods.pruning.writing_out import write_out
from methods.seeds import stream

ITEMS = 5


def regression(activations: torch.Tensor, weight: torch.Tensor, kept: list[int]) -> torch.Tensor:
    """(k, out) weights that take over, from second moments alone."""
    second = activations.T @ activations / len(activations)
    none = torch.zeros(len(kept), dtype=torch.float64)
    return solve_ridge(second[kept][:, kept], second[kept] @ weight, none)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(8, 40))
def test_reweighting_is_the_least_squares_solution_for_every_set(seed, samples):
    generator = torch.Generator().manual_seed(seed)
    activations = torch.randn(samples, ITEMS, generator=generator, dtype=torch.float64)
    weight = torch.randn(ITEMS, 3, generator=generator, dtype=torch.float64)
    target, errors = activations @ weight, {}
    scale = float(activations.norm() * target.norm())
    for size in range(1, ITEMS + 1):
        for kept in itertools.combinations(range(ITEMS), size):
            own = activations[:, list(kept)]
            new = regression(activations, weight, list(kept))
            residual = own @ new - target
            assert (own.T @ residual).abs().max() <= 1e-8 * scale
            torch.testing.assert_close(new, torch.linalg.lstsq(own, target).solution, rtol=1e-6, atol=1e-8)
            errors[kept] = float(residual.square().sum())
            assert errors[kept] <= float((own @ weight[list(kept)] - target).square().sum()) + 1e-9 * scale
    torch.testing.assert_close(regression(activations, weight, list(range(ITEMS))), weight, rtol=1e-8, atol=1e-10)
    for kept, error in errors.items():  # one more item never makes it worse
        for more in set(range(ITEMS)) - set(kept):
            assert errors[tuple(sorted({*kept, more}))] <= error + 1e-9 * scale


@pytest.mark.parametrize("removed", range(ITEMS))
def test_a_removed_combination_of_kept_ones_is_replaced_exactly(removed):
    generator = torch.Generator().manual_seed(removed)
    activations = torch.randn(30, ITEMS, generator=generator, dtype=torch.float64)
    kept = [item for item in range(ITEMS) if item != removed]
    activations[:, removed] = activations[:, kept] @ torch.randn(ITEMS - 1, generator=generator, dtype=torch.float64)
    weight = torch.randn(ITEMS, 3, generator=generator, dtype=torch.float64)
    new = regression(activations, weight, kept)
    assert (activations[:, kept] @ new - activations @ weight).abs().max() <= 1e-10


class TwoReaders(nn.Module):
    """Two linear layers read the same nodes."""

    def __init__(self, first_bias: bool = True, second_bias: bool = True) -> None:
        super().__init__()
        self.writer = nn.Linear(3, ITEMS)
        self.first, self.second = nn.Linear(ITEMS, 4, bias=first_bias), nn.Linear(ITEMS, 2, bias=second_bias)

    def forward(self, x):
        read = self.writer(x).relu()
        return torch.cat([self.first(read), self.second(read)], 1)


def layer_of(model: nn.Module, rows: list[torch.Tensor], now: list[torch.Tensor] | None = None) -> NodeLayer:
    """The one group of a network, with (samples, m) rows per reader as what it read at first and what it reads now."""
    inputs, labels = torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64)
    [group] = NetworkGraph(model, inputs).groups

    def moments(left: torch.Tensor, right: torch.Tensor) -> Moments:
        return Moments(left.T @ right / len(left), left.mean(0), len(left))

    paired = None
    if now is not None:
        paired = lambda: [(moments(a, b), moments(b, b)) for a, b in zip(rows, now, strict=True)]  # noqa: E731
    collect = lambda: [moments(own, own) for own in rows]  # noqa: E731
    calibration = Calibration(inputs, labels, labels)
    return NodeLayer(group, model, calibration, stream(0, "test"), collect, paired=paired)


def features(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(50, ITEMS, generator=generator, dtype=torch.float64) + 2


def test_what_several_readers_read_counts_equally():
    first, second = features(0), features(1)
    layer = layer_of(TwoReaders(), [first, second])
    assert torch.allclose(layer.covariance, (first.T @ first + second.T @ second) / 100)


@pytest.mark.parametrize("refit", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("biases", [(True, True), (False, True)])
def test_reconstruction_is_the_least_squares_solution_of_each_reader(refit, intercept, biases):
    """With refit the original features are regressed on the pruned network's; a constant only where a bias takes it."""
    rows, now = [features(0), features(1)], [features(2), features(3)]
    layer, kept = layer_of(TwoReaders(*biases), rows, now), torch.tensor([3, 0, 4])
    found = LeastSquares(intercept=intercept, refit=refit).reconstruction(layer, kept, MagnitudeSelection())
    for each, target, present, bias in zip(found, rows, now if refit else rows, biases, strict=True):
        regressors = present[:, kept]
        if fitted := intercept and bias:
            regressors = torch.cat([regressors, torch.ones(50, 1, dtype=torch.float64)], 1)
        expected = torch.linalg.lstsq(regressors, target).solution.T
        assert torch.allclose(each.matrix, expected[:, :3], atol=1e-9)
        assert (each.shift is not None) == fitted
        if each.shift is not None:
            assert torch.allclose(each.shift, expected[:, 3], atol=1e-9)


def test_the_presets_repair_is_the_same_whoever_selects():
    """A selection's order and its own ridge change nothing once ridge and refit are given."""
    rows, now = [features(0), features(1)], [features(2), features(3)]
    layer, kept = layer_of(TwoReaders(), rows, now), torch.tensor([0, 2, 4])

    class Forward(MagnitudeSelection):
        order = "forward"

        def ridge(self, layer, kept):
            return torch.full((len(kept),), 7.0, dtype=torch.float64)

    same = LeastSquares(ridge=1e-3, refit=True)
    for one, other in zip(
        same.reconstruction(layer, kept, MagnitudeSelection()), same.reconstruction(layer, kept, Forward()), strict=True
    ):
        assert torch.equal(one.matrix, other.matrix)
    published = LeastSquares()
    one, other = (published.reconstruction(layer, kept, each)[0].matrix for each in (MagnitudeSelection(), Forward()))
    assert not torch.allclose(one, other)


def test_refitted_edges_are_the_regression_on_what_the_pruned_network_reads():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).double()
    inputs = torch.randn(200, 6, dtype=torch.float64)
    data = Calibration(inputs, torch.zeros(200, dtype=torch.int64), torch.arange(200))
    pruner = Pruner(MagnitudeSelection("edge"), compensation=LeastSquares(ridge=0.0, refit=True))
    pruned = pruner.prune(model, data, Budget("keep", 0.5))
    with torch.no_grad():
        target = model[1](model[0](inputs)) @ model[2].weight.T
        read = pruned.model[1](pruned.model[0](inputs))
        mask = pruned.masks["2.weight"]
        for row in range(4):
            best = torch.linalg.lstsq(read[:, mask[row]], target[:, [row]], driver="gelsd").solution.squeeze(1)
            assert torch.allclose(pruned.model[2].weight[row, mask[row]], best, atol=1e-6)


class Recurrent(nn.Module):
    """A hidden unit of an LSTM is four output units, one of each gate."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class OfUsers(Compensation):
    """A repair of somebody's own, which says nothing of units."""


class OneByOne(OfUsers):
    single_units = True


def test_a_repair_takes_groups_of_several_units_unless_it_says_otherwise():
    model, x = Recurrent(), noise(2, 5, 3)
    assert write_out(model, x)
    (group,) = NetworkGraph(model, x).groups
    assert OfUsers.leaves_alone(OfUsers, group) is None
    assert "hidden units of 4 output units each" in OneByOne.leaves_alone(OneByOne, group)
