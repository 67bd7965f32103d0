import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from methods.errors import BadInput
from methods.network.sparsity import gini, lq_norm, network_sparsity, pq_index, sparsity_index

EXPONENTS = [(0.5, 1.0), (1.0, 2.0), (0.1, 1.0), (0.3, 1.7), (0.2, 0.4)]
universal = settings(deadline=None, max_examples=80)
entries = st.floats(-100, 100, allow_nan=False, width=32)
pairs = st.sampled_from(EXPONENTS)


@st.composite
def vectors(draw, low=1, high=12):
    values = draw(st.lists(entries, min_size=low, max_size=high))
    w = torch.tensor(values, dtype=torch.float64)
    assume(bool((w.abs() > 1e-6).any()))
    return w


def brute_norm(w, q):
    return sum(abs(x) ** q for x in w.tolist()) ** (1 / q)


def brute_gini(w):
    x = w.abs().tolist()
    return sum(abs(a - b) for a in x for b in x) / (2 * len(x) * sum(x))


def brute_pq(w, p, q):
    return 1 - len(w) ** (1 / q - 1 / p) * brute_norm(w, p) / brute_norm(w, q)


@universal
@given(vectors(), st.sampled_from([0.2, 0.5, 1.0, 2.0, 3.5]), pairs)
def test_definitions(w, q, pq):
    assert float(lq_norm(w, q)) == pytest.approx(brute_norm(w, q), rel=1e-11)
    assert float(pq_index(w, *pq)) == pytest.approx(max(brute_pq(w, *pq), 0), abs=1e-11)
    assert float(gini(w)) == pytest.approx(brute_gini(w), abs=1e-12)
    assert float(sparsity_index(w, 0.5)) == pytest.approx(brute_norm(w, 1) / brute_norm(w, 0.5), rel=1e-11)


def test_worked_values():
    w = torch.tensor([9.0, 4, 1, 0])
    assert float(pq_index(w, 0.5, 1)) == pytest.approx(5 / 14, abs=1e-12)
    assert float(pq_index(w, 1, 2)) == pytest.approx(0.29289322, abs=1e-8)
    assert float(gini(w)) == pytest.approx(0.53571429, abs=1e-8)
    w = torch.tensor([4.0, 1, 1, 0])
    assert float(pq_index(w, 0.5, 1)) == pytest.approx(1 / 3, abs=1e-12)
    assert float(pq_index(w, 1, 2)) == pytest.approx(0.29289322, abs=1e-8)
    w = torch.tensor([3.0, 2, 1])
    assert float(pq_index(w, 0.5, 1)) == pytest.approx(0.04491621, abs=1e-8)
    assert float(pq_index(w, 1, 2)) == pytest.approx(0.07417990, abs=1e-8)
    assert float(gini(w)) == pytest.approx(2 / 9, abs=1e-12)


@universal
@given(vectors(), pairs, st.floats(1e-3, 1e3), st.randoms())
def test_scale_sign_and_order_do_not_matter(w, pq, scale, random):
    order = list(range(len(w)))
    random.shuffle(order)
    signs = torch.tensor([random.choice([-1.0, 1.0]) for _ in order], dtype=torch.float64)
    other = scale * signs * w[order]
    for measure in (lambda v: pq_index(v, *pq), gini, lambda v: sparsity_index(v, 0.5)):
        assert float(measure(other)) == pytest.approx(float(measure(w)), abs=1e-12)


@universal
@given(vectors(), pairs)
def test_range(w, pq):
    p, q = pq
    top = 1 - len(w) ** (1 / q - 1 / p)
    assert 0 <= float(pq_index(w, p, q)) <= top + 1e-12 <= 1
    assert 0 <= float(gini(w)) <= 1 - 1 / len(w) + 1e-12
    assert len(w) ** (1 - 1 / 0.3) * (1 - 1e-12) <= float(sparsity_index(w, 0.3)) <= 1


