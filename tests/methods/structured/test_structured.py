"""Each structured criterion against its definition, written out with loops on cases small enough."""

import itertools

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from methods.errors import BadInput
from methods.layers.statistics import Calibration
from methods.layers.views import node_views
from methods.lq.compensation import BiasCorrection
from methods.network.graph import NetworkGraph
from methods.structured.chip import CHIPSelection, independence
from methods.structured.fpgm import FPGMSelection, summed_distances
from methods.structured.hrank import HRankSelection
from methods.structured.osscar import OSSCARSelection, Search
from methods.structured.second_moment import SecondMomentSelection
from methods.structured.taylor import TaylorSelection
from methods.structured.variance import VarianceSelection


def network(seed=0):
    """A convolution read by a convolution, read flattened by a linear layer, read by another."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(4 * 9, 7), nn.ReLU(), nn.Linear(7, 3),
        )  # fmt: skip


def calibration(n=24, seed=1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    return Calibration(torch.randn(n, 2, 6, 6, generator=generator), labels, batch_size=10)


def views(model=None, data=None):
    model, data = model or network(), data or calibration()
    return node_views(model, NetworkGraph(model, data.inputs[:2]).groups, data, "test")


def read_of(model, index, data):
    return model[:index](data.inputs).detach()


@pytest.mark.verifies("fpgm", by="brute force")
def test_fpgm_sums_the_distances_between_filters():
    for layer in views():
        rows = layer.incoming.cpu().numpy()
        wanted = [sum(numpy.linalg.norm(a - b) for b in rows) for a in rows]
        assert FPGMSelection().scores(layer).cpu().numpy() == pytest.approx(wanted)


def test_equal_filters_are_at_distance_zero():
    rows = torch.full((3, 50), 1e4, dtype=torch.float64)
    assert summed_distances(rows).tolist() == [0, 0, 0]


@pytest.mark.verifies("taylor", by="brute force")
@pytest.mark.parametrize("gates", [False, True])
def test_taylor_is_the_squared_derivative_by_a_gate(gates):
    """On the incoming weights' own contribution, or on what the node puts out: derivatives by a factor that is 1."""
    model, data = network(), calibration()
    first, second, third = views(model, data)
    batch = 8
    positions = {first.name: (0, 2), second.name: (2, 6), third.name: (6, 8)}
    for layer in (first, second, third):
        writer, reader = positions[layer.name]
        wanted = torch.zeros(layer.size, dtype=torch.float64)
        for x, y in zip(data.inputs.split(batch), data.labels.split(batch), strict=True):
            gate = torch.ones(layer.size, requires_grad=True)
            for place, module in enumerate(model):
                if place == reader and gates:
                    if isinstance(module, nn.Linear) and layer is second:
                        x = (x.view(len(x), 4, 9) * gate[:, None]).flatten(1)
                    else:
                        x = x * gate.view(1, -1, *[1] * (x.dim() - 2))
                if place == writer and not gates:
                    weight = module.weight * gate.view(-1, *[1] * (module.weight.dim() - 1))
                    convolution = isinstance(module, nn.Conv2d)
                    x = functional.conv2d(x, weight, module.bias, padding=1) if convolution else functional.linear(
                        x, weight, module.bias
                    )  # fmt: skip
                else:
                    x = module(x)
            [slope] = torch.autograd.grad(functional.cross_entropy(x, y), gate)
            wanted += slope.double().square() / (len(data) // batch)
        assert TaylorSelection(gates, batch).scores(layer).tolist() == pytest.approx(wanted.sqrt().tolist(), rel=1e-4)


@pytest.mark.verifies("second_moment", by="brute force")
def test_second_moment_is_what_a_node_alone_adds_to_its_readers():
    model, data = network(), calibration()
    third = views(model, data)[2]
    read = read_of(model, 8, data).double()
    alone = torch.stack([
        (read[:, [j]] @ model[8].weight.double()[:, [j]].T).square().mean(0).sum() for j in range(7)
    ])  # fmt: skip
    assert SecondMomentSelection().scores(third).tolist() == pytest.approx(alone.tolist())
    first = views(model, data)[0]
    maps = read_of(model, 2, data).double()
    energy = maps.square().mean((0, 2, 3)) * model[2].weight.double().square().sum((0, 2, 3))
    assert SecondMomentSelection().scores(first).tolist() == pytest.approx(energy.tolist())


@pytest.mark.verifies("variance", by="closed form")
def test_centred_second_moments_and_variances_ignore_constants():
    model, data = network(), calibration()
    with torch.no_grad():
        model[6].weight[2] = 0
        model[6].bias[2] = 50.0
    third = views(model, data)[2]
    assert SecondMomentSelection().scores(third).argmax() == 2
    assert float(SecondMomentSelection(centred=True).scores(third)[2]) == pytest.approx(0, abs=1e-9)
    read = read_of(model, 8, data).double()
    assert VarianceSelection().scores(third).tolist() == pytest.approx(read.var(0, correction=0).tolist(), abs=1e-8)


@pytest.mark.verifies("variance", by="closed form")
def test_the_mean_shift_keeps_the_mean_output_of_every_reader():
    model, data = network(), calibration()
    third = views(model, data)[2]
    kept = torch.tensor([0, 3, 4])
    [repair] = BiasCorrection().reconstruction(third, kept, VarianceSelection())
    read = read_of(model, 8, data).double()
    rebuilt = read[:, kept] @ repair.matrix.T + repair.shift
    assert rebuilt.mean(0).tolist() == pytest.approx(read.mean(0).tolist())
    assert torch.equal(rebuilt[:, kept], read[:, kept])


@pytest.mark.verifies("chip", by="brute force")
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), m=st.integers(1, 7), p=st.integers(1, 9), n=st.integers(1, 3))
def test_channel_independence_is_the_nuclear_norm_that_a_row_adds(seed, m, p, n):
    maps = torch.randn(n, m, p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wanted = []
    for i in range(m):
        without = maps.clone()
        without[:, i] = 0
        norms = [numpy.linalg.norm(a.cpu().numpy(), "nuc") - numpy.linalg.norm(b.cpu().numpy(), "nuc")
                 for a, b in zip(maps, without, strict=True)]  # fmt: skip
        wanted.append(sum(norms) / n)
    assert independence(maps).tolist() == pytest.approx(wanted, abs=1e-5)


def test_chip_reads_the_maps_sample_by_sample():
    model, data = network(), calibration()
    first, second, _ = views(model, data)
    maps = read_of(model, 2, data)[:12].flatten(2)
    assert CHIPSelection(samples=12).scores(first).tolist() == pytest.approx(independence(maps).tolist())
    flattened = read_of(model, 6, data)[:12].view(12, 4, 9)
    assert CHIPSelection(samples=12).scores(second).tolist() == pytest.approx(independence(flattened).tolist())


@pytest.mark.verifies("hrank", by="brute force")
def test_hrank_averages_the_ranks_of_the_maps():
    model, data = network(), calibration()
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = 1.0  # a constant map: rank 1
        model[0].weight[2] = 0
        model[0].bias[2] = -1.0  # behind the ReLU: rank 0
    first, second, third = views(model, data)
    for layer, read in (
        (first, read_of(model, 2, data)),
        (second, read_of(model, 6, data).view(-1, 4, 3, 3)),
        (third, read_of(model, 8, data)[:, :, None, None]),
    ):
        ranks = numpy.mean([[numpy.linalg.matrix_rank(one.cpu().numpy()) for one in sample] for sample in read], 0)
        assert HRankSelection().scores(layer).tolist() == pytest.approx(ranks)
    scores = HRankSelection().scores(first)
    assert scores[1] == 1 and scores[2] == 0


def problem(seed, m=6, rows=3, readers=2):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(40, m, generator=generator, dtype=torch.float64) @ torch.randn(
        m, m, generator=generator, dtype=torch.float64
    )
    weights = [torch.randn(rows, m, generator=generator, dtype=torch.float64) for _ in range(readers)]
    return [x.T @ x / 40, (x.relu().T @ x.relu()) / 40][:readers], weights


def refit_loss(seconds, weights, kept, ridge):
    total = 0.0
    for second, z in zip(seconds, weights, strict=True):
        s = second + ridge * second.diagonal().mean() * torch.eye(len(second), dtype=torch.float64)
        fitted = z @ s[:, kept] @ torch.linalg.inv(s[kept][:, kept]) if kept else z[:, []]
        missed = z.clone()
        missed[:, kept] -= fitted
        total += float((missed @ s * missed).sum())
    return total


@pytest.mark.verifies("osscar", by="brute force")
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 5))
def test_osscar_removes_the_cheapest_and_its_losses_are_those_of_a_refit(seed, k):
    seconds, weights = problem(seed)
    search = Search(seconds, weights, 1e-3)
    kept = list(range(6))
    for _ in range(6 - k):
        costs = {j: refit_loss(seconds, weights, [i for i in kept if i != j], 1e-3) for j in kept}
        node, _ = search.remove_cheapest()
        assert costs[node] == pytest.approx(min(costs.values()), rel=1e-6)
        kept.remove(node)
        assert search.loss() == pytest.approx(costs[node], rel=1e-6, abs=1e-9)


