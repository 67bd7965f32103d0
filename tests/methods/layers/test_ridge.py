"""Ridge systems against NumPy's least squares, and the in-place algebra against its textbook forms."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from methods.layers import ridge
from methods.layers.ridge import RidgeInverse, cholesky_, eigenvectors_, mirror_, solve_ridge, strips
from methods.spectral.packed_pair import PackedPair


def moments(seed: int, size: int, rank: int) -> torch.Tensor:
    """Second moments (size, size) of ``rank`` independent features."""
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(size, rank, generator=generator, dtype=torch.float64)
    product = factor @ factor.T
    return (product + product.T) / 2


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 600])
def test_strips_cover_every_number_once(size):
    numbers = [number for strip in strips(size) for number in range(strip.start, strip.stop)]
    assert numbers == list(range(size))


@pytest.mark.parametrize("size", [1, 5, 129, 300])
def test_factor_stands_below_the_diagonal_and_the_matrix_above(size):
    matrix = moments(0, size, 2 * size)
    work = matrix.clone()
    assert cholesky_(work)
    assert torch.allclose(work.tril(), torch.linalg.cholesky(matrix), atol=1e-12)
    assert torch.equal(work.triu(1), matrix.triu(1))
    mirror_(work, matrix.diagonal())
    assert torch.equal(work, work.T) and torch.allclose(work, matrix, rtol=0, atol=0)


@pytest.mark.parametrize("place", [0, 140, 299])
def test_an_indefinite_matrix_is_noticed_wherever_it_is(place):
    matrix = torch.eye(300, dtype=torch.float64)
    matrix[place, place] = -1
    assert not cholesky_(matrix)


@pytest.mark.parametrize("large", [10, 10_000])
@example(seed=185874, size=5, rank=4, tau=0.0)  # one small pivot lifts the last one's rounding far above 1e-12
@example(seed=24, size=25, rank=24, tau=0.0)
@given(seed=st.integers(0, 2**31), size=st.integers(1, 40), rank=st.integers(1, 40), tau=st.sampled_from([0.0, 1e-3]))
def test_solution_is_that_of_numpy(large, seed, size, rank, tau):
    """With tau = 0 and a rank below the size it is the one of smallest norm, in the scaled unknowns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ridge, "LARGE", large)
        second = moments(seed, size, rank)
        target = second @ torch.randn(size, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        found = solve_ridge(second, target, torch.full((size,), tau, dtype=torch.float64))
    system = (second + tau * torch.eye(size, dtype=torch.float64)).cpu().numpy()
    scale = np.sqrt(system.diagonal())
    expected = np.linalg.lstsq(system / np.outer(scale, scale), target.cpu().numpy() / scale[:, None], rcond=1e-11)[0]
    values = np.linalg.eigvalsh(system / np.outer(scale, scale))
    if not ((values > 1e-13 * values[-1]) & (values < 1e-8 * values[-1])).any():  # else the rank is a matter of taste
        assert np.allclose(
            found.cpu().numpy() * scale[:, None], expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max()
        )


def test_the_inverse_serves_several_right_hand_sides():
    second, none = moments(3, 20, 30), torch.zeros(20, dtype=torch.float64)
    inverse = RidgeInverse(second.clone(), none)
    for seed in range(2):
        right = moments(seed, 20, 20)
        assert torch.allclose(second @ inverse.times_(right.clone()), right, atol=1e-8)


@pytest.mark.parametrize("large", [10, 10_000])
def test_eigenvectors_of_small_and_large_matrices(monkeypatch, large):
    monkeypatch.setattr(ridge, "LARGE", large)
    matrix = moments(0, 30, 20)
    values, vectors = eigenvectors_(matrix.clone())
    assert bool((values.diff() >= 0).all())
    assert torch.allclose(vectors * values @ vectors.T, matrix, atol=1e-10)
    assert torch.allclose(vectors.T @ vectors, torch.eye(30, dtype=torch.float64), atol=1e-12)


@given(size=st.integers(1, 30), block=st.integers(1, 12), seed=st.integers(0, 1000))
def test_two_folded_matrices_are_two_matrices(size, block, seed):
    """Every reading and every update of the pair, against the two matrices side by side."""
    generator = torch.Generator().manual_seed(seed)
    first, second = moments(seed, size, size), moments(seed + 1, size, size)
    pair = PackedPair(first, block)
    for number, own in enumerate(pair.blocks):
        pair.set_second(number, second[own, own.start :])
    left, right = (torch.randn(3, size, generator=generator, dtype=torch.float64) for _ in range(2))
    pair.add_to_first(left, left, -0.5)
    first = first - 0.5 * left.T @ left
    pair.add_to_second(torch.cat([left, right]), torch.cat([right, left]), 2.0)
    second = second + 2 * (left.T @ right + right.T @ left)

    def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
        return torch.allclose(found, expected, atol=1e-9)

    assert same(pair.first_diagonal(), first.diagonal()) and same(pair.second_diagonal(), second.diagonal())
    nodes = torch.randperm(size, generator=generator)[: 1 + size // 2]
    assert same(pair.first_rows(nodes), first[nodes])
    for node in nodes.tolist():
        assert same(pair.first_row(node), first[node]) and same(pair.second_row(node), second[node])
    for number, own in enumerate(pair.blocks):
        assert same(pair.first_block(number), first[own])
        assert same(pair.times_first(right, own.start), (right @ first)[:, own.start :])
