import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from methods.errors import BadInput
from methods.lq.bounds import (
    existence_bound,
    l1_tail_bound,
    lq_effective_count,
    network_bound,
    output_error,
    output_tail_bound,
    output_tolerance_count,
    pq_retained,
    sharp_tail_constant,
    tail_bound,
    tolerance_count,
    uniform_network_bound,
    whole,
)
from methods.network.sparsity import lq_norm, pq_index, sparsity_index

QS = [0.1, 0.25, 0.5, 0.75, 0.9]
universal = settings(deadline=None, max_examples=60)


@st.composite
def vectors(draw, low=1, high=12):
    values = draw(st.lists(st.floats(-100, 100, allow_nan=False, width=32), min_size=low, max_size=high))
    w = torch.tensor(values, dtype=torch.float64)
    assume(bool((w.abs() > 1e-6).any()))
    return w


def draw_rows(seed, rows=5, size=10, power=1.0):
    w = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return w.sign() * w.abs() ** power


def second_moment(seed, size, samples=40):
    h = torch.randn(samples, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    h = (h @ draw_rows(seed + 1, size, size)).relu()
    return h, h.T @ h / samples


@pytest.mark.verifies("lq", by="closed form")
@universal
@given(vectors(), st.sampled_from(QS))
def test_effective_count(w, q):
    count = float(lq_effective_count(w, q))
    assert 1 <= count <= len(w)
    by_index = len(w) * (1 - float(pq_index(w, q, 1))) ** (q / (1 - q))
    assert count == pytest.approx(by_index, rel=1e-8)
    assert count == pytest.approx(float(sparsity_index(w, q)) ** (-q / (1 - q)), rel=1e-8)


@pytest.mark.parametrize("pair", [(0.5, 1.0), (1.0, 2.0), (0.2, 0.7), (0.9, 1.0)])
@pytest.mark.parametrize("nonzero", [1, 2, 5, 12])
def test_counts_of_equal_nonzeros_are_their_number(pair, nonzero):
    w = torch.zeros(12, dtype=torch.float64)
    w[:nonzero] = -0.3
    assert float(pq_retained(w, *pair)) == pytest.approx(nonzero, rel=1e-10)
    assert int(whole(pq_retained(w, *pair))) == nonzero
    for q in QS:
        assert int(whole(lq_effective_count(w, q))) == nonzero


def test_worked_retained_counts():
    w = torch.tensor([4.0, 1, 1, 0])
    assert float(pq_retained(w, 0.5, 1)) == pytest.approx(8 / 3)
    assert int(whole(pq_retained(w, 0.5, 1))) == 3
    assert float(pq_retained(w, 1, 2)) == pytest.approx(2)
    assert int(whole(pq_retained(w, 1, 2))) == 2
    assert float(pq_retained(w, 0.5, 1, eta=1)) == pytest.approx(8 / 3 / 4)


@universal
@given(vectors(), st.sampled_from([(0.5, 1.0), (1.0, 2.0), (0.3, 0.8), (0.2, 1.9)]))
def test_every_r_satisfies_the_pq_bound_with_its_own_tail_ratio(w, pair):
    p, q = pair
    powers = w.abs().sort(descending=True).values ** p
    for r in range(1, len(w) + 1):
        eta = float(powers[r:].sum() / powers[:r].sum())
        assert r >= float(pq_retained(w, p, q, eta)) - 1e-9


@universal
@given(vectors(), st.sampled_from([*QS, 1.0]))
def test_tail_bounds_hold_for_every_k(w, q):
    ordered = w.abs().sort(descending=True).values
    for k in range(1, len(w) + 1):
        assert float(ordered[k:].norm()) <= float(tail_bound(w, q, k)) * (1 + 1e-9)
        assert float(ordered[k:].sum()) <= float(l1_tail_bound(w, q, k)) * (1 + 1e-9)


def test_the_tail_constant_is_sharp():
    assert sharp_tail_constant(1) == pytest.approx(0.5, rel=1e-14)
    assert sharp_tail_constant(0.5) == pytest.approx(0.32475953, abs=1e-8)
    assert sharp_tail_constant(0.25) == pytest.approx(0.2216, abs=5e-5)
    for q in (0.25, 0.5, 1.0):  # flat vectors of the right length reach the bound
        size = 2000
        k = torch.arange(1, size)
        tail = (size - k).double().sqrt()
        bound = tail_bound(torch.ones(size, dtype=torch.float64), q, k)
        assert float((tail / bound).max()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("q", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_output_bounds(q, seed):
    w = draw_rows(seed, power=2.0)
    h, second = second_moment(seed, 10)
    for k in (1, 3, 7):
        kept = w.abs() >= w.abs().kthvalue(10 - k + 1, dim=1, keepdim=True).values
        change = w * ~kept
        exact = output_error(change, second)
        assert torch.allclose(exact, (h @ change.T).square().mean(0).sqrt())
        assert bool((exact <= output_tail_bound(w, q, k, second)).all())


def test_some_support_meets_the_existence_bound():
    w = draw_rows(3, rows=4, size=6, power=2.0)
    _, second = second_moment(3, 6)
    for q, k in itertools.product([0.5, 1.0], [1, 2, 4]):
        best = torch.full((4,), math.inf, dtype=torch.float64)
        for support in itertools.combinations(range(6), k):
            index = list(support)
            fitted = torch.zeros_like(w)
            fitted[:, index] = torch.linalg.solve(second[index][:, index], (w @ second)[:, index].T).T
            best = best.minimum(output_error(w - fitted, second))
        assert bool((best <= existence_bound(w, q, k, second)).all())


@universal
@given(vectors(low=2), st.sampled_from([0.25, 0.5, 1.0]), st.floats(0.05, 2))
def test_tolerance_count_is_the_smallest_that_meets_the_tolerance(w, q, epsilon):
    count = int(whole(tolerance_count(w, q, epsilon)))
    assert 1 <= count <= len(w)
    if count < len(w):
        assert float(tail_bound(w, q, count)) <= epsilon * float(w.norm()) * (1 + 1e-6)
    if count > 1:
        assert float(tail_bound(w, q, count - 1)) > epsilon * float(w.norm()) * (1 - 1e-6)


def test_output_tolerance_count_meets_its_bound():
    w = draw_rows(0, power=3.0)
    _, second = second_moment(0, 10)
    operator = float(torch.linalg.eigvalsh(second)[-1]) ** 0.5
    for tau in (1.0, 10.0, 100.0):
        refit = whole(output_tolerance_count(w, 0.5, tau, second))
        cut = whole(output_tolerance_count(w, 0.5, tau, second, refit=False))
        assert bool(((existence_bound(w, 0.5, refit, second) <= tau * (1 + 1e-9)) | (refit == 10)).all())
        assert bool(((operator * tail_bound(w, 0.5, cut) <= tau * (1 + 1e-9)) | (cut == 10)).all())
    assert bool((output_tolerance_count(w, 0.5, 1e9, second) == 1).all())


@universal
@given(vectors(low=2), st.sampled_from([0.25, 0.5, 0.75]))
def test_a_flat_neuron_keeps_at_least_as_much_as_any_other(w, q):
    flat = torch.full_like(w, float(w.abs().mean()))
    assert float(lq_effective_count(w, q)) <= float(lq_effective_count(flat, q)) + 1e-9
    assert float(pq_retained(w, q, 1)) <= float(pq_retained(flat, q, 1)) + 1e-9
    flat = torch.full_like(w, float(w.norm()) / len(w) ** 0.5)
    assert float(tolerance_count(w, q, 0.5)) <= float(tolerance_count(flat, q, 0.5)) + 1e-9


@universal
@given(vectors(), st.floats(0, 3), st.floats(0.01, 3))
def test_counts_fall_with_eta_and_epsilon(w, eta, more):
    assert float(pq_retained(w, 0.5, 1, eta + more)) <= float(pq_retained(w, 0.5, 1, eta))
    assert float(tolerance_count(w, 0.5, 0.1 + more + eta)) <= float(tolerance_count(w, 0.5, 0.1 + eta))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("keep", [4, 8])
def test_network_bound_covers_the_measured_error(seed, keep):
    sizes = [8, 16, 12, 3]
    generator = torch.Generator().manual_seed(seed)
    weights = [
        torch.randn(out, size, generator=generator, dtype=torch.float64) / size**0.5
        for size, out in itertools.pairwise(sizes)
    ]
    dense = pruned = torch.randn(60, sizes[0], generator=generator, dtype=torch.float64)
    cut, exact, bounded, errors = [], [], [], []
    for depth, weight in enumerate(weights):
        kept = weight.abs() >= weight.abs().sort(dim=1, descending=True).values[:, keep - 1 : keep]
        second = dense.T @ dense / len(dense)
        cut.append(weight * kept)
        exact.append(output_error(weight * ~kept, second))
        bounded.append(output_tail_bound(weight, 0.5, keep, second))
        dense, pruned = dense @ weight.T, pruned @ cut[-1].T
        if depth < 2:
            dense, pruned = dense.relu(), pruned.relu()
        errors.append((dense - pruned).square().mean(0).sqrt())
    tight, loose = network_bound(cut, exact), network_bound(cut, bounded)
    for error, small, large in zip(errors, tight, loose, strict=True):
        assert bool((error <= small + 1e-12).all())
        assert bool((small <= large + 1e-12).all())
    assert float(tight[-1].max()) <= uniform_network_bound(cut, exact) + 1e-12


def test_network_bound_by_hand():
    weights = [torch.tensor([[1.0, 0.0], [0.0, -2.0]]), torch.tensor([[3.0, -1.0]])]
    local = [torch.tensor([0.5, 0.25]), torch.tensor([0.1])]
    assert network_bound(weights, local, lipschitz=2)[-1].tolist() == pytest.approx([3 * 1.0 + 0.5 + 0.1])
    assert uniform_network_bound(weights, local, lipschitz=2) == pytest.approx(0.1 + 2 * 4 * 0.5)


def test_zeros_length_one_and_bad_input():
    zeros = torch.zeros(2, 5)
    assert lq_effective_count(zeros, 0.5).tolist() == [1, 1]
    assert pq_retained(zeros).tolist() == [5, 5]
    assert tolerance_count(zeros, 0.5, 0.5).tolist() == [1, 1]
    assert tail_bound(zeros, 0.5, 2).tolist() == [0, 0]
    one = torch.tensor([[-2.0]])
    assert lq_effective_count(one, 0.1).tolist() == pq_retained(one).tolist() == [1]
    nothing = torch.zeros(2, 5, dtype=torch.bool)
    assert (
        lq_effective_count(zeros + 1, 0.5, nothing).tolist() == pq_retained(zeros + 1, live=nothing).tolist() == [0, 0]
    )
    assert torch.isinf(tail_bound(one, 0.5, 0)).all()
    with pytest.raises(BadInput, match="eta"):
        pq_retained(zeros, eta=-0.1)
    with pytest.raises(BadInput, match="epsilon"):
        tolerance_count(zeros, 0.5, 0)
    with pytest.raises(BadInput, match="tau"):
        output_tolerance_count(zeros, 0.5, -1, torch.eye(5))
    for q in (0, -1, 2):
        with pytest.raises(BadInput, match="q="):
            tail_bound(zeros, q, 1)
    with pytest.raises(BadInput, match="q="):
        lq_effective_count(zeros, 1.0)
    with pytest.raises(BadInput, match="chain"):
        network_bound([torch.ones(3, 2), torch.ones(1, 4)], [torch.ones(3), torch.ones(1)])
    with pytest.raises(BadInput, match="one per layer"):
        network_bound([torch.ones(3, 2)], [])


def test_a_million_weights_with_a_tiny_exponent():
    w = torch.ones(10**6, dtype=torch.float32)
    assert int(whole(lq_effective_count(w, 0.1))) == 10**6
    assert float(tolerance_count(w, 0.1, 1.0)) == pytest.approx(
        10**6 * sharp_tail_constant(0.1) ** (0.2 / 1.9), rel=1e-9
    )
    assert math.isfinite(float(lq_norm(w, 0.1)))
