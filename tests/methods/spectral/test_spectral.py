"""Reconstruction, losses, Z and the selection, against the objective on samples."""

import copy
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import uniform, whole_numbers
from torch import nn

from methods.budgets.budget import Budget
from methods.compensation import LeastSquares
from methods.errors import BadInput, Skipped
from methods.layers.statistics import Calibration
from methods.pruner import Pruner
from methods.spectral.selection import (
    SpectralSelection,
    explained_ratio_curve,
    greedy_path,
    greedy_selection,
    information_loss,
    leverage_scores,
    output_metric,
    reconstruction_matrix,
)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(seed, *shape):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def features(seed, m=8, n=100):
    return (normal(seed, n, m) @ normal(seed + 1, m, m)).relu()


def second(x):
    return x.T @ x / len(x)


def stand_in(covariance, outgoing, **more):
    return SimpleNamespace(
        name="layer", size=len(covariance), covariance=covariance, outgoing=outgoing, shared={},
        incoming=torch.zeros(len(covariance), 1).double(), readers_kept=[], readers_probability=[], **more,
    )  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 8), lam=st.sampled_from([1e-6, 1e-2, 1.0]))
def test_loss_is_the_minimum_of_the_objective(seed, k, lam):
    x, rows = features(seed), normal(seed + 2, 5, 8)
    kept = torch.randperm(8, generator=generator(seed))[:k]
    tau = lam * (0.1 + torch.rand(k, generator=generator(seed), dtype=torch.float64))
    matrix = reconstruction_matrix(second(x), kept, tau)

    def objective(a, z):
        return ((x - x[:, kept] @ a.T) @ z.T).square().sum(1).mean() + ((z @ a).square() * tau).sum()

    for z in (torch.eye(8).double(), rows):
        least = objective(matrix, z)
        loss = information_loss(second(x), kept, tau, z.T @ z)
        assert loss.item() == pytest.approx(least.item(), rel=1e-9, abs=1e-11 * second(x).trace().item())
        for i, j in ((0, 0), (7, k - 1), (3, k // 2)):
            for step in (1e-4, -1e-4):
                moved = matrix.clone()
                moved[i, j] += step
                assert objective(moved, z) >= least - 1e-12 * second(x).trace()
    augmented = torch.cat([x[:, kept] / 10, torch.diag(tau.sqrt())])
    expected = torch.linalg.lstsq(augmented, torch.cat([x / 10, torch.zeros(k, 8).double()])).solution.T
    assert torch.allclose(matrix, expected, atol=1e-6)


def test_all_nodes_without_ridge_is_the_identity():
    covariance = second(features(0))
    assert torch.allclose(reconstruction_matrix(covariance, torch.arange(8)), torch.eye(8).double(), atol=1e-10)
    assert information_loss(covariance, torch.arange(8)) <= 1e-12 * covariance.trace()
    assert information_loss(covariance, torch.arange(0)).item() == pytest.approx(covariance.trace().item())


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_more_nodes_never_raise_the_loss_at_a_fixed_ridge(seed):
    covariance, order = second(features(seed)), torch.randperm(8, generator=generator(seed))
    tau = 0.01 * torch.rand(8, generator=generator(seed), dtype=torch.float64)
    for k in range(8):
        smaller, larger = (
            covariance - reconstruction_matrix(covariance, kept, tau[kept]) @ covariance[kept]
            for kept in (order[:k], order[: k + 1])
        )
        assert torch.linalg.eigvalsh(smaller - larger)[0] >= -1e-9 * covariance.trace()


def test_the_order_of_the_kept_nodes_only_moves_columns():
    covariance, tau = second(features(1)), uniform(8, dtype=torch.float64)
    kept = torch.tensor([6, 1, 4])
    ordered = kept.sort()
    matrix = reconstruction_matrix(covariance, kept, tau[kept])
    assert torch.allclose(
        reconstruction_matrix(covariance, ordered.values, tau[ordered.values]), matrix[:, ordered.indices]
    )


def test_a_multiple_and_a_combination_of_others_are_rebuilt_exactly():
    x = features(2)
    x[:, 5] = -2.5 * x[:, 1]
    x[:, 7] = x[:, 0] + 0.5 * x[:, 2]
    kept = torch.tensor([0, 1, 2, 3, 4, 6])
    matrix = reconstruction_matrix(second(x), kept)
    assert matrix[5].tolist() == pytest.approx([0, -2.5, 0, 0, 0, 0], abs=1e-9)
    assert matrix[7].tolist() == pytest.approx([1, 0, 0.5, 0, 0, 0], abs=1e-9)
    assert information_loss(second(x), kept) <= 1e-10 * second(x).trace()


def test_features_scale_changes_only_the_loss():
    covariance, rows = second(features(3)), normal(5, 4, 8)[:, :, None]
    chosen = {}
    for scale in (1e-6, 1.0, 1e6):
        layer = stand_in(covariance * scale**2, [rows])
        selection = SpectralSelection(lam=1e-4)
        kept = selection.select(layer, 3)
        matrix = reconstruction_matrix(layer.covariance, kept, selection.ridge(layer, kept))
        loss = information_loss(layer.covariance, kept, selection.ridge(layer, kept)) / scale**2
        chosen[scale] = (kept, matrix, loss)
    for kept, matrix, loss in chosen.values():
        assert kept.equal(chosen[1.0][0])
        assert torch.allclose(matrix, chosen[1.0][1])
        assert torch.allclose(loss, chosen[1.0][2])


def test_the_output_loss_ignores_how_scale_is_split_between_two_layers():
    """A ReLU node scaled by s and its outgoing weights by 1/s: same network, same choice at theta = 0, not at 1."""
    x, rows, scale = features(4, 10), normal(6, 4, 10), torch.logspace(-1, 1, 10, dtype=torch.float64)
    covariance, scaled = second(x), second(x * scale)
    losses, choices = [], []
    for s, z in ((covariance, rows), (scaled, rows / scale)):
        kept = greedy_selection(s, 4, 0.0, z.T @ z)
        choices.append(kept.tolist())
        losses.append(information_loss(s, kept, 0.0, z.T @ z).item())
    assert choices[0] == choices[1]
    assert losses[0] == pytest.approx(losses[1])
    assert greedy_selection(covariance, 4).tolist() != greedy_selection(scaled, 4).tolist()


def test_uniform_rows_of_z_have_the_paper_scale():
    weight = normal(0, 5, 8)
    dense = output_metric([weight[:, :, None]], 0.0).times(torch.eye(8).double())
    assert torch.allclose(dense, 8 / 5 * weight.T @ weight / weight.norm(dim=1).max() ** 2)
    everything = output_metric([weight[:, :, None]], 0.0, [torch.arange(5)], [torch.full((5,), 0.2)])
    assert torch.allclose(everything.times(torch.eye(8).double()), dense)


def test_kernel_positions_and_several_readers_are_stacked():
    filters, weight = normal(0, 6, 4, 9), normal(1, 3, 4, 1)
    metric = output_metric([filters, weight], 0.25)
    largest = max(filters.flatten(1).norm(dim=1).max(), weight.flatten(1).norm(dim=1).max())
    rows = torch.cat([filters.permute(0, 2, 1).reshape(54, 4), weight[:, :, 0]])
    expected = 0.25 * torch.eye(4) + 0.75 * 4 / 9 * rows.T @ rows / largest**2
    assert torch.allclose(metric.times(torch.eye(4).double()), expected)
    raw = output_metric([filters, weight], 0.0, normalisation="raw")
    assert torch.allclose(raw.times(torch.eye(4).double()), rows.T @ rows)


def test_backward_rows_are_those_that_stay_with_their_probability():
    weight, other = normal(0, 5, 8), normal(1, 2, 8)
    q = torch.tensor([0.7, 0.0, 0.3, 0.0, 0.0]).double()
    metric = output_metric([weight[:, :, None], other[:, :, None]], 0.0, [torch.tensor([0, 2]), None], [q, None])
    largest = torch.cat([weight, other]).norm(dim=1).max()
    joint = torch.cat([q * 2 / 4, torch.full((2,), 1 / 4).double()])
    assert joint.sum() == 1
    rows = torch.cat([weight, other]) * (8 * joint).sqrt()[:, None] / largest
    assert torch.allclose(metric.times(torch.eye(8).double()), rows.T @ rows)


def test_all_rows_with_equal_probabilities_are_the_simultaneous_procedure():
    weight = normal(3, 5, 8)[:, :, None]
    backward = output_metric([weight], 0.0, [torch.arange(5)], [torch.full((5,), 1 / 5).double()])
    simultaneous = output_metric([weight], 0.0)
    assert torch.allclose(backward.times(torch.eye(8).double()), simultaneous.times(torch.eye(8).double()))


def test_selection_follows_the_formulas():
    covariance, weight = second(features(7)), normal(8, 5, 8)[:, :, None]
    layer = stand_in(covariance, [weight])
    selection = SpectralSelection(theta=0.3, lam=1e-3)
    lam = 1e-3 * covariance.trace().item()
    tau = 4 * lam * leverage_scores(covariance, lam)
    kept = selection.select(layer, 4)
    assert kept.equal(greedy_selection(covariance, 4, tau, output_metric([weight], 0.3)).sort().values)
    assert torch.allclose(selection.ridge(layer, kept), tau[kept])
    assert selection.select(layer, 8).tolist() == list(range(8))
    assert selection.ridge(layer, torch.arange(8)).tolist() == [0] * 8
    with pytest.raises(BadInput, match="between 0 and 8"):
        selection.select(layer, 9)


def test_backward_selection_reads_the_rows_that_stay():
    covariance, weight = second(features(7, 12)), 10.0 ** normal(8, 5, 12)[:, :, None]
    selection = SpectralSelection(theta=0.0, procedure="backward")
    assert selection.order == "backward"
    layer = stand_in(covariance, [weight])
    layer.readers_kept, layer.readers_probability = [torch.tensor([1, 3])], [torch.tensor([0, 0.5, 0, 0.5, 0]).double()]
    alone = stand_in(covariance, [weight[[1, 3]]])
    assert selection.select(layer, 4).equal(SpectralSelection(theta=0.0).select(alone, 4))
    assert not selection.select(layer, 4).equal(SpectralSelection(theta=0.0).select(layer, 4))
    q = selection.row_probability(layer, torch.tensor([0, 4]))
    assert q.sum().item() == pytest.approx(1)
    leverage = selection.leverage(layer)
    assert (q[0] / q[4]).item() == pytest.approx((leverage[4] / leverage[0]).item())


def test_enforced_constraint_holds():
    scale = torch.tensor([1.0] * 4 + [1e-3] * 12).double()
    covariance, weight = second(features(9, 16, 400) * scale), 1e-2 / scale * normal(3, 4, 16)
    layer = stand_in(covariance, [weight[:, :, None]])
    free = SpectralSelection(theta=0.0, lam=1e-3)
    held = SpectralSelection(theta=0.0, lam=1e-3, constraint="enforce")
    broken = free.report(layer, free.select(layer, 3))
    assert broken["constraint"] > broken["constraint_limit"]
    kept = held.report(layer, held.select(layer, 3))
    assert kept["constraint"] <= kept["constraint_limit"]
    assert "constraint" not in SpectralSelection(constraint="off").report(layer, torch.arange(3))
    with pytest.raises(Skipped, match="constraint"):
        held.select(layer, 12)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), theta=st.sampled_from([0.0, 0.5, 1.0]), rank=st.integers(1, 8))
