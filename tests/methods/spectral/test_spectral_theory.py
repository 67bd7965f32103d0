"""Degrees of freedom, leverage scores and bounds against closed forms, brute force and random networks."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.errors import BadInput
from methods.spectral import theory as spectral_theory
from methods.spectral.greedy import Metric
from methods.spectral.selection import greedy_selection, information_loss, reconstruction_matrix
from methods.spectral.theory import (
    bias_variance,
    compression_bound,
    constraint_sides,
    degrees_of_freedom,
    layer_error,
    leverage_scores,
    mixed_degrees_of_freedom,
    output_degrees_of_freedom,
    propagation_bound,
    row_weights,
    sufficient_width,
)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(seed, *shape):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def relu_covariance(seed, m=12, n=200):
    x = (normal(seed, n, m) @ normal(seed + 1, m, m)).relu()
    return x.T @ x / n


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), exponent=st.integers(-8, 1), n=st.sampled_from([4, 200]))
def test_leverages_and_degrees_of_freedom(seed, exponent, n):
    covariance = relu_covariance(seed, n=n)
    trace = covariance.trace().item()
    lam = 10.0**exponent * trace
    smoother = covariance @ torch.linalg.inv(covariance + lam * torch.eye(12))
    degrees = degrees_of_freedom(covariance, lam)
    assert torch.allclose(degrees, smoother.trace(), rtol=1e-6)
    scores = leverage_scores(covariance, lam)
    assert torch.allclose(scores, smoother.diagonal() / smoother.trace(), atol=1e-7)
    assert scores.sum().item() == pytest.approx(1)
    assert bool(((scores * degrees >= 0) & (scores * degrees <= 1 + 1e-12)).all())
    assert degrees <= trace / lam
    assert degrees_of_freedom(covariance, 1.5 * lam) < degrees
    several = degrees_of_freedom(covariance, [lam, 2 * lam])
    assert several.tolist() == pytest.approx([degrees.item(), degrees_of_freedom(covariance, 2 * lam).item()])


def test_degrees_of_freedom_tend_to_the_rank():
    covariance = relu_covariance(3, n=5)
    assert degrees_of_freedom(covariance, 1e-12 * covariance.trace().item()).item() == pytest.approx(5, abs=1e-6)
    assert degrees_of_freedom(covariance, 0.0).item() == pytest.approx(5)
    orthonormal = torch.linalg.qr(normal(0, 6, 3)).Q
    projection_leverage = (orthonormal @ orthonormal.T).diagonal() / 3
    assert torch.allclose(leverage_scores(orthonormal @ orthonormal.T, 0.0), projection_leverage)


def test_dead_nodes_have_no_leverage_and_a_dead_layer_is_no_error():
    covariance = relu_covariance(0)
    covariance[3], covariance[:, 3] = 0, 0
    scores = leverage_scores(covariance, 1e-6)
    assert scores[3] == 0
    assert bool((scores[torch.arange(12) != 3] > 0).all())
    assert leverage_scores(torch.zeros(3, 3), 0.1).tolist() == [0, 0, 0]
    assert degrees_of_freedom(torch.zeros(3, 3), 0.0) == 0


@pytest.mark.parametrize("relative", [1e-8, 1e-6, 1e-3])
def test_large_layers_get_the_same_leverages_by_another_route(monkeypatch, relative):
    covariance = relu_covariance(1, 40) * torch.outer(*[torch.logspace(0, -4, 40, dtype=torch.float64)] * 2)
    lam = relative * covariance.trace().item()
    expected = spectral_theory.leverages(covariance, lam)
    monkeypatch.setattr(spectral_theory, "LARGE", 10)
    assert torch.allclose(spectral_theory.leverages(covariance, lam), expected, atol=1e-8)


@pytest.mark.parametrize("large", [1, 10_000])
@pytest.mark.parametrize("relative", [1e-6, 1e-2])
@pytest.mark.parametrize("kind", ["identity", "dense", "single precision", "factored"])
def test_mixed_degrees_of_freedom_by_both_routes(monkeypatch, large, relative, kind):
    """Of a layer of several strips, against the definition with an explicit inverse."""
    m = 300
    covariance, rows = relu_covariance(2, m, 2 * m), normal(3, 7, m)
    lam = relative * covariance.trace().item()
    smoother = covariance @ torch.linalg.inv(covariance + lam * torch.eye(m, dtype=torch.float64))
    dense = 0.3 * torch.eye(m, dtype=torch.float64) + 0.7 * rows.T @ rows
    metric, tolerance = {
        "identity": (None, 1e-9),
        "dense": (dense, 1e-9),
        "single precision": (dense.float(), 1e-5),
        "factored": (Metric.of(0.3, rows), 1e-9),
    }[kind]
    expected = (smoother if metric is None else dense @ smoother).trace().item()
    monkeypatch.setattr(spectral_theory, "LARGE", large)
    assert mixed_degrees_of_freedom(covariance, metric, lam).item() == pytest.approx(expected, rel=tolerance)
    assert torch.allclose(spectral_theory.leverages(covariance, lam), smoother.diagonal(), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("large", [1, 10_000])
def test_nan_and_other_shapes_are_bad_input(monkeypatch, large):
    monkeypatch.setattr(spectral_theory, "LARGE", large)
    covariance = torch.eye(3, dtype=torch.float64)
    covariance[0, 1] = float("nan")
    for ask in (degrees_of_freedom, leverage_scores, lambda s, lam: mixed_degrees_of_freedom(s, None, lam)):
        with pytest.raises(BadInput, match="NaN"):
            ask(covariance, 0.1)
        with pytest.raises(BadInput, match="square"):
            ask(torch.ones(2, 3), 0.1)


def test_covariances_that_require_gradients_are_taken_as_numbers():
    covariance = relu_covariance(4)
    live = covariance.clone().requires_grad_()
    assert torch.equal(leverage_scores(live, 0.1), leverage_scores(covariance, 0.1))
    assert torch.equal(greedy_selection(live, 4, 0.1), greedy_selection(covariance, 4, 0.1))
    assert torch.equal(information_loss(live, [0, 3], 0.1), information_loss(covariance, torch.tensor([0, 3]), 0.1))
    assert not reconstruction_matrix(live, [1, 2]).requires_grad


@pytest.mark.parametrize("kept", [[True, False], torch.tensor([False, True]), [0.9, 2.7], torch.tensor([1.0])])
def test_kept_nodes_are_numbers(kept):
    for ask in (reconstruction_matrix, information_loss):
        with pytest.raises(BadInput, match="by their numbers"):
            ask(relu_covariance(0), kept, 0.1)


def test_metrics_of_any_precision_and_of_numbers_only():
    covariance, rows = relu_covariance(6), normal(7, 4, 12)
    single, double = Metric.of(0.3, rows.float()), Metric.of(0.3, rows.float().double())
    assert torch.equal(greedy_selection(covariance, 5, 0.1, single), greedy_selection(covariance, 5, 0.1, double))
    rows[0, 0] = float("nan")
    for ask in (
        lambda metric: greedy_selection(covariance, 5, 0.1, metric),
        lambda metric: information_loss(covariance, [1], 0.1, metric),
        lambda metric: mixed_degrees_of_freedom(covariance, metric, 0.1),
    ):
        for metric in (Metric.of(0.3, rows), rows.T @ rows):
            with pytest.raises(BadInput, match="metric contains NaN"):
                ask(metric)


def test_output_degrees_of_freedom_and_the_bound():
    covariance, rows = relu_covariance(5), normal(9, 4, 12)
    inverse = torch.linalg.inv(covariance + 0.1 * torch.eye(12))
    expected = (rows @ covariance @ inverse @ rows.T).trace().item()
    assert output_degrees_of_freedom(covariance, rows, 0.1).item() == pytest.approx(expected)
    assert output_degrees_of_freedom(covariance, torch.eye(12), 0.1).item() == pytest.approx(
        degrees_of_freedom(covariance, 0.1).item()
    )
    mixed = 0.3 * degrees_of_freedom(covariance, 0.1).item() + 0.7 * expected
    metric = 0.3 * torch.eye(12) + 0.7 * rows.T @ rows
    assert compression_bound(covariance, 0.1, metric).item() == pytest.approx(4 * 0.1 * mixed)


def test_sufficient_width_of_some_degrees():
    assert [round(sufficient_width(n)) for n in (1, 2, 5, 10, 20, 50)] == [22, 51, 150, 334, 738, 2074]
    assert sufficient_width(0.0) == 0


def test_sampling_from_the_leverage_scores_satisfies_the_proposition():
    """R_J <= 4 lam S (S + lam)^-1 and the norm constraint, from the sufficient width on."""
    m = 400
    spectrum = torch.exp(-0.35 * torch.arange(m, dtype=torch.float64))
    basis = torch.linalg.qr(normal(0, m, m)).Q
    covariance = (basis * spectrum) @ basis.T
    lam = 0.03
    degrees = degrees_of_freedom(covariance, lam).item()
    k = math.ceil(sufficient_width(degrees))
    assert k < m
    scores = leverage_scores(covariance, lam)
    smoother = covariance @ torch.linalg.inv(covariance + lam * torch.eye(m))
    bounds, constraints = 0, 0
    for seed in range(20):
        drawn = torch.multinomial(scores, k, replacement=True, generator=generator(seed))
        kept, times = drawn.unique(return_counts=True)
        tau = k * lam * scores[kept] / times  # a node drawn c times has a c-fold smaller ridge
        system = covariance[kept][:, kept] + torch.diag(tau)
        residual = covariance - covariance[:, kept] @ torch.linalg.solve(system, covariance[kept])
        bounds += bool(torch.linalg.eigvalsh(4 * lam * smoother - residual)[0] >= -1e-9)
        left, right = constraint_sides(scores, drawn)
        assert right == pytest.approx(5 / 3 * m * k)
        constraints += left <= right
    assert bounds >= 16
    assert constraints >= 8
    tau = k * lam * scores
    greedy = greedy_selection(covariance, k, tau)
    assert information_loss(covariance, greedy, tau[greedy]) <= compression_bound(covariance, lam)


def test_constraint_leaves_dead_nodes_out():
    leverage = torch.tensor([0.5, 0.25, 0.25, 0.0])
    assert constraint_sides(leverage, torch.tensor([0, 1, 3])) == (6.0, pytest.approx(20.0))


def test_row_weights_are_a_probability_over_the_kept_rows():
    leverage = torch.tensor([0.5, 0.25, 0.125, 0.125, 0.0], dtype=torch.float64)
    weights = row_weights(leverage, torch.tensor([0, 1, 4]))
    assert weights.tolist() == pytest.approx([1 / 3, 2 / 3, 0, 0, 0])
    assert row_weights(leverage, torch.tensor([4])).tolist() == [0, 0, 0, 0, 1]


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 10**6), keep=st.floats(0.05, 1.0), backward=st.booleans())
def test_propagation_bound_holds(seed, keep, backward):
    """Random networks of four layers, arbitrary kept nodes, least-squares reconstruction."""
    widths = [5, 12, 15, 9, 3]
    weights = [normal(seed + i, out, m) / m**0.5 for i, (m, out) in enumerate(pairwise(widths))]
    biases = [0.3 * normal(seed + 10 + i, out) for i, out in enumerate(widths[1:])]
    x = normal(seed + 99, 60, widths[0])
    features = [x]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        features.append((features[-1] @ weight.T + bias).relu())
    full = features[-1] @ weights[-1].T + biases[-1]
    kept = [torch.arange(widths[0])]
    for i, m in enumerate(widths[1:-1]):
        kept.append(torch.randperm(m, generator=generator(seed + i))[: max(1, round(keep * m))])
    kept.append(torch.arange(widths[-1]))
    errors, norms = [], []
    h = (x @ weights[0][kept[1]].T + biases[0][kept[1]]).relu()
    for index in range(1, 4):
        covariance = features[index].T @ features[index] / len(x)
        matrix = reconstruction_matrix(covariance, kept[index], 1e-4)
        rows = kept[index + 1] if backward else torch.arange(widths[index + 1])
        errors.append(layer_error(covariance, kept[index], matrix, weights[index][rows]).item())
        merged = weights[index][kept[index + 1]] @ matrix
        norms.append(torch.linalg.matrix_norm(merged, 2).item())
        h = h @ merged.T + biases[index][kept[index + 1]]
        h = h.relu() if index < 3 else h
    actual = (full - h).square().sum(1).mean().sqrt().item()
    assert actual <= propagation_bound(errors, norms) + 1e-9


def test_layer_error_is_the_error_on_the_samples_and_below_the_information_loss():
    x = (normal(0, 100, 8) @ normal(1, 8, 8)).relu()
    covariance, weight = x.T @ x / 100, normal(2, 4, 8)
    kept = torch.tensor([5, 0, 3])
    tau = torch.tensor([0.1, 0.2, 0.3]).double()
    matrix = reconstruction_matrix(covariance, kept, tau)
    actual = ((x - x[:, kept] @ matrix.T) @ weight.T).square().sum(1).mean()
    error = layer_error(covariance, kept, matrix, weight)
    assert error.item() ** 2 == pytest.approx(actual.item())
    assert error**2 <= information_loss(covariance, kept, tau, weight.T @ weight)


def test_bias_grows_with_lambda_and_variance_with_width():
    bias, variance = bias_variance([0.04, 0.09], [10, 20, 30, 2], 100)
    assert bias == pytest.approx(0.5)
    assert variance == pytest.approx(math.sqrt((200 + 600 + 60) * math.log(100) / 100))
    assert bias_variance([0.04, 0.09], [10, 20, 30, 2], 100, [2, 10])[0] == pytest.approx(3.4)
    with pytest.raises(BadInput, match="samples"):
        bias_variance([0.1], [2, 2], 1)


def test_negative_lambda_is_bad_input():
    for function in (degrees_of_freedom, leverage_scores):
        with pytest.raises(BadInput, match="non-negative"):
            function(torch.eye(2), -1.0)
