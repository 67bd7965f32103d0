import copy

import pytest
import torch
from networks import calibration, make
from torch import nn

from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.compensation import Compensation, LeastSquares
from methods.errors import BadInput, Skipped
from methods.lq.allocation import SparseLq, UniformPerNeuron
from methods.lq.bounds import existence_bound, output_error
from methods.lq.compensation import BiasCorrection, RefitWithBias, corrected_bias, refit_error, refit_rows
from methods.lq.selection import (
    RegressionSelection,
    SparseLqSelection,
    hand_over,
    lasso_path,
    matching_pursuit,
    removal_report,
)
from methods.network.sparsity import gini, pq_index
from methods.pruner import Pruner

EDGES = MagnitudeSelection("edge")


def problem(seed=0, rows=6, size=9, samples=200):
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(samples, size, generator=generator, dtype=torch.float64)
    h = (h @ torch.randn(size, size, generator=generator, dtype=torch.float64)).relu()
    weight = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    mask = torch.rand(rows, size, generator=generator) < 0.5
    mask[0] = False
    mask[1] = True
    return h, weight, mask


def test_refit_is_least_squares_row_by_row():
    h, weight, mask = problem()
    found = refit_rows(weight, mask, h.T @ h / len(h))
    for row in range(len(weight)):
        kept = mask[row]
        assert not found[row][~kept].any()
        if kept.any():
            target = h @ weight[row]
            expected = torch.linalg.lstsq(h[:, kept], target[:, None]).solution.squeeze(1)
            assert torch.allclose(found[row][kept], expected, atol=1e-9)


def test_refit_error_is_the_closed_form_and_at_most_thresholding():
    h, weight, mask = problem(1)
    second = h.T @ h / len(h)
    error = refit_error(weight, mask, second)
    for row in range(len(weight)):
        kept = mask[row]
        target = (second @ weight[row])[kept]
        closed = weight[row] @ second @ weight[row] - target @ torch.linalg.solve(second[kept][:, kept], target)
        assert float(error[row]) == pytest.approx(max(float(closed), 0) ** 0.5, abs=1e-7)
    assert bool((error <= output_error(weight * ~mask, second) + 1e-12).all())


def test_refit_with_dead_and_doubled_inputs():
    h, weight, mask = problem(2)
    h[:, 3] = 0
    h[:, 5] = h[:, 4]
    mask[2:, 3:6] = True
    second = h.T @ h / len(h)
    found = refit_rows(weight, mask, second)
    assert bool(found.isfinite().all())
    for row in range(len(weight)):
        target = h @ weight[row]
        best = torch.linalg.lstsq(h * mask[row], target[:, None], driver="gelsd").solution.squeeze(1) * mask[row]
        assert float((h @ found[row] - target).norm()) == pytest.approx(float((h @ best - target).norm()), abs=1e-6)


def test_corrected_bias_keeps_the_mean():
    h, weight, mask = problem(3)
    bias = torch.arange(6, dtype=torch.float64)
    after = h @ (weight * mask).T + corrected_bias(weight, weight * mask, bias, h.mean(0))
    assert torch.allclose(after.mean(0), (h @ weight.T + bias).mean(0))


def first_layer_error(network, pruned):
    """Mean square change of the first layer's output on the calibration data, and its largest mean per neuron."""
    inputs = calibration().inputs
    name = next(name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d))
    inputs = inputs.flatten(1) if isinstance(network.get_submodule(name), nn.Linear) else inputs
    with torch.no_grad():
        change = network.get_submodule(name)(inputs) - pruned.get_submodule(name)(inputs)
    return float(change.square().mean()), float(change.transpose(0, 1).flatten(1).mean(1).abs().max())


