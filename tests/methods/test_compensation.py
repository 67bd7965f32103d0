"""Reweighting against least squares by definition, for every set that may stay (Mariet & Sra 2016, section 3.2)."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.ridge import solve_ridge

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
