import itertools
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import uniform
from scipy.stats import chi2

from methods.dpp.determinantal import (
    KDPP,
    inclusion_marginals,
    kernel_from_moments,
    linear_kernel,
    log_elementary_symmetric,
    map_k_dpp,
    median_scale,
    sample_conditional_poisson,
    sample_dpp,
    sample_k_dpp,
    similarity_kernel,
)
from methods.errors import BadInput

pytestmark = pytest.mark.cpu("the mathematics of draws, in float64 and by a generator of the CPU")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_kernel(n, seed=0, rank=None):
    factor = torch.randn(n, rank or n + 2, generator=generator(seed), dtype=torch.float64)
    return factor @ factor.T / n


def enumerate_k_dpp(kernel, k):
    """Every k-subset with its probability."""
    sets = list(itertools.combinations(range(len(kernel)), k))
    weights = torch.stack([torch.linalg.det(kernel[list(s)][:, list(s)]) for s in sets]).clamp_min(0)
    return dict(zip(sets, (weights / weights.sum()).tolist(), strict=True))


def chi_square_p(counts, probabilities, draws):
    """Goodness of fit, sets with expected counts below 5 pooled."""
    expected = np.array([probabilities[s] * draws for s in probabilities])
    observed = np.array([counts.get(s, 0) for s in probabilities], dtype=float)
    assert observed.sum() == draws, "a draw that has probability 0"
    large = expected >= 5
    expected = np.append(expected[large], expected[~large].sum())
    observed = np.append(observed[large], observed[~large].sum())
    if expected[-1] < 1:
        expected, observed = expected[:-1], observed[:-1]
    return chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected) - 1)


def tally(draw, draws):
    counts = {}
    for _ in range(draws):
        key = tuple(draw().tolist())
        counts[key] = counts.get(key, 0) + 1
    return counts


@pytest.mark.verifies("dpp", "dpp_edge", by="brute force")
@pytest.mark.parametrize(("n", "k"), [(6, 3), (8, 4), (8, 2), (5, 1)])
def test_draws_follow_the_determinants(n, k):
    kernel = random_kernel(n, seed=n + k)
    dpp, stream = KDPP.from_kernel(kernel), generator(7)
    counts = tally(lambda: dpp.sample(k, stream), 6000)
    assert chi_square_p(counts, enumerate_k_dpp(kernel, k), 6000) > 1e-3


def test_plain_dpp_follows_the_determinants():
    kernel = random_kernel(5, seed=3)
    normaliser = torch.linalg.det(torch.eye(5, dtype=torch.float64) + kernel)
    probabilities = {(): float(1 / normaliser)}
    for k in range(1, 6):
        for s in itertools.combinations(range(5), k):
            probabilities[s] = float(torch.linalg.det(kernel[list(s)][:, list(s)]) / normaliser)
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-12)
    dpp, stream = KDPP.from_kernel(kernel), generator(1)
    assert chi_square_p(tally(lambda: dpp.sample_unsized(stream), 6000), probabilities, 6000) > 1e-3
    values = torch.linalg.eigvalsh(kernel)
    sizes = [len(sample_dpp(kernel, generator(s))) for s in range(1500)]
    mean, variance = (values / (1 + values)).sum(), (values / (1 + values) ** 2).sum()
    assert abs(np.mean(sizes) - mean) < 4 * math.sqrt(variance / 1500)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 8), seed=st.integers(0, 1000), data=st.data())
def test_marginals_equal_enumeration(n, seed, data):
    k = data.draw(st.integers(1, n))
    kernel = random_kernel(n, seed)
    expected = torch.zeros(n, dtype=torch.float64)
    for s, probability in enumerate_k_dpp(kernel, k).items():
        expected[list(s)] += probability
    marginals = inclusion_marginals(kernel, k)
    assert torch.allclose(marginals, expected, atol=1e-11, rtol=0)
    assert float(marginals.sum()) == pytest.approx(k, abs=1e-12)
    drawn = sample_k_dpp(kernel, k, generator(seed))
    assert drawn.dtype == torch.int64 and drawn.tolist() == sorted(set(drawn.tolist())) and len(drawn) == k
    assert int(drawn[0]) >= 0 and int(drawn[-1]) < n


