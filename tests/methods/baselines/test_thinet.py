"""ThiNet's criterion against its definition on samples, and its greedy removal against brute force."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.baselines.thinet import ThiNetSelection, contribution_matrix, least_contribution
from methods.errors import BadInput


def reader(seed, m, out, r=1, n=60):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, m, generator=generator, dtype=torch.float64).relu()
    return x, torch.randn(out, m, r, generator=generator, dtype=torch.float64)


def energy(x, weight, removed):
    """Mean squared sum of what the removed channels add to the outputs, over samples."""
    return torch.einsum("nj,ojr->nor", x[:, removed], weight[:, removed]).square().sum((1, 2)).mean().item()


@pytest.mark.verifies("thinet", by="brute force")
@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), m=st.integers(1, 9), r=st.sampled_from([1, 4]))
def test_greedy_removal_is_that_of_brute_force_on_the_samples(seed, m, r):
    readers = [reader(seed, m, 3, r), reader(seed + 1, m, 2)]
    contributions = contribution_matrix([x.T @ x / len(x) for x, _ in readers], [w for _, w in readers])
    removed = []
    for k in range(m - 1, -1, -1):
        costs = {j: sum(energy(x, w, [*removed, j]) for x, w in readers) for j in range(m) if j not in removed}
        removed.append(min(costs, key=lambda j: costs[j]))
        subset = torch.zeros(m, dtype=torch.float64)
        subset[removed] = 1
        assert (subset @ contributions @ subset).item() == pytest.approx(costs[removed[-1]])
        assert least_contribution(contributions, k).tolist() == sorted(set(range(m)) - set(removed))


def test_of_equal_channels_the_lower_index_stays_and_dead_ones_go_first():
    x, weight = reader(0, 4, 3)
    twice = torch.tensor([0, 1, 2, 3, 0, 1])
    x, weight = x[:, twice], weight[:, twice].clone()
    weight[:, 3] = 0
    contributions = contribution_matrix([x.T @ x / len(x)], [weight])
    assert 3 not in least_contribution(contributions, 5)
    for k in range(1, 6):
        kept = set(least_contribution(contributions, k).tolist())
        assert (4 not in kept or 0 in kept) and (5 not in kept or 1 in kept)


def test_opposite_contributions_cancel():
    """Two channels that cancel in the output can go together; each alone would matter most."""
    x = torch.tensor([[1.0, 3.0, 3.0], [2.0, 1.0, 1.0]]).double()
    weight = torch.tensor([[5.0, 5.0, -5.0]]).double()[:, :, None]
    contributions = contribution_matrix([x.T @ x / 2], [weight])
    subset = torch.tensor([0.0, 1.0, 1.0]).double()
    assert (subset @ contributions @ subset).item() == pytest.approx(0)


def test_selection_reads_every_reader_of_the_layer():
    readers = [reader(3, 7, 3, 9), reader(4, 7, 2)]
    moments = [SimpleNamespace(second=x.T @ x / len(x)) for x, _ in readers]
    layer = SimpleNamespace(moments=moments, outgoing=[w for _, w in readers])
    expected = least_contribution(contribution_matrix([s.second for s in moments], layer.outgoing), 3)
    assert ThiNetSelection().select(layer, 3).equal(expected)
    assert ThiNetSelection().select(layer, 7).tolist() == list(range(7))
    with pytest.raises(BadInput, match="between 0 and 7"):
        ThiNetSelection().select(layer, 8)
