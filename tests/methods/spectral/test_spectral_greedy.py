"""The greedy search against brute force in 60-digit decimals, straight from the definition of the loss."""

import decimal
import math
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.errors import BadInput, Skipped
from methods.spectral import greedy as spectral_greedy
from methods.spectral.greedy import EXHAUSTED, TIE, Metric, metric_times
from methods.spectral.selection import greedy_path, greedy_selection, information_loss, leverage_scores

EXACT = decimal.Context(prec=60, Emin=-decimal.MAX_EMAX // 2, Emax=decimal.MAX_EMAX // 2)


def decimals(tensor):
    return np.array([decimal.Decimal(float(v)) for v in tensor.flatten()], dtype=object).reshape(tensor.shape)


def explained_and_pivot(covariance, products, ridge, nodes):
    """Tr[(S_JJ + tau)^-1 (S M S)_JJ] and the last pivot, R_jj + tau_j of the last node given the others."""
    system = covariance[np.ix_(nodes, nodes)] + np.diag(ridge[nodes])
    joint = np.concatenate([system, products[np.ix_(nodes, nodes)]], 1)
    size = len(nodes)
    for i in range(size):
        pivot = joint[i, i]
        if pivot == 0:
            return None, pivot
        for row in range(i + 1, size):
            joint[row] = joint[row] - joint[i] * (joint[row, i] / pivot)
    trace = decimal.Decimal(0)
    for i in reversed(range(size)):
        joint[i, size:] = (joint[i, size:] - joint[i, i + 1 : size] @ joint[i + 1 :, size:]) / joint[i, i]
        trace += joint[i, size + i]
    return trace, pivot


def brute_force(covariance, k, ridge, dense_metric, price=None, limit=math.inf):
    """Greedy by evaluating Tr[M R_J] for every candidate set; the documented tie and fill rules."""
    with decimal.localcontext(EXACT):
        m = len(covariance)
        live = [j for j in range(m) if covariance[j, j] > 0]
        moments, s, tau = covariance.diagonal(), decimals(covariance), decimals(ridge)
        kept = []
        for metric in (decimals(dense_metric), decimals(torch.eye(m))):
            products = s @ metric @ s
            zero = decimal.Decimal("1e-26") * sum((metric @ s).diagonal())
            while len(kept) < min(k, len(live)):
                now, _ = explained_and_pivot(s, products, tau, kept) if kept else (decimal.Decimal(0), None)
                gains = {}
                for j in live:
                    if j in kept or not payable(kept, j, live, min(k, len(live)), price, limit):
                        continue
                    trace, pivot = explained_and_pivot(s, products, tau, [*kept, j])
                    if pivot > decimal.Decimal(EXHAUSTED) * decimal.Decimal(float(moments[j])) and trace - now > zero:
                        gains[j] = trace - now
                if not gains:
                    break
                best = max(gains.values())
                kept.append(min(j for j, gain in gains.items() if gain >= best * (1 - decimal.Decimal(TIE))))
        while len(kept) < min(k, len(live)):
            kept.append(
                next(j for j in live if j not in kept and payable(kept, j, live, min(k, len(live)), price, limit))
            )
        return kept + [j for j in range(m) if j not in live][: k - len(kept)]


def payable(kept, j, live, k, price, limit):
    """Whether some completion of kept + j to k nodes respects the limit: the cheapest one does."""
    if price is None:
        return True
    rest = sorted(float(price[i]) for i in live if i not in kept and i != j)[: k - len(kept) - 1]
    return sum(float(price[i]) for i in kept) + float(price[j]) + sum(rest) <= limit * (1 + 1e-12)


def features(kind, m, generator):
    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n = 200
    if kind == "few_samples":
        n = max(1, m // 2)
    x = (normal(n, 5) @ normal(5, m) + 0.7 * normal(n, m) + 0.5 * normal(m)).relu()
    if kind == "rank_deficient":
        x = normal(n, 3) @ normal(3, m)
    elif kind == "duplicates":
        copies = torch.randint(m, (m // 2,), generator=generator)
        factors = torch.tensor([1.0, 1.0, 0.5, 2.0, -1.0, 3.0], dtype=torch.float64)
        x[:, torch.randperm(m, generator=generator)[: m // 2]] = x[:, copies] * factors[torch.arange(m // 2) % 6]
    elif kind == "bad_scale":
        x = x * 10.0 ** (12 * torch.rand(m, generator=generator, dtype=torch.float64) - 6)
    elif kind == "dead_and_constant":
        x[:, torch.randint(m, (2,), generator=generator)] = 0.0
        x[:, torch.randint(m, (2,), generator=generator)] = 1.0
    elif kind == "diagonal":
        return torch.diag(torch.randint(0, 4, (m,), generator=generator).double())
    second = x.T @ x / len(x)
    return (second + second.T) / 2


KINDS = ["relu", "few_samples", "rank_deficient", "duplicates", "bad_scale", "dead_and_constant", "diagonal"]


def problem(kind, seed):
    generator = torch.Generator().manual_seed(1000 * KINDS.index(kind) + seed)
    m = int(torch.randint(2, 13, (), generator=generator))
    covariance = features(kind, m, generator)
    k = int(torch.randint(1, min(m, 8) + 1, (), generator=generator))
    theta = [0.0, 0.3, 0.5, 1.0][seed % 4]
    rows = torch.randn(int(torch.randint(1, m + 4, (), generator=generator)), m, generator=generator).double()
    rows[:, torch.rand(m, generator=generator) < 0.2] = 0.0
    ridge = torch.zeros(m, dtype=torch.float64)
    if seed % 3:
        lam = [1e-6, 1e-2][seed % 2] * covariance.trace().item()
        ridge = k * lam * leverage_scores(covariance, lam) if lam > 0 else ridge
    return covariance, k, ridge, theta, rows


@pytest.mark.slow
@pytest.mark.verifies("spectral", by="brute force")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.cpu("brute force over sets, thousands of small tensors")
def test_choice_is_that_of_brute_force(kind):
    for seed in range(100):
        covariance, k, ridge, theta, rows = problem(kind, seed)
        dense = theta * torch.eye(len(covariance)).double() + (1 - theta) * rows.T @ rows
        expected = brute_force(covariance, k, ridge, dense)
        factored = greedy_path(covariance, k, ridge, Metric.of(theta, rows))
        assert factored.order.tolist() == expected, (kind, seed)
        assert greedy_selection(covariance, k, ridge, dense).tolist() == expected, (kind, seed)
        for count, loss in enumerate(factored.losses.tolist()):
            kept = factored.order[:count]
            direct = information_loss(covariance, kept, ridge[kept], dense).item()
            assert loss == pytest.approx(direct, rel=1e-9, abs=1e-10 * factored.losses[0].item())


@pytest.mark.cpu("brute force over sets, thousands of small tensors")
def test_choice_under_a_price_limit_is_that_of_brute_force():
    bound = 0
    for kind, seed in product(["relu", "duplicates", "bad_scale"], range(20)):
        covariance, k, ridge, _, _ = problem(kind, seed)
        price = 1 / leverage_scores(covariance, 1e-3 * covariance.trace().item())
        least = price.sort().values[:k].sum().item()
        limit = least * [1.0, 1.05, 1.3][seed % 3]
        path = greedy_path(covariance, k, ridge, None, price, limit)
        identity = torch.eye(len(covariance)).double()
        assert path.order.tolist() == brute_force(covariance, k, ridge, identity, price, limit)
        assert price[path.order].sum().item() <= limit * (1 + 1e-9)
        bound += path.order.tolist() != greedy_selection(covariance, k, ridge).tolist()
        with pytest.raises(Skipped):
            greedy_path(covariance, k, ridge, None, price, least * 0.9)
    assert bound > 0  # the limit did exclude nodes


def wide(m, n, decay, seed):
    """ReLU features whose spectrum falls over many orders of magnitude, so that T must be refreshed."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.exp(-decay * torch.arange(m, dtype=torch.float64) / m)
    x = torch.randn(n, m, generator=generator, dtype=torch.float64) * scale
    x = (x @ torch.randn(m, m, generator=generator, dtype=torch.float64) / m**0.5).relu()
    return x.T @ x / n


def slow_greedy(covariance, k, ridge, dense):
    """Each step from the residual of the definition: all gains by R M R, R by a solve."""
    kept = []
    for _ in range(k):
        index = torch.tensor(kept, dtype=torch.int64)
        system = covariance[index][:, index] + torch.diag(ridge[index])
        residual = covariance - covariance[:, index] @ torch.linalg.solve(system, covariance[index])
        gain = (residual * (dense @ residual)).sum(0) / (residual.diagonal() + ridge)
        gain[index] = -torch.inf
        kept.append(int((gain >= gain.max() * (1 - TIE)).nonzero()[0]))
    return kept


@pytest.mark.parametrize("lam", [1e-6, 1e-12])
def test_panels_do_not_change_the_choice(lam):
    covariance = wide(200, 500, 20.0, 3)
    rows = torch.randn(300, 200, generator=torch.Generator().manual_seed(1)).double() / 15
    dense = 0.5 * torch.eye(200).double() + 0.5 * rows.T @ rows
    ridge = torch.full((200,), lam * covariance.trace().item(), dtype=torch.float64)
    expected = slow_greedy(covariance, 150, ridge, dense)
    path = greedy_path(covariance, 150, ridge, Metric.of(0.5, rows))
    assert path.order.tolist() == expected
    direct = information_loss(covariance, path.order, ridge[path.order], dense).item()
    assert path.losses[-1].item() == pytest.approx(direct, rel=1e-6, abs=1e-13 * path.losses[0].item())


def extended_greedy(covariance, k, ridge, dense):
    """Plain greedy with R M R recomputed in every step, in extended precision."""
    residual, metric, tau = (v.numpy().astype(np.longdouble) for v in (covariance, dense, ridge))
    moments, kept = residual.diagonal().copy(), []
    for _ in range(k):
        pivot = residual.diagonal() + tau
        usable = (pivot > EXHAUSTED * moments) & ~np.isin(np.arange(len(tau)), kept)
        gain = np.where(usable, (residual * (metric @ residual)).sum(0) / np.where(usable, pivot, 1), -1)
        kept.append(int(np.nonzero(gain >= gain.max() * (1 - TIE))[0][0]))
        residual = residual - np.outer(residual[:, kept[-1]], residual[:, kept[-1]]) / pivot[kept[-1]]
    return kept


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="needs a long double of more than 64 bits")
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize(("decay", "lam"), [(10.0, 1e-8), (15.0, 1e-10), (20.0, 1e-13), (12.0, 0.0)])
@pytest.mark.cpu("brute force over sets, thousands of small tensors")
def test_gains_over_twenty_orders_of_magnitude_are_ranked_right(monkeypatch, decay, lam, twice, folded):
    """T falls with the square of the spectrum and would be noise without the control of its rounding errors."""
    monkeypatch.setattr(spectral_greedy, "PANEL", 8)
    if folded:
        monkeypatch.setattr(spectral_greedy, "LARGE", 1)
        monkeypatch.setattr(spectral_greedy, "BLOCK", 16)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(300, 60, generator=generator).double() * torch.exp(-decay * torch.arange(60).double() / 60)
        x = x @ torch.randn(60, 60, generator=generator).double()
        if twice:
            x[:, 30:] = x[:, torch.randperm(60, generator=generator)[:30]]
        covariance = (x.T @ x + (x.T @ x).T) / 600
        rows = torch.randn(20, 60, generator=generator).double() / 8
        dense = 0.5 * torch.eye(60).double() + 0.5 * rows.T @ rows
        ridge = torch.full((60,), lam * covariance.trace().item(), dtype=torch.float64)
        k = 25 if twice else 45
        expected = extended_greedy(covariance, k, ridge, dense)
        assert greedy_selection(covariance, k, ridge, Metric.of(0.5, rows)).tolist() == expected


def test_pairs_of_duplicates_always_give_the_lower_index():
    covariance = wide(100, 300, 10.0, 5)
    twice = torch.arange(100).repeat(2)
    covariance = covariance[twice][:, twice]
    rows = torch.randn(50, 100, generator=torch.Generator().manual_seed(2)).double()[:, twice]
    order = greedy_selection(covariance, 100, 0.0, Metric.of(0.5, rows))
    assert sorted(order.tolist()) == list(range(100))


def test_stops_at_the_rank_and_fills_up_with_the_lowest_indices():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, generator=generator).double() @ torch.randn(3, 9, generator=generator).double()
    x[:, 4] = 0
    covariance = x.T @ x / 50
    path = greedy_path(covariance, 9)
    assert path.gained == 3
    assert path.losses[3] < 1e-9 * covariance.trace()
    rest = [j for j in range(9) if j not in path.order[:3].tolist() and j != 4]
    assert path.order[3:].tolist() == [*rest, 4]  # the dead node comes last


def test_when_the_output_is_settled_the_input_loss_decides():
    covariance = torch.diag(torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0]).double())
    rows = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]]).double()  # the output sees node 0 alone
    path = greedy_path(covariance, 4, 0.0, Metric.of(0.0, rows))
    assert path.order.tolist() == [0, 3, 4, 1]
    assert path.losses.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    kind=st.sampled_from(KINDS),
    share=st.floats(0, 1),
)
def test_any_features_any_width_give_k_different_nodes(seed, scale, kind, share):
    generator = torch.Generator().manual_seed(seed)
    m = 9
    covariance = features(kind, m, generator) * scale**2
    k = round(share * m)
    for ridge in (0.0, 1e-6 * covariance.trace()):
        path = greedy_path(covariance, k, ridge, Metric.of(0.5, torch.randn(4, m, generator=generator).double()))
        assert len(set(path.order.tolist())) == k
        assert torch.isfinite(path.losses).all()
        assert bool((path.losses.diff() <= 0).all())


def test_the_choice_does_not_depend_on_the_features_scale_nor_on_labels_of_the_nodes():
    generator = torch.Generator().manual_seed(7)
    covariance = features("relu", 12, generator)
    rows = torch.randn(6, 12, generator=generator).double()
    lam = 1e-6 * covariance.trace().item()
    order = greedy_selection(covariance, 6, lam, Metric.of(0.5, rows))
    for scale in (1e-6, 1e6):
        assert greedy_selection(covariance * scale**2, 6, lam * scale**2, Metric.of(0.5, rows)).equal(order)
    permutation = torch.randperm(12, generator=generator)
    moved = greedy_selection(covariance[permutation][:, permutation], 6, lam, Metric.of(0.5, rows[:, permutation]))
    assert permutation[moved].equal(order)


def test_greedy_is_close_to_exhaustive_search():
    ratios = []
    for seed in range(10):
        covariance = features("relu", 8, torch.Generator().manual_seed(seed))
        best = min(information_loss(covariance, torch.tensor(c)).item() for c in combinations(range(8), 3))
        ratios.append(greedy_path(covariance, 3).losses[-1].item() / best)
    assert min(ratios) >= 1 - 1e-12
    assert sum(ratios) / len(ratios) < 1.5


def test_a_metric_in_single_precision_is_taken_in_double():
    covariance = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert greedy_selection(covariance, 2, 0.0, torch.diag(torch.tensor([9.0, 1.0, 1.0]))).tolist() == [0, 2]


def test_metric_products_agree_with_the_dense_matrix():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(5, 4, 9, generator=generator).double(), torch.randn(3, 4, 1, generator=generator).double()]
    factors = [torch.rand(5, generator=generator).double(), torch.tensor([0.0, 1.0, 2.0]).double()]
    metric = Metric(0.25, weights, factors)
    expected = 0.25 * torch.eye(4).double()
    for weight, factor in zip(weights, factors, strict=True):
        expected += 0.75 * torch.einsum("o,omr,onr->mn", factor**2, weight, weight)
    matrix = torch.randn(4, 3, generator=generator).double()
    assert torch.allclose(metric.times(matrix), expected @ matrix)
    assert torch.allclose(metric.times(torch.eye(4).double()), expected)
    assert torch.allclose(metric_times(expected, matrix), expected @ matrix)


@pytest.mark.parametrize("k", [-1, 4])
def test_more_nodes_than_there_are_is_bad_input(k):
    with pytest.raises(BadInput, match="between 0 and 3"):
        greedy_selection(torch.eye(3), k)


def test_nan_and_negative_ridge_are_bad_input():
    with pytest.raises(BadInput, match="NaN"):
        greedy_selection(torch.full((2, 2), torch.nan), 1)
    with pytest.raises(BadInput, match="ridge"):
        greedy_selection(torch.eye(2), 1, -1.0)
    with pytest.raises(BadInput, match="square"):
        greedy_selection(torch.ones(2, 3), 1)


@pytest.mark.slow
def test_same_choice_as_recomputing_every_candidate():
    """Tr S - Tr S_PK (S_KK + R)^-1 S_KP of every candidate, all systems of a step at once."""
    covariance = wide(256, 1000, 5.0, 0)
    ridge = torch.full((256,), 1e-6 * covariance.trace().item(), dtype=torch.float64)
    kept = []
    for _ in range(64):
        candidates = torch.tensor([j for j in range(256) if j not in kept])
        sets = torch.cat([torch.tensor(kept, dtype=torch.int64).expand(len(candidates), -1), candidates[:, None]], 1)
        systems = covariance[sets[:, :, None], sets[:, None, :]] + torch.diag_embed(ridge[sets])
        cross = covariance[sets]  # (candidates, k, 256)
        losses = covariance.trace() - (cross * torch.linalg.solve(systems, cross)).sum((1, 2))
        kept.append(int(candidates[losses.argmin()]))
    assert float(losses.min()) == pytest.approx(information_loss(covariance, torch.tensor(kept), ridge[kept]).item())
    assert greedy_selection(covariance, 64, ridge).tolist() == kept