def test_one_item_and_all_items():
    kernel = random_kernel(7)
    assert torch.allclose(inclusion_marginals(kernel, 1), kernel.diagonal() / kernel.trace(), atol=1e-13)
    assert sample_k_dpp(kernel, 7, generator()).tolist() == list(range(7))
    assert torch.allclose(inclusion_marginals(kernel, 7), torch.ones(7, dtype=torch.float64), atol=1e-12)


def test_log_polynomials_equal_polynomial_coefficients():
    values = torch.rand(10, generator=generator(), dtype=torch.float64)
    table = log_elementary_symmetric(values, 10)
    for i in range(11):
        coefficients = np.abs(np.poly(values[:i].numpy()))  # prod (x - lambda): |coefficients| are e_0, e_1, ...
        assert np.allclose(table[i, : i + 1].exp(), coefficients, rtol=1e-12)
        assert torch.isneginf(table[i, i + 1 :]).all()


@pytest.mark.parametrize("k", [1, 7, 1000])
def test_log_polynomials_of_ones_are_binomials(k):
    exact = math.log(math.comb(2000, k))
    assert float(log_elementary_symmetric(torch.ones(2000), k)[-1, -1]) == pytest.approx(exact, rel=1e-12)


def test_scale_changes_neither_sample_nor_marginals():
    activations = torch.sigmoid(torch.randn(800, 500, generator=generator(), dtype=torch.float64))
    kernel = similarity_kernel(activations)
    sample, marginals = sample_k_dpp(kernel, 250, generator(5)), inclusion_marginals(kernel, 250)
    assert torch.isfinite(marginals).all() and len(set(sample.tolist())) == 250
    for scale in (1e-6, 10.0, 1e6):
        assert torch.equal(sample_k_dpp(scale * kernel, 250, generator(5)), sample)
        assert torch.allclose(inclusion_marginals(scale * kernel, 250), marginals, atol=1e-9, rtol=0)


def test_a_flat_kernel_draws_uniformly():
    kernel = 1.01 * torch.eye(6, dtype=torch.float64)
    dpp, stream = KDPP.from_kernel(kernel), generator(2)
    uniform = dict.fromkeys(itertools.combinations(range(6), 3), 1 / 20)
    assert chi_square_p(tally(lambda: dpp.sample(3, stream), 4000), uniform, 4000) > 1e-3
    large = KDPP.from_kernel(1.01 * torch.eye(900, dtype=torch.float64))
    assert len(set(large.sample(450, stream).tolist())) == 450
    assert torch.allclose(large.marginals(450), torch.full((900,), 0.5, dtype=torch.float64), atol=1e-9)


@pytest.mark.slow
def test_half_of_3072_items_of_a_flat_kernel():
    """Its elementary symmetric polynomials, up to C(3072, 1536), are beyond the largest float64."""
    assert math.comb(3072, 1536) > sys.float_info.max
    drawn = sample_k_dpp(1.01 * torch.eye(3072, dtype=torch.float64), 1536, generator())
    assert len(set(drawn.tolist())) == 1536
    assert abs(float(drawn.double().mean()) - 3071 / 2) < 5 * 3072 / math.sqrt(12 * 2 * 1536)


