import copy
import itertools
import warnings
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import calibration, make, noise, uniform
from torch import nn

from methods.allocation import Explicit, Uniform
from methods.baselines.onorm import OutgoingNormSelection, outgoing_norm
from methods.budgets.budget import Budget
from methods.compensation import Compensation, LeastSquares
from methods.dpp.determinantal import inclusion_marginals, similarity_kernel
from methods.dpp.selection import (
    DPPEdgeSelection,
    DPPKernel,
    DPPSelection,
    edges_per_unit,
    equal_edges,
    equal_parameters,
    mean_off_diagonal,
    sample_edges,
    unit_kernels,
)
from methods.errors import BadInput
from methods.layers.seen import EdgeLayer
from methods.layers.statistics import Moments
from methods.pruner import Pruner

DATA = calibration()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def node_layer(activations, name="hidden", seed=0):
    count = len(activations)
    second = activations.T @ activations / count
    moments = Moments(second, activations.mean(0), count)
    return SimpleNamespace(
        name=name,
        size=len(second),
        unit="node",
        covariance=second,
        moments=[moments],
        incoming=torch.zeros(len(second), 1, dtype=torch.float64),
        generator=generator(seed),
    )


def edge_layer(inputs, weight, live=None, seed=0):
    second = inputs.T @ inputs / len(inputs)
    model = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0]).double())
    with torch.no_grad():
        model[0].weight.copy_(weight)
    live = torch.ones_like(weight, dtype=torch.bool) if live is None else live
    moments = Moments(second, inputs.mean(0), len(inputs))
    return EdgeLayer("0", model, DATA, generator(seed), lambda: moments, live)


def sigmoid_activations(samples=60, units=12, seed=0):
    return torch.sigmoid(torch.randn(samples, units, generator=generator(seed), dtype=torch.float64))


def sigmoid_network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 20), nn.Sigmoid(), nn.Linear(20, 16), nn.Sigmoid(), nn.Linear(16, 4)
        ).eval()


@pytest.mark.slow
@pytest.mark.cpu("compares draws, which are made on the CPU")
def test_nodes_are_a_draw_from_the_kernel_of_their_activations():
    activations = sigmoid_activations(units=6)
    marginals = inclusion_marginals(similarity_kernel(activations), 2)
    drawn = torch.zeros(6, dtype=torch.float64)
    selection = DPPSelection()
    for seed in range(2000):
        drawn[selection.select(node_layer(activations, seed=seed), 2)] += 1
    error = (marginals * (1 - marginals) / 2000).sqrt()
    assert ((drawn / 2000 - marginals).abs() < 4.5 * error).all()


@pytest.mark.parametrize("beta", ["paper", "median", 0.2])
def test_beta_of_nodes(beta):
    activations = sigmoid_activations()
    second = activations.T @ activations / 60
    kernel = DPPKernel(beta=beta)(second, 60)
    distances = torch.cdist(activations.T, activations.T) ** 2
    upper = distances[tuple(torch.triu_indices(12, 12, 1))]
    value = {"paper": 10 / 60, "median": 1 / float(upper.median()), 0.2: 0.2}[beta]
    expected = torch.exp(-value * distances) + 0.01 * torch.eye(12)
    assert torch.allclose(kernel, expected, rtol=1e-8)


def test_greedy_mode_is_deterministic_and_avoids_duplicates():
    activations = sigmoid_activations(units=8)
    activations[:, 5] = activations[:, 2]
    selection = DPPSelection(map=True)
    first = selection.select(node_layer(activations, seed=1), 7)
    assert torch.equal(first, selection.select(node_layer(activations, seed=2), 7))
    assert first.tolist() == [0, 1, 2, 3, 4, 6, 7]