def test_explained_ratio_rises_from_zero_to_one(seed, theta, rank):
    covariance = second(normal(seed, 50, rank) @ normal(seed + 1, rank, 8))
    layer = stand_in(covariance, [normal(seed + 2, 3, 8)[:, :, None]])
    curve = SpectralSelection(theta=theta).explained(layer)
    assert curve.shape == (9,)
    assert curve[0] == 0
    assert bool((curve.diff() >= 0).all())
    assert curve[rank].item() == pytest.approx(1, abs=1e-6)
    assert curve[-1] <= 1


def test_explained_ratio_of_a_path_and_of_a_dead_layer():
    covariance = torch.diag(torch.tensor([1.0, 6.0, 3.0]).double())
    assert explained_ratio_curve(covariance).tolist() == pytest.approx([0, 0.6, 0.9, 1.0])
    assert explained_ratio_curve(torch.zeros(2, 2)).tolist() == [1, 1, 1]


def test_report_numbers():
    x, weight = features(11, 10), normal(12, 4, 10)
    covariance = second(x)
    layer = stand_in(covariance, [weight[:, :, None]])
    selection = SpectralSelection(theta=0.4, lam=1e-3)
    kept = selection.select(layer, 5)
    report = selection.report(layer, kept)
    tau, trace = selection.ridge(layer, kept), covariance.trace().item()
    lam = 1e-3 * trace
    z = output_metric([weight[:, :, None]], 0.0).times(torch.eye(10).double())
    smoother = covariance @ torch.linalg.inv(covariance + lam * torch.eye(10))
    assert report["m"] == 10 and report["kept"] == 5 and report["dead"] == 0
    assert report["trace"] == pytest.approx(trace)
    assert report["degrees_of_freedom"]["0.001"] == pytest.approx(smoother.trace().item())
    assert list(report["degrees_of_freedom"]) == ["1e-06", "1e-05", "0.0001", "0.001", "0.01", "0.1"]
    assert report["output_degrees_of_freedom"] == pytest.approx((z @ smoother).trace().item())
    inputs = information_loss(covariance, kept, tau).item()
    outputs = information_loss(covariance, kept, tau, z).item()
    assert report["input_loss"] == pytest.approx(inputs / trace)
    assert report["output_loss"] == pytest.approx(outputs / (z @ covariance).trace().item())
    assert report["loss"] == pytest.approx(0.4 * inputs + 0.6 * outputs)
    bound = 4 * lam * (0.4 * smoother.trace() + 0.6 * (z @ smoother).trace()).item()
    assert report["loss_bound"] == pytest.approx(bound)
    assert report["constraint_limit"] == pytest.approx(5 / 3 * 50)
    assert report["constraint"] == pytest.approx((1 / leverage_scores(covariance, lam)[kept]).sum().item())
    system = covariance[kept][:, kept] + torch.diag(tau)
    assert report["condition_number"] == pytest.approx(torch.linalg.cond(system).item(), rel=1e-6)
    assert report["reconstruction_norm"] == pytest.approx(reconstruction_matrix(covariance, kept, tau).norm().item())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"theta": 1.5}, r"theta=1.5 is outside \[0, 1\]"),
        ({"theta": float("nan")}, "theta"),
        ({"lam": -1e-6}, "lam=-1e-06"),
        ({"procedure": "forward"}, "choose simultaneous or backward"),
        ({"normalisation": "none"}, "choose paper or raw"),
        ({"constraint": "on"}, "choose log, enforce or off"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(BadInput, match=message):
        SpectralSelection(**options)


def mlp(seed, widths=(6, 20, 15, 4)):
    torch.manual_seed(seed)
    layers = []
    for m, out in pairwise(widths):
        layers += [nn.Linear(m, out), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def calibration(seed, n, features=6):
    inputs = torch.randn(n, features, generator=generator(seed))
    return Calibration(inputs, torch.zeros(n, dtype=torch.int64), torch.arange(n), seed)


@pytest.mark.parametrize("procedure", ["simultaneous", "backward"])
def test_duplicated_nodes_are_removed_without_any_change(procedure):
    model = mlp(0)
    with torch.no_grad():
        for first, half in ((model[0], 10), (model[2], 5)):
            first.weight[half : 2 * half] = first.weight[:half]
            first.bias[half : 2 * half] = first.bias[:half]
    before = copy.deepcopy(model.state_dict())
    pruner = Pruner(SpectralSelection(lam=0.0, procedure=procedure), compensation=LeastSquares())
    pruned = pruner.prune(model, calibration(1, 200), Budget("keep", 10 / 15))
    sizes = [layer.out_features for layer in pruned.model if isinstance(layer, nn.Linear)]
    assert sizes == [13, 10, 4]
    x = torch.randn(50, 6, generator=generator(2))  # data not seen before
    assert torch.allclose(pruned.model(x), model(x), atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert pruned.layers[0]["constraint_limit"] == pytest.approx(5 / 3 * 20 * 13)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("keep", [2 / 35, 0.5, 1.0])
@pytest.mark.parametrize("procedure", ["simultaneous", "backward"])
def test_few_samples_dead_and_constant_nodes_and_extreme_scales_are_safe(scale, keep, procedure):
    model = mlp(3)
    with torch.no_grad():
        model[0].weight *= scale
        model[0].bias *= scale
        model[0].weight[:2], model[0].bias[:2] = 0, -1  # dead
        model[0].weight[2:4], model[0].bias[2:4] = 0, scale  # constant
    pruner = Pruner(SpectralSelection(procedure=procedure), compensation=LeastSquares())
    pruned = pruner.prune(model, calibration(4, 5), Budget("keep", keep))
    x = torch.randn(20, 6, generator=generator(5))
    assert torch.isfinite(pruned.model(x)).all()
    if keep == 1.0:
        assert torch.equal(pruned.model(x), model(x))
    else:
        assert sum(layer["kept"] for layer in pruned.layers) == round(keep * 35)


def test_pruning_reads_no_labels():
    model, data = mlp(6), calibration(7, 100)
    labelled = Calibration(data.inputs, whole_numbers(4, 100), data.indices, data.seed)
    results = [Pruner(SpectralSelection()).prune(model, each, Budget("keep", 0.4)) for each in (data, labelled)]
    for a, b in zip(results[0].model.parameters(), results[1].model.parameters(), strict=True):
        assert torch.equal(a, b)
    kept = results[0].model[0].weight
    assert all(any(torch.equal(row, old) for old in model[0].weight) for row in kept)  # first rows bit-identical


def test_selection_beats_random_nodes_with_the_same_repair():
    covariance, weight = second(features(20, 40, 400)), normal(21, 10, 40)
    metric = output_metric([weight[:, :, None]], 0.5)
    best = greedy_path(covariance, 10, 0.0, metric).losses[-1].item()
    for seed in range(50):
        drawn = torch.randperm(40, generator=generator(seed))[:10]
        assert best < information_loss(covariance, drawn, 0.0, metric).item()