@pytest.mark.verifies("osscar", by="brute force")
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 5))
def test_osscar_swaps_only_lower_the_loss_and_end_where_none_does(seed, k):
    seconds, weights = problem(seed)
    search = Search(seconds, weights, 1e-3)
    for _ in range(6 - k):
        search.remove_cheapest()
    before = search.loss()
    search.swap(50)
    kept = search.kept.nonzero().flatten().tolist()
    assert len(kept) == k and search.loss() <= before * (1 + 1e-9)
    assert search.loss() == pytest.approx(refit_loss(seconds, weights, kept, 1e-3), rel=1e-6, abs=1e-9)
    best = min(refit_loss(seconds, weights, list(each), 1e-3) for each in itertools.combinations(range(6), k))
    assert search.loss() >= best * (1 - 1e-9)
    # adding the node that helps most and then removing the cheapest leads back, or gains nothing
    gains = {j: refit_loss(seconds, weights, [*kept, j], 1e-3) for j in range(6) if j not in kept}
    added = min(gains, key=gains.get)
    after = min(refit_loss(seconds, weights, [i for i in [*kept, added] if i != j], 1e-3) for j in [*kept, added])
    assert after >= search.loss() * (1 - 1e-6) - 1e-9


def test_osscar_swaps_find_what_removals_miss():
    """On some of many small problems the local search ends below the removals alone."""
    lower = 0
    for seed in range(40):
        seconds, weights = problem(seed, m=8, rows=2, readers=1)
        search = Search(seconds, weights, 1e-3)
        for _ in range(5):
            search.remove_cheapest()
        before = search.loss()
        lower += search.swap(50) > 0 and search.loss() < before
    assert lower > 0


def test_osscar_gains_are_the_losses_of_its_removals():
    layer = views()[2]
    gains = OSSCARSelection().gains(layer)
    search = Search([m.second for m in layer.moments], [w.transpose(1, 2).flatten(0, 1) for w in layer.outgoing], 1e-3)
    for k in range(layer.size - 1, -1, -1):
        search.remove_cheapest()
        assert search.loss() == pytest.approx(float(gains[k:].sum()), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TaylorSelection(batch=0), "selection.batch=0"),
        (lambda: CHIPSelection(samples=0), "selection.samples=0"),
        (lambda: HRankSelection(samples=0), "selection.samples=0"),
        (lambda: OSSCARSelection(ridge=0), "selection.ridge=0"),
        (lambda: OSSCARSelection(swaps=-1), "selection.swaps=-1"),
    ],
)
def test_options_outside_of_their_range_are_refused(make, said):
    with pytest.raises(BadInput, match=said):
        make()