def test_report_and_warning_of_a_kernel_near_the_identity():
    layer = node_layer(1e4 * torch.randn(50, 10, generator=generator(), dtype=torch.float64))
    selection = DPPSelection()
    with pytest.warns(UserWarning, match="nearly the identity"):
        kept = selection.select(layer, 4)
    assert selection.report(layer, kept)["kernel_mean_off_diagonal"] < 1e-3
    with pytest.warns(UserWarning, match="look alike"):
        selection.select(node_layer(1e-6 * sigmoid_activations()), 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        median = DPPSelection(beta="median")
        kept = median.select(layer, 4)
    report = median.report(layer, kept)
    assert 0.2 < report["kernel_mean_off_diagonal"] < 0.6
    kernel = DPPKernel(beta="median")(layer.covariance, 50)
    values = torch.linalg.eigvalsh(kernel)
    assert report["kernel_smallest_eigenvalue"] == pytest.approx(float(values[0]))
    assert report["kernel_largest_eigenvalue"] == pytest.approx(float(values[-1]))


def test_mean_off_diagonal_is_normalised():
    kernel = torch.tensor([[4.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    assert mean_off_diagonal(kernel) == pytest.approx(0.5)
    assert mean_off_diagonal(torch.eye(3, dtype=torch.float64)) == pytest.approx(0, abs=1e-15)


@pytest.mark.verifies("dpp_edge", by="brute force")
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 100), inputs=st.integers(2, 9))
def test_edge_kernels_from_the_shared_second_moment(seed, inputs):
    x = torch.randn(30, inputs, generator=generator(seed), dtype=torch.float64)
    weight = torch.randn(4, inputs, generator=generator(seed + 1), dtype=torch.float64)
    second = x.T @ x / 30
    for row, (kernel, _) in zip(weight, unit_kernels(weight, second, 30, DPPKernel()), strict=True):
        contributions = x * row
        distances = ((contributions[:, :, None] - contributions[:, None, :]) ** 2).sum(0)
        assert torch.allclose(kernel, torch.exp(-10 / 30 * distances) + 0.01 * torch.eye(inputs), atol=1e-10)


def test_every_unit_keeps_its_number_of_edges():
    x, weight = uniform(40, 10, dtype=torch.float64), noise(7, 10, dtype=torch.float64)
    mask = DPPEdgeSelection().select(edge_layer(x, weight), 7 * 4)
    assert mask.dtype == torch.bool and mask.sum(1).tolist() == [4] * 7
    counts = torch.tensor([0, 1, 2, 3, 4, 5, 10])
    assert DPPEdgeSelection().select(edge_layer(x, weight), counts).sum(1).tolist() == counts.tolist()
    live = torch.rand(7, 10, generator=generator()) < 0.6
    mask = DPPEdgeSelection().select(edge_layer(x, weight, live), 14)
    assert int(mask.sum()) == 14 and not (mask & ~live).any()


def test_units_have_independent_streams():
    x, weight = uniform(40, 10, dtype=torch.float64), noise(7, 10, dtype=torch.float64)
    first = DPPEdgeSelection().select(edge_layer(x, weight), torch.full((7,), 4))
    counts = torch.full((7,), 4)
    counts[2] = 6
    second = DPPEdgeSelection().select(edge_layer(x, weight), counts)
    others = [0, 1, 3, 4, 5, 6]
    assert torch.equal(first[others], second[others])
    same = DPPEdgeSelection().select(edge_layer(x, weight[:1].repeat(7, 1)), torch.full((7,), 4))
    assert len({tuple(row) for row in same.tolist()}) > 3


@pytest.mark.cpu("compares draws, which are made on the CPU")
def test_several_edge_draws_share_one_decomposition():
    x, weight = uniform(40, 10, dtype=torch.float64), noise(5, 10, dtype=torch.float64)
    counts = torch.tensor([[3] * 5, [3] * 5, [8] * 5])
    masks = sample_edges(weight, x.T @ x / 40, 40, counts, generator(), DPPKernel())
    assert torch.equal(masks.sum(2), counts)
    assert not torch.equal(masks[0], masks[1])
    single = DPPEdgeSelection().select(edge_layer(x, weight), torch.full((5,), 3))
    assert torch.equal(single, masks[0])


@pytest.mark.cpu("compares draws, which are made on the CPU")
def test_linear_edge_kernel_of_orthogonal_inputs_is_conditional_poisson():
    x = torch.linalg.qr(torch.randn(20, 5, generator=generator(), dtype=torch.float64)).Q * 20**0.5
    weight = torch.tensor([[0.3, -1.0, 2.0, 0.5, -0.1]], dtype=torch.float64)
    _, dpp = next(unit_kernels(weight, x.T @ x / 20, 20, DPPKernel("linear", jitter=0)))
    odds = weight[0] ** 2
    sets = list(itertools.combinations(range(5), 2))
    total = sum(odds[list(s)].prod() for s in sets)
    expected = torch.tensor([float(sum(odds[list(s)].prod() for s in sets if i in s) / total) for i in range(5)])
    assert torch.allclose(dpp.marginals(2), expected.double(), atol=1e-7)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1000), data=st.data())
