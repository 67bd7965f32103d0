"""The experimental variant of spectral pruning for a shifted domain."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import make

from methods.budgets.budget import Budget
from methods.errors import BadInput
from methods.layers.statistics import Calibration
from methods.pruner import Pruner
from methods.seeds import stream
from methods.spectral.moment_matching import (
    DomainLeastSquares,
    MomentMatchingSelection,
    Shift,
    greedy_matching,
    moment_mismatch,
)
from methods.spectral.selection import SpectralSelection, greedy_selection, information_loss


def problem(seed, m=7):
    generator = stream(seed, "matching")
    x = torch.randn(50, m, generator=generator, dtype=torch.float64).clamp(min=0)
    other = x + 0.5 * torch.randn(50, m, generator=generator, dtype=torch.float64)
    rows = torch.randn(3, m, generator=generator, dtype=torch.float64)
    return x.T @ x / 50, other.T @ other / 50, 0.5 * torch.eye(m, dtype=torch.float64) + rows.T @ rows / 6


def data(n=200):
    x = torch.randn(n, 1, 8, 8, generator=stream(0, "images"), dtype=torch.float64)
    return Calibration(x, torch.zeros(n), torch.arange(n), batch_size=64)


def test_mismatch_counts_the_kept_nodes_only():
    source, target, _ = problem(0)
    kept = torch.tensor([1, 4])
    expected = sum((source[i, j] - target[i, j]) ** 2 for i in (1, 4) for j in (1, 4))
    assert float(moment_mismatch(source, target, kept)) == pytest.approx(float(expected))
    assert float(moment_mismatch(source, source)) == 0


@pytest.mark.verifies("spectral_domain", by="brute force")
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([0.0, 0.3, 5.0]))
@settings(deadline=None, max_examples=40)
def test_each_pick_is_the_best_next_node_by_definition(seed, k, gamma):
    source, target, metric = problem(seed)
    penalty = gamma * (source - target).square()
    ridge = 0.01 * source.diagonal()

    def objective(nodes):
        kept = torch.tensor(nodes)
        loss = information_loss(source, kept, ridge[kept], metric)
        return float(loss + gamma * moment_mismatch(source, target, kept))

    order = greedy_matching(source, k, ridge, metric, penalty).tolist()
    for step in range(k):
        values = {j: objective([*order[:step], j]) for j in range(7) if j not in order[:step]}
        assert values[order[step]] <= min(values.values()) * (1 + 1e-7)
    if gamma == 0:
        assert order == greedy_selection(source, k, ridge, metric).tolist()


def test_without_penalty_on_the_source_it_is_spectral_pruning():
    model = make("convolution").double()
    own = Pruner(MomentMatchingSelection("source", 0.0), compensation=DomainLeastSquares())
    plain = Pruner(SpectralSelection(), compensation=DomainLeastSquares())
    first, second = (pruner.prune(model, data(), Budget("keep", 0.5)).model for pruner in (own, plain))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_statistics_of_the_target_are_those_of_pruning_with_target_data():
    model, shift = make("convolution").double(), Shift(0.3, 0.5, 0.2, seed=3)
    own = Pruner(MomentMatchingSelection("target", 0.0, shift), compensation=DomainLeastSquares())
    plain = Pruner(SpectralSelection(), compensation=DomainLeastSquares())
    moved = Calibration(shift(data().inputs), data().labels, data().indices, batch_size=64)
    first = own.prune(model, data(), Budget("keep", 0.5))
    second = plain.prune(model, moved, Budget("keep", 0.5))
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("which", ["source", "target", "both"])
def test_a_large_gamma_keeps_nodes_whose_moments_agree(which):
    model = make("chain").double()
    shares = []
    for gamma in (0.0, 1e4):
        pruner = Pruner(MomentMatchingSelection(which, gamma), compensation=DomainLeastSquares())
        shares.append([layer["moment_mismatch"] for layer in pruner.prune(model, data(), Budget("keep", 0.4)).layers])
    assert all(0 <= small <= large for small, large in zip(shares[1], shares[0], strict=True))
    assert shares[1] != shares[0]


def test_bad_options_are_named():
    with pytest.raises(BadInput, match="selection.data=sauce"):
        MomentMatchingSelection("sauce")
    with pytest.raises(BadInput, match="gamma"):
        MomentMatchingSelection(gamma=-1)
    with pytest.raises(BadInput, match="noise"):
        Shift(noise=-1)