def test_rank_one_blocks_give_one_item_each():
    blocks = [torch.full((3, 3), 4.0), torch.full((2, 2), 0.5), torch.full((4, 4), 1.0)]
    kernel = torch.block_diag(*blocks).double()
    owner = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    dpp, stream = KDPP.from_kernel(kernel), generator()
    assert dpp.rank == 3
    for _ in range(500):
        assert owner[dpp.sample(3, stream)].tolist() == [0, 1, 2]
    assert owner[map_k_dpp(kernel, 3)].tolist() == [0, 1, 2]
    with pytest.raises(BadInput, match="rank 3"):
        dpp.sample(4, stream)
    with pytest.raises(BadInput, match="rank 3"):
        map_k_dpp(kernel, 4)


def test_duplicates_are_excluded_without_jitter_only():
    activations = torch.rand(50, 4, generator=generator(), dtype=torch.float64)
    activations[:, 3] = activations[:, 1]
    dpp, stream = KDPP.from_kernel(similarity_kernel(activations, jitter=0)), generator()
    for _ in range(2000):
        assert not {1, 3} <= set(dpp.sample(2, stream).tolist())
    # two copies a, a' and one b with similarity s: det of the pair (a, a') is (1 + eps)^2 - 1
    eps, s = 0.01, 0.3
    kernel = torch.tensor([[1 + eps, 1, s], [1, 1 + eps, s], [s, s, 1 + eps]], dtype=torch.float64)
    pair = ((1 + eps) ** 2 - 1) / ((1 + eps) ** 2 - 1 + 2 * ((1 + eps) ** 2 - s**2))
    # with three items and two places, an item is out exactly when the other two are in
    assert float(inclusion_marginals(kernel, 2)[2]) == pytest.approx(1 - pair, abs=1e-12)


def test_nearly_singular_kernels_are_sampled():
    activations = torch.rand(400, 300, generator=generator(), dtype=torch.float64)
    smooth = similarity_kernel(activations, beta=1e-6 / 400, jitter=1e-9)  # all items nearly alike
    assert len(set(sample_k_dpp(smooth, 200, generator()).tolist())) == 200


@settings(deadline=None, max_examples=25)
@given(n=st.integers(2, 12), seed=st.integers(0, 1000))
def test_similarity_kernel(n, seed):
    activations = torch.sigmoid(torch.randn(40, n, generator=generator(seed), dtype=torch.float64))
    kernel = similarity_kernel(activations)
    direct = torch.exp(-10 / 40 * ((activations[:, :, None] - activations[:, None, :]) ** 2).sum(0))
    assert torch.allclose(kernel, direct + 0.01 * torch.eye(n), atol=1e-12)
    assert torch.equal(kernel, kernel.T)
    assert float(torch.linalg.eigvalsh(kernel)[0]) >= 0.01 - 1e-10
    assert torch.allclose(similarity_kernel(activations.repeat(2, 1)), kernel, atol=1e-12)
    order = torch.randperm(n, generator=generator(seed))
    assert torch.allclose(similarity_kernel(activations[:, order]), kernel[order][:, order], atol=1e-12)
    second = activations.T @ activations / 40
    assert torch.allclose(kernel_from_moments(second), kernel, rtol=1e-8, atol=0)


def test_median_scale_sets_the_median_similarity_to_one_over_e():
    activations = 100 * torch.randn(60, 8, generator=generator(), dtype=torch.float64)
    second = activations.T @ activations / 60
    kernel = kernel_from_moments(second, median_scale(second), jitter=0)
    off = kernel[~torch.eye(8, dtype=torch.bool)].sort().values
    assert float((off - math.exp(-1)).abs().min()) < 1e-12
    assert float(off[0]) < math.exp(-1) < float(off[-1])


def test_linear_kernel_jitter_is_relative():
    second = random_kernel(5)
    assert torch.allclose(linear_kernel(1e6 * second, 0.1) / 1e6, linear_kernel(second, 0.1), rtol=1e-12)
    assert torch.equal(linear_kernel(second), (second + second.T) / 2)