@pytest.mark.cpu("compares draws, which are made on the CPU")
def test_edges_per_unit_are_equal_shares(seed, data):
    live = torch.rand(6, 8, generator=generator(seed)) < 0.7
    if not live.any():
        return
    total = data.draw(st.integers(1, int(live.sum())))
    counts, available = edges_per_unit(total, live), live.sum(1)
    assert int(counts.sum()) == total and (counts <= available).all() and (counts >= 0).all()
    unfilled = counts[counts < available]
    if len(unfilled):
        assert int(counts.max()) - int(unfilled.min()) <= 1


def test_budget_map_of_the_paper():
    mnist = [equal_parameters(int(p * 784), 784, 500, 500) for p in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)]
    assert max(abs(a - b) for a, b in zip(mnist, [225, 255, 286, 316, 347, 377, 408, 438, 469], strict=True)) <= 1
    cifar = [equal_parameters(int(p * 3072), 3072, 1000, 1000) for p in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)]
    assert max(abs(a - b) for a, b in zip(cifar, [320, 396, 471, 547, 622, 698, 773, 848, 924], strict=True)) <= 1
    assert [equal_edges(k, 500, 6, 1) for k in range(1, 6)] == [83, 166, 250, 333, 417]
    assert equal_parameters(784, 784, 500, 500) == 500 and equal_edges(500, 784, 500, 500) == 784


@settings(deadline=None, max_examples=50)
@given(d=st.integers(1, 50), h=st.integers(1, 50), m=st.integers(1, 50), data=st.data())
def test_budget_map_is_the_smallest_count_that_is_enough(d, h, m, data):
    edges = data.draw(st.integers(0, d))
    nodes = equal_parameters(edges, d, h, m)
    assert nodes * (d + m) >= h * (edges + m) > (nodes - 1) * (d + m)
    assert equal_edges(nodes, d, h, m) >= edges


# --- through the pruner ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["forward", "independent"])
def test_pruned_network_keeps_its_counts_and_its_seed(order):
    model = sigmoid_network()
    before = copy.deepcopy(model.state_dict())
    pruner = Pruner(DPPSelection(order=order), Uniform(), LeastSquares(refit=order == "forward"))
    first = pruner.prune(model, DATA, Budget("keep", 0.5), seed=3)
    again = pruner.prune(model, DATA, Budget("keep", 0.5), seed=3)
    assert [first.model[1].out_features, first.model[3].out_features] == [10, 8]
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key])
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    other = pruner.prune(model, DATA, Budget("keep", 0.5), seed=4)
    assert not torch.equal(other.model[1].weight, first.model[1].weight)
    assert 0 < first.layers[0]["kernel_mean_off_diagonal"] < 1


def test_a_removed_copy_is_fused_exactly():
    model = sigmoid_network()
    with torch.no_grad():  # node 19 repeats node 0: greedy selection drops it, fusing restores the function
        model[1].weight[19], model[1].bias[19] = model[1].weight[0], model[1].bias[0]
    allocation = Explicit({"1": 19, "3": 16})
    fused = Pruner(DPPSelection(map=True), allocation, LeastSquares()).prune(model, DATA, Budget("keep", 0.9))
    plain = Pruner(DPPSelection(map=True), allocation, Compensation()).prune(model, DATA, Budget("keep", 0.9))
    new = calibration(seed=5).inputs
    assert fused.model[1].out_features == 19
    assert torch.allclose(fused.model(new), model(new), atol=1e-5)
    assert not torch.allclose(plain.model(new), model(new), atol=1e-3)