@pytest.mark.parametrize("size", [1, 2, 16, 1000])
def test_ends_of_the_range(size):
    flat, one_hot = torch.full((size,), -0.7), torch.zeros(size)
    one_hot[size // 2] = 3
    for p, q in EXPONENTS:
        assert float(pq_index(flat, p, q)) == pytest.approx(0, abs=1e-13)
        assert float(pq_index(one_hot, p, q)) == pytest.approx(1 - size ** (1 / q - 1 / p), abs=1e-13)
    assert float(sparsity_index(flat, 0.5)) == pytest.approx(1 / size, rel=1e-12)
    assert float(sparsity_index(one_hot, 0.5)) == 1
    assert float(gini(flat)) == pytest.approx(0, abs=1e-13)
    assert float(gini(one_hot)) == pytest.approx(1 - 1 / size, abs=1e-13)
    if size == 16:
        assert float(pq_index(one_hot, 0.5, 1)) == 0.9375
        assert float(pq_index(one_hot, 1, 2)) == pytest.approx(0.75, abs=1e-14)


@universal
@given(vectors(), pairs)
def test_cloning_and_babies(w, pq):
    p, q = pq
    index, size = float(pq_index(w, p, q)), len(w)
    zero = torch.zeros(1, dtype=w.dtype)
    assert float(pq_index(torch.cat([w, w]), p, q)) == pytest.approx(index, abs=1e-12)
    grown = float(pq_index(torch.cat([w, zero]), p, q))
    assert grown == pytest.approx(1 - (size / (size + 1)) ** (1 / p - 1 / q) * (1 - index), abs=1e-12)
    assert grown > index
    assert float(gini(torch.cat([w, w]))) == pytest.approx(float(gini(w)), abs=1e-12)
    assert float(gini(torch.cat([w, zero]))) > float(gini(w))


@universal
@given(vectors(low=2), pairs, st.floats(0.1, 10), st.floats(0.05, 0.45))
def test_rising_tide_and_robin_hood(w, pq, tide, share):
    w = w.abs()
    assume(float(w.max() - w.min()) > 0.1)
    rich, poor = int(w.argmax()), int(w.argmin())
    moved = w.clone()
    moved[rich] -= share * (w[rich] - w[poor])
    moved[poor] += share * (w[rich] - w[poor])
    for measure in (lambda v: pq_index(v, *pq), gini):
        assert float(measure(w + tide)) < float(measure(w))
        assert float(measure(moved)) < float(measure(w))


@universal
@given(vectors(), st.sampled_from([0.2, 0.5, 0.8]))
def test_identity_with_the_normalised_single_norm_index(w, q):
    normalised = len(w) ** (1 / q - 1) * float(sparsity_index(w, q))
    assert float(pq_index(w, q, 1)) == pytest.approx(1 - 1 / normalised, abs=1e-11)


def test_rows_and_live_masks_equal_one_vector_at_a_time():
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(7, 9, generator=generator)
    live = torch.rand(7, 9, generator=generator) < 0.6
    live[3] = False
    for measure in (
        lambda v, m: pq_index(v, 0.3, 1.7, m),
        gini,
        lambda v, m: lq_norm(v, 0.4, m),
        lambda v, m: sparsity_index(v, 0.4, m),
    ):
        together = measure(w, live)
        assert together.shape == (7,)
        for row in range(7):
            if live[row].any():
                assert float(together[row]) == pytest.approx(float(measure(w[row][live[row]], None)), abs=1e-12)
    assert float(pq_index(w, live=live)[3]) == float(gini(w, live)[3]) == float(lq_norm(w, 0.5, live)[3]) == 0
    assert pq_index(w.view(7, 3, 3)).shape == (7, 3)


def test_no_overflow_with_tiny_exponents_and_many_weights():
    size = 10**6
    flat = torch.full((size,), 1e-30, dtype=torch.float32)
    assert float(lq_norm(flat, 0.1)) == pytest.approx(1e-30 * 1e60, rel=1e-6)  # 1e-30 in float32
    assert float(pq_index(flat, 0.1, 1)) == pytest.approx(0, abs=1e-12)
    assert float(sparsity_index(flat, 0.1)) == pytest.approx(1e-54, rel=1e-9)
    normal = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for scale in (1e-300, 1.0, 1e300):
        assert float(pq_index(scale * normal, 0.1, 1)) == pytest.approx(float(pq_index(normal, 0.1, 1)), abs=1e-12)
        assert math.isfinite(float(sparsity_index(scale * normal, 0.1)))


def test_half_normal_has_the_known_index():
    normal = torch.randn(400_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert float(pq_index(normal, 1, 2)) == pytest.approx(1 - math.sqrt(2 / math.pi), abs=3e-3)


def test_zeros_and_bad_input():
    zeros = torch.zeros(2, 4)
    assert lq_norm(zeros, 0.5).tolist() == pq_index(zeros).tolist() == gini(zeros).tolist() == [0, 0]
    assert sparsity_index(zeros, 0.5).tolist() == [1, 1]
    assert math.isnan(float(pq_index(torch.tensor([1.0, math.nan]))))
    for p, q in [(1, 1), (2, 1), (0, 1), (-1, 1), (0.5, math.inf), (math.nan, 1)]:
        with pytest.raises(BadInput, match="0 < p < q"):
            pq_index(zeros, p, q)
    for q in (0, -1, math.nan, math.inf):
        with pytest.raises(BadInput, match="q="):
            lq_norm(zeros, q)
    with pytest.raises(BadInput, match="0 < q < 1"):
        sparsity_index(zeros, 1)
    with pytest.raises(BadInput, match="no entries"):
        pq_index(torch.zeros(3, 0))
    with pytest.raises(BadInput, match="live mask"):
        gini(zeros, torch.ones(4, dtype=torch.bool))


def test_inputs_are_left_alone():
    w = torch.tensor([[-3.0, 1.0, 2.0]], dtype=torch.float64)
    before = w.clone()
    for measure in (pq_index, gini, lambda v: lq_norm(v, 0.5), lambda v: sparsity_index(v, 0.5)):
        measure(w)
    assert torch.equal(w, before)


def test_network_sparsity_is_that_of_the_live_weights_without_vectors():
    weights = {"a": torch.tensor([[9.0, 4.0]]), "bias": torch.tensor([100.0]), "b": torch.tensor([[1.0, 0.0, 7.0]])}
    masks = {"b": torch.tensor([[True, True, False]])}
    found = network_sparsity(weights, masks)
    assert found["pq_index"] == pytest.approx(5 / 14, abs=1e-7)
    assert found["gini"] == pytest.approx(15 / 28, abs=1e-7)
