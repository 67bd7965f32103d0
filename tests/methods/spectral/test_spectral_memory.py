"""How many (m, m) float64 arrays spectral pruning needs at once, the covariance included: three.

Beside them stand strips of a few columns, which count where nearly every node is kept and so the third is full.
"""

import tracemalloc

import pytest
import scipy.linalg  # noqa: F401  imported late otherwise, and what an import allocates would count
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from methods.compensation import LeastSquares
from methods.layers.ridge import LARGE, strips
from methods.layers.seen import NodeLayer
from methods.layers.statistics import Calibration, Moments
from methods.network.graph import NetworkGraph
from methods.seeds import stream
from methods.spectral.greedy import greedy_selection
from methods.spectral.selection import SpectralSelection, information_loss, output_metric, reconstruction_matrix
from methods.spectral.theory import compression_bound, leverage_scores

pytestmark = [pytest.mark.slow, pytest.mark.cpu("counts what the arrays on the CPU take")]

M, OUT = 1280, 100
STRIPS = (3 * strips(M)[0].stop + 10) / M
"""Three strips and ten vectors, in units of one (m, m) array."""


def squares(work) -> float:
    """Most memory that ``work`` held at once, beyond what was there before, in (m, m) float64 arrays.

    The peaks of PyTorch's and of NumPy's memory are added, although they need not fall together.
    """
    tracemalloc.start()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
            work()
        numpy = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert events
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return (most + numpy) / (8 * M * M)


def features(rank: int) -> torch.Tensor:
    """(2 m, m) rectified features, of which only ``rank`` columns differ."""
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(2 * M, rank, generator=generator, dtype=torch.float64).relu()
    return own[:, torch.arange(M) % rank]


@pytest.fixture(scope="module", params=[M, M // 2], ids=["regular", "singular"])
def layer(request):
    """A layer of m nodes as the pruner shows it to a method."""
    rows = features(request.param)
    model = nn.Sequential(nn.Linear(4, M), nn.ReLU(), nn.Linear(M, OUT))
    inputs = torch.zeros(1, 4)
    calibration = Calibration(inputs, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    [group] = NetworkGraph(model, inputs).groups
    moments = [Moments(rows.T @ rows / len(rows), rows.mean(0), len(rows))]
    return NodeLayer(group, model, calibration, stream(0, "test"), lambda: moments)


def test_large_matrices_are_what_is_measured():
    assert M > LARGE


@pytest.mark.parametrize("k", [80, 300])
def test_search(layer, k):
    metric = output_metric(layer.outgoing, theta=0.5)
    assert 1 + squares(lambda: greedy_selection(layer.covariance, k, 1e-6, metric)) <= 3


@pytest.mark.parametrize("ridge", [0.0, 1e-6])
@pytest.mark.parametrize(("k", "most"), [(M // 2, 2), (9 * M // 10, 3), (M - 1, 3 + STRIPS)])
def test_repair_and_loss(layer, k, most, ridge):
    kept, tau = torch.arange(k), torch.full((k,), ridge, dtype=torch.float64)
    metric = output_metric(layer.outgoing, theta=0.5)
    assert 1 + squares(lambda: reconstruction_matrix(layer.covariance, kept, tau)) <= most
    # where the system is singular NumPy's peak, in the repair, and PyTorch's, in the loss, cannot be told apart
    if ridge > 0:
        assert 1 + squares(lambda: information_loss(layer.covariance, kept, tau, metric)) <= most + STRIPS


@pytest.mark.parametrize("lam", [1e-10, 1e-6])
def test_leverage_scores_and_degrees_of_freedom(layer, lam):
    lam *= layer.covariance.trace().item()
    metric = output_metric(layer.outgoing, theta=0.5)
    assert 1 + squares(lambda: leverage_scores(layer.covariance, lam)) <= 3 + STRIPS
    assert 1 + squares(lambda: compression_bound(layer.covariance, lam, metric)) <= 3 + STRIPS


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_selection_repair_and_report_of_a_layer(layer, share):
    selection, kept = SpectralSelection(), torch.arange(int(share * M))
    for intercept in (False, True):
        repair = LeastSquares(intercept=intercept)
        assert 1 + squares(lambda repair=repair: repair.reconstruction(layer, kept, selection)) <= 3 + STRIPS
    assert 1 + squares(lambda: selection.select(layer, len(kept))) <= 3
    assert 1 + squares(lambda: selection.report(layer, kept)) <= 3 + STRIPS
