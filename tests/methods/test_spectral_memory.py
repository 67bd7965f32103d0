"""How many (m, m) float64 arrays spectral pruning needs at once, the covariance included."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from methods.spectral import information_loss, output_metric, reconstruction_matrix
from methods.spectral_greedy import BLOCK, greedy_selection
from methods.spectral_theory import leverage_scores

M, OUT = 1024, 100
PANELS = 6 * BLOCK / M  # strips of BLOCK rows or columns, in units of one (m, m) array


def squares(work) -> float:
    """Most memory that ``work`` held at once, beyond what was there before, in (m, m) float64 arrays."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert events
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / (8 * M * M)


@pytest.fixture(scope="module")
def layer():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2 * M, M, generator=generator, dtype=torch.float64).relu()
    weight = torch.randn(OUT, M, 1, generator=generator, dtype=torch.float64)
    return features.T @ features / len(features), output_metric([weight], theta=0.5)


def test_the_search_holds_the_covariance_and_two_more(layer):
    covariance, metric = layer
    assert 1 + squares(lambda: greedy_selection(covariance, 80, 1e-6, metric)) <= 3 + PANELS


def test_repair_and_loss_of_half_the_nodes_hold_at_most_three(layer):
    covariance, metric = layer
    kept = torch.arange(0, M, 2)
    ridge = torch.full((len(kept),), 1e-6, dtype=torch.float64)
    assert 1 + squares(lambda: reconstruction_matrix(covariance, kept, ridge)) <= 3
    assert 1 + squares(lambda: information_loss(covariance, kept, ridge, metric)) <= 3 + PANELS


def test_leverage_scores_hold_at_most_three(layer):
    covariance, _ = layer
    assert 1 + squares(lambda: leverage_scores(covariance, 1e-6 * covariance.trace().item())) <= 3 + PANELS