@pytest.mark.parametrize("network", ["chain", "convolution"])
def test_each_repair_is_at_least_as_good_as_the_weaker_one(network):
    model = make(network)
    before = copy.deepcopy(model.state_dict())
    errors, means = {}, {}
    for name, repair in {
        "none": Compensation(),
        "bias": BiasCorrection(),
        "refit": LeastSquares(),
        "both": RefitWithBias(),
    }.items():
        pruned = Pruner(EDGES, UniformPerNeuron(), repair).prune(model, calibration(), Budget("keep", 0.4))
        errors[name], means[name] = first_layer_error(model, pruned.model)
        for mask_name, mask in pruned.masks.items():
            assert not pruned.model.get_parameter(mask_name)[~mask].any()
    assert errors["both"] <= errors["bias"] + 1e-9 < errors["none"]
    assert errors["both"] <= errors["refit"] + 1e-9 < errors["none"]
    assert means["bias"] < 1e-6 < means["none"]
    assert means["both"] < 1e-6
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_layers_without_bias_and_batch_norm_are_left_alone():
    model = make("batch_norm")
    for repair in (BiasCorrection(), RefitWithBias()):
        pruned = Pruner(EDGES, UniformPerNeuron(), repair).prune(model, calibration(), Budget("keep", 0.4))
        assert pruned.model[0].bias is None
        for path in ("1", "4"):
            for name, value in model.get_submodule(path).state_dict().items():
                assert torch.equal(value, pruned.model.get_submodule(path).state_dict()[name])


@pytest.mark.cpu("a pursuit of scikit-learn, in NumPy")
@pytest.mark.verifies("lq_greedy", by="brute force")
def test_matching_pursuit_is_the_greedy_projection():
    h, weight, _ = problem(4, rows=3, size=8)
    second = h.T @ h / len(h)
    for row in weight:
        target = h @ row
        chosen = []
        for k in range(1, 8):
            fitted = torch.linalg.lstsq(h[:, chosen], target[:, None]).solution.squeeze(1) if chosen else torch.zeros(0)
            residual = target - h[:, chosen] @ fitted.double()
            correlation = (h.T @ residual).abs() / h.norm(dim=0)
            correlation[chosen] = -1
            chosen.append(int(correlation.argmax()))
            assert matching_pursuit(row @ second, second, k).tolist() == sorted(chosen)


@pytest.mark.cpu("a pursuit of scikit-learn, in NumPy")
def test_sparse_regressions_find_a_sparse_neuron_and_leave_dead_inputs():
    h, weight, _ = problem(5, size=9)
    h[:, 2] = 0
    second = h.T @ h / len(h)
    sparse = weight[0] * 0
    sparse[[1, 6]] = torch.tensor([2.0, -1.5], dtype=torch.float64)
    assert matching_pursuit(sparse @ second, second, 5).tolist() == [1, 6]
    full = lasso_path(weight[0] @ second, second, 9)
    assert 2 not in full.tolist()
    for k in range(6):
        assert len(lasso_path(weight[0] @ second, second, k)) <= k
        assert len(matching_pursuit(weight[0] @ second, second, k)) == k
    strongest = (h.T @ (h @ weight[0])).abs() / h.norm(dim=0).clamp(min=1e-9)
    assert lasso_path(weight[0] @ second, second, 1).tolist() == [int(strongest.argmax())]


@pytest.mark.cpu("a pursuit of scikit-learn, in NumPy")
def test_pursuit_meets_the_existence_bound():
    h, weight, _ = problem(6, rows=5, size=9)
    weight = weight**3
    second = h.T @ h / len(h)
    for k in (2, 4):
        mask = torch.zeros_like(weight, dtype=torch.bool)
        for row in range(5):
            mask[row, matching_pursuit(weight[row] @ second, second, k)] = True
        assert bool((refit_error(weight, mask, second) <= existence_bound(weight, 0.5, k, second)).all())


@pytest.mark.parametrize("how", ["matching_pursuit", "lasso"])
def test_regression_selection_keeps_the_exact_counts(how):
    kept = {}
    for backward in (False, True):
        selection = RegressionSelection(how, backward)
        pruned = Pruner(selection, SparseLq(), LeastSquares()).prune(
            make("convolution"), calibration(), Budget("keep", 0.3)
        )
        assert pruned.achieved["keep"] == pytest.approx(0.3, rel=0.01)
        kept[backward] = sum(int(mask.sum()) for mask in pruned.masks.values())
    assert kept[False] == kept[True]