def test_diagonal_kernel_is_conditional_poisson():
    odds = torch.tensor([0.1, 2.0, 0.7, 5.0, 0.0, 1.0], dtype=torch.float64)
    probabilities = {s: p for s, p in enumerate_k_dpp(torch.diag(odds), 3).items() if p > 0}
    stream, dpp = generator(4), KDPP.from_kernel(torch.diag(odds))
    for draw in (lambda: sample_conditional_poisson(odds, 3, stream), lambda: dpp.sample(3, stream)):
        assert chi_square_p(tally(draw, 4000), probabilities, 4000) > 1e-3


@pytest.mark.parametrize("k", [1, 2, 5, 60])
def test_greedy_takes_the_largest_gain_at_each_step(k):
    kernel = random_kernel(70, seed=k)
    chosen = []
    for _ in range(k):
        gains = [
            -math.inf if i in chosen else float(torch.linalg.slogdet(kernel[[*chosen, i]][:, [*chosen, i]])[1])
            for i in range(70)
        ]
        chosen.append(int(np.argmax(gains)))
    assert map_k_dpp(kernel, k).tolist() == sorted(chosen)


def test_greedy_breaks_ties_by_index_and_leaves_the_kernel_alone():
    kernel = torch.eye(200, dtype=torch.float64)
    assert map_k_dpp(kernel, 100).tolist() == list(range(100))
    assert torch.equal(kernel, torch.eye(200, dtype=torch.float64))


def test_same_seed_same_sample_and_draws_differ():
    kernel = random_kernel(40)
    dpp, stream = KDPP.from_kernel(kernel), generator(9)
    first, second = dpp.sample(20, stream), dpp.sample(20, stream)
    assert not torch.equal(first, second)
    assert torch.equal(first, sample_k_dpp(kernel, 20, generator(9)))


def test_a_batch_is_its_kernels_and_items_of_zero_weight_are_never_drawn():
    kernels = torch.stack([random_kernel(9, seed) for seed in range(3)])
    kernels[1, 4], kernels[1, :, 4] = 0, 0
    batch = KDPP.from_kernels(kernels)
    for kernel, dpp in zip(kernels, batch, strict=True):
        assert torch.allclose(dpp.marginals(4), inclusion_marginals(kernel, 4), atol=1e-10)
    assert all(4 not in batch[1].sample(8, generator(seed)).tolist() for seed in range(50))
    with pytest.raises(BadInput, match="rank 8"):
        batch[1].sample(9, generator())


@pytest.mark.parametrize(
    ("kernel", "k", "message"),
    [
        (torch.eye(3), 0, "cannot keep 0 of 3"),
        (torch.eye(3), 4, "cannot keep 4 of 3"),
        (torch.eye(3), -1, "cannot keep -1"),
        (torch.ones(3, 3), 2, "rank 1"),
        (torch.zeros(3, 3), 1, "rank 0"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), 1, "not symmetric"),
        (torch.full((2, 2), torch.nan), 1, "NaN"),
        (torch.diag(torch.tensor([1.0, torch.inf])), 1, "NaN or infinite"),
        (torch.diag(torch.tensor([1.0, -1.0])), 1, "positive semidefinite"),
        (torch.ones(2, 3), 1, "square"),
    ],
)
def test_bad_kernels_and_counts(kernel, k, message):
    with pytest.raises(BadInput, match=message):
        sample_k_dpp(kernel, k, generator())


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan, math.inf])
def test_bad_beta(beta):
    with pytest.raises(BadInput, match="beta"):
        similarity_kernel(uniform(5, 3), beta=beta)


def test_other_bad_input():
    with pytest.raises(BadInput, match="calibration"):
        similarity_kernel(torch.empty(0, 3))
    with pytest.raises(BadInput, match="jitter"):
        similarity_kernel(uniform(5, 3), jitter=-1)
    with pytest.raises(BadInput, match="non-negative"):
        log_elementary_symmetric(torch.tensor([-1.0]), 1)
    with pytest.raises(BadInput, match="odds"):
        sample_conditional_poisson(torch.tensor([1.0, 0.0]), 2, generator())
