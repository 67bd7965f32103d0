"""Two groups whose costs depend on each other, against every pair of counts: no better pair is passed over."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.budgets.multiplier import CoupledPrices


def spend(counts):
    """Parameters of a chain of three layers with one input and one output; what couples the groups costs most."""
    first, second = counts.values()
    return float(first + first * second + second)


def best_of_all_pairs(prices, multiplier):
    pairs = itertools.product(*(range(low, high + 1) for low, high in zip(prices.least, prices.sizes, strict=True)))
    return max(prices.value(pair, multiplier) for pair in pairs)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.integers(2, 8), st.integers(0, 10_000), st.integers(0, 20))
def test_two_coupled_groups_get_the_best_of_all_pairs_of_counts(first, second, seed, step):
    """Also where each count alone is the best given the other: nodes worth alike are kept in one of the two groups."""
    generator = torch.Generator().manual_seed(seed)
    gains = [1 + 0.5 * torch.rand(m, generator=generator, dtype=torch.float64).cpu() for m in (first, second)]
    prices = CoupledPrices(["a", "b"], [gain.sort(descending=True).values for gain in gains], [1, 1], spend)
    multiplier = 0.1 * 1.1**step
    best = prices.best(multiplier)
    assert prices.value(best, multiplier) == pytest.approx(best_of_all_pairs(prices, multiplier))


def test_counts_from_which_no_single_step_is_better_are_left_together():
    """Worth 2 a + 1.99 b, cost a + a b + b, at most 4 each: (4, 1) is worth most, and (1, 4) is better than near it."""
    gains = [torch.full((4,), worth, dtype=torch.float64, device="cpu") for worth in (2.0, 1.99)]
    prices = CoupledPrices(["a", "b"], gains, [1, 1], spend)
    for multiplier in (0.3, 0.4, 0.5, 0.6):
        best = prices.best(multiplier)
        assert prices.value(best, multiplier) == pytest.approx(best_of_all_pairs(prices, multiplier))


def chain(counts):
    """Parameters of four layers in a row with one input and one output."""
    first, second, third = counts.values()
    return float(first + first * second + second * third + third)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 6), min_size=3, max_size=3), st.integers(0, 10_000), st.integers(0, 20))
def test_no_count_of_a_chain_is_better_alone_with_the_others_as_they_are(sizes, seed, step):
    """The one in the middle pays for its neighbours on both sides, and they pay for it."""
    generator = torch.Generator().manual_seed(seed)
    gains = [1 + 0.5 * torch.rand(m, generator=generator, dtype=torch.float64).cpu() for m in sizes]
    prices = CoupledPrices(["a", "b", "c"], [gain.sort(descending=True).values for gain in gains], [1, 1, 1], chain)
    multiplier = 0.1 * 1.1**step
    best = prices.best(multiplier)
    reached = prices.value(best, multiplier)
    for group, size in enumerate(sizes):
        for count in range(1, size + 1):
            other = [count if place == group else kept for place, kept in enumerate(best)]
            assert prices.value(other, multiplier) <= reached + 1e-9