@pytest.mark.parametrize("selection", [DPPSelection(), OutgoingNormSelection()])
def test_fusing_never_increases_the_error_of_what_is_read(selection):
    model = sigmoid_network()
    allocation = Explicit({"1": 8, "3": 16})
    errors = []
    for compensation in (Compensation(), LeastSquares()):
        pruned = Pruner(selection, allocation, compensation).prune(model, DATA, Budget("keep", 0.7)).model
        errors.append((pruned[:4](DATA.inputs) - model[:4](DATA.inputs)).square().sum().item())
    assert errors[1] < errors[0]


def test_edges_through_the_pruner_keep_their_support():
    model = sigmoid_network()
    results = {}
    for name, compensation in (("plain", Compensation()), ("refitted", LeastSquares())):
        pruner = Pruner(DPPEdgeSelection(beta="median"), Uniform(), compensation)
        results[name] = pruner.prune(model, DATA, Budget("keep", 0.3), seed=1)
    for key, mask in results["plain"].masks.items():
        assert torch.equal(mask, results["refitted"].masks[key])
        assert (results["refitted"].model.get_parameter(key)[~mask] == 0).all()
    mask = results["plain"].masks["1.weight"]
    per_unit = mask.sum(1)
    assert int(per_unit.max()) - int(per_unit.min()) <= 1
    errors = [
        (result.model[:2](DATA.inputs) - model[:2](DATA.inputs)).square().sum().item() for result in results.values()
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("name", ["convolution", "residual"])
@pytest.mark.parametrize("selection", [DPPSelection(beta="median"), DPPEdgeSelection(beta="median")])
def test_convolutions(name, selection):
    model = make(name)
    pruned = Pruner(selection, Uniform(), LeastSquares(), prune_residual=True).prune(model, DATA, Budget("keep", 0.5))
    assert torch.isfinite(pruned.model(DATA.inputs)).all()
    assert all(layer["kept"] < layer["units"] for layer in pruned.layers)


@pytest.mark.parametrize(
    "arguments",
    [{"beta": 0.0}, {"beta": -1.0}, {"beta": "mean"}, {"kernel": "cubic"}, {"jitter": -0.1}, {"order": "backward"}],
)
def test_bad_settings(arguments):
    with pytest.raises(BadInput):
        DPPSelection(**arguments)


def test_bad_counts_and_data_leave_the_model_alone():
    with pytest.raises(BadInput, match="cannot keep 0"):
        DPPSelection().select(node_layer(sigmoid_activations()), 0)
    with pytest.raises(BadInput, match="cannot keep 0"):
        edges_per_unit(0, torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(BadInput, match="per unit"):
        edges_per_unit(torch.tensor([1, 4]), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(BadInput, match="calibration"):
        DPPKernel()(torch.eye(3), 0)
    with pytest.raises(BadInput, match="rank"):
        layer = node_layer(sigmoid_activations(samples=3))
        DPPSelection("linear", jitter=0).select(layer, 6)
    model = sigmoid_network()
    with torch.no_grad():
        model[1].weight[0, 0] = torch.nan
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BadInput, match="NaN"):
        Pruner(DPPSelection()).prune(model, DATA, Budget("keep", 0.5))
    for key, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(7), before[key].nan_to_num(7))


@pytest.mark.verifies("onorm", by="brute force")
def test_outgoing_norm():
    weight = torch.tensor([[1.0, -2.0, 0.0], [-3.0, 1.0, 0.5]])  # two outputs read three nodes
    assert outgoing_norm([weight.unsqueeze(2)]).tolist() == [2.0, 1.5, 0.25]
    twice = outgoing_norm([weight.unsqueeze(2), torch.tensor([[[3.0, -3.0], [0.0, 0.0], [0.0, 1.0]]])])
    assert twice.tolist() == [(4 + 6) / 4, 3 / 4, (0.5 + 1) / 4]
    model = sigmoid_network()
    pruned = Pruner(OutgoingNormSelection()).prune(model, DATA, Budget("keep", 0.5)).model
    order = model[3].weight.abs().mean(0).argsort(descending=True)[:10].sort().values
    assert torch.equal(pruned[1].weight, model[1].weight[order])