def test_pursuit_with_refit_beats_magnitude_with_refit_on_correlated_inputs():
    model = make("chain")
    data = calibration()
    mixing = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    data.inputs.copy_((data.inputs.flatten(1)[:, :8] @ mixing).view(-1, 1, 8, 8) + 0.1 * data.inputs)
    errors = {}
    for name, selection in {"pursuit": RegressionSelection(), "magnitude": EDGES}.items():
        pruned = Pruner(selection, UniformPerNeuron(), LeastSquares()).prune(model, data, Budget("keep", 0.15))
        with torch.no_grad():
            change = model[1](data.inputs.flatten(1)) - pruned.model[1](data.inputs.flatten(1))
        errors[name] = float(change.square().mean())
    assert errors["pursuit"] < 0.8 * errors["magnitude"]


def test_backward_order_gives_nothing_to_a_neuron_that_nobody_reads():
    model = make("chain")
    with torch.no_grad():
        model[5].weight[:, 3] = 0  # the output layer does not read neuron 3
        model[3].bias[3] = -1e3  # which never fires either
    pruned = Pruner(RegressionSelection(backward=True), SparseLq()).prune(model, calibration(), Budget("keep", 0.15))
    read = pruned.masks["5.weight"].any(0)
    assert not bool(read[3])
    assert not bool(pruned.masks["3.weight"][~read].any())
    assert bool(pruned.masks["3.weight"][read].any(1).all())


def test_hand_over_keeps_the_sum_and_fits():
    size = torch.tensor([5, 5, 5, 5])
    counts = torch.tensor([2, 3, 1, 4])
    for read in ([1, 1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 1], [0, 1, 0, 0]):
        read = torch.tensor(read).bool()
        result = hand_over(counts, read, size)
        assert int(result.sum()) == int(counts.sum())
        assert bool((result <= size).all() and (result >= 0).all())
        assert bool((result[read] >= counts[read]).all())
        if int(counts.sum()) <= int(size[read].sum()):
            assert not bool(result[~read].any())
    nobody = torch.zeros(4).bool()
    assert torch.equal(hand_over(counts, nobody, size), counts)


def test_report_of_what_is_removed():
    h, weight, mask = problem(7)
    mask[0, 0] = True
    kept = weight.abs() >= weight.abs().sort(dim=1, descending=True).values.gather(1, mask.sum(1, keepdim=True) - 1)
    report = removal_report(weight, kept, 0.5, h.T @ h / len(h))
    change = weight * ~kept
    assert report["tail"] == pytest.approx(float(change.square().sum(1).mean().sqrt()))
    assert report["output_error"] == pytest.approx(float((h @ change.T).square().mean().sqrt()))
    assert report["tail"] <= report["tail_bound"]
    assert report["output_error"] <= report["output_bound"]


def test_selection_reports_layers():
    model = make("chain")
    selection = SparseLqSelection()
    pruned = Pruner(selection, SparseLq()).prune(model, calibration(), Budget("keep", 0.3))
    for layer in pruned.layers:
        weight = model.get_submodule(layer["name"]).weight.detach().flatten()
        assert layer["pq_index"] == pytest.approx(float(pq_index(weight)))
        assert layer["gini"] == pytest.approx(float(gini(weight)))
        assert layer["lq_count_min"] <= layer["lq_count_mean"] <= layer["lq_count_max"]
        assert layer["output_error"] <= layer["output_bound"]
    silent = Pruner(SparseLqSelection(measure_up_to=1), SparseLq()).prune(model, calibration(), Budget("keep", 0.3))
    assert all("output_error" not in layer and layer["tail"] <= layer["tail_bound"] for layer in silent.layers)


def test_bad_input():
    with pytest.raises(BadInput, match="ridge"):
        RefitWithBias(ridge=-1)
    with pytest.raises(BadInput, match="how"):
        RegressionSelection("omp")
    with pytest.raises(BadInput, match="q="):
        SparseLqSelection(q=2)
    with pytest.raises(Skipped, match="64 inputs"):
        Pruner(RegressionSelection(largest=10)).prune(make("chain"), calibration(), Budget("keep", 0.5))
