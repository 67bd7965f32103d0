import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from methods.errors import BadInput
from methods.hessian.cbs import CBSSelection, Objective, local_search, perturbed_magnitude, swap_pass
from methods.hessian.obs import OBSCompensation
from methods.layers.seen import EdgeLayer
from methods.layers.statistics import Calibration

problems = st.tuples(st.integers(0, 10_000), st.integers(2, 15), st.integers(3, 12))


def problem(seed, samples, size):
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(samples, size, dtype=torch.float64, generator=generator)
    weight = torch.randn(size, dtype=torch.float64, generator=generator)
    return Objective(gradients, weight), weight


def smallest(weight, count):
    mask = torch.zeros(len(weight), dtype=torch.bool)
    mask[weight.abs().argsort()[:count]] = True
    return mask


def search(objective, start, **settings):
    """The search with the objective itself in the place of the network's loss."""

    def step(objective, pruned):
        return swap_pass(objective, pruned, **{"tolerance": 1e-12, **settings})

    return local_search(objective, start, lambda kept: objective.value(~kept), step)


@pytest.mark.verifies("cbs", by="closed form")
@settings(deadline=None, max_examples=30)
@given(problems)
def test_swap_identity_for_all_pairs(case):
    objective, weight = problem(*case)
    pruned = smallest(weight, len(weight) // 2)
    matrix = objective.gradients.T @ objective.gradients / len(objective.gradients)
    removed = torch.where(pruned, weight, 0.0)
    before = objective.value(pruned)
    torch.testing.assert_close(before, float(removed @ matrix @ removed))
    alpha, beta = objective.gains(objective.residual(pruned))
    for i in pruned.nonzero().flatten().tolist():
        gamma = objective.gamma(i)
        for j in (~pruned).nonzero().flatten().tolist():
            swapped = pruned.clone()
            swapped[i], swapped[j] = False, True
            change = objective.value(swapped) - before
            torch.testing.assert_close(float(-alpha[i] + beta[j] - gamma[j]), change, rtol=1e-9, atol=1e-10)


@settings(deadline=None, max_examples=60)
@given(problems, st.integers(1, 11), st.integers(1, 12), st.integers(0, 5))
def test_a_pass_keeps_the_size_and_never_raises_the_objective(case, count, reach, failures):
    objective, weight = problem(*case)
    pruned = smallest(weight, min(count, len(weight) - 1))
    result = swap_pass(objective, pruned, reach, failures, tolerance=1e-12)
    assert int(result.sum()) == int(pruned.sum())
    assert objective.value(result) <= objective.value(pruned) + 1e-12


@pytest.mark.verifies("cbs", by="brute force")
@settings(deadline=None, max_examples=30)
@given(problems, st.integers(1, 11))
def test_search_ends_between_brute_force_and_the_magnitude_start(case, count):
    objective, weight = problem(*case)
    start = smallest(weight, min(count, len(weight) - 1))
    found = objective.value(search(objective, start))
    sets = itertools.combinations(range(len(weight)), int(start.sum()))
    best = min(
        objective.value(torch.zeros(len(weight), dtype=torch.bool).index_fill(0, torch.tensor(s), True)) for s in sets
    )
    assert best - 1e-12 <= found <= objective.value(start) + 1e-12


def test_the_search_finds_better_sets_than_magnitude():
    ratios = []
    for seed in range(20):
        objective, weight = problem(seed, 30, 40)
        start = smallest(weight, 20)
        ratios.append(objective.value(search(objective, start)) / objective.value(start))
    assert torch.tensor(ratios).median() < 0.6


def test_swaps_across_several_windows_of_candidates(monkeypatch):
    objective, weight = problem(1, 30, 60)
    start = smallest(weight, 30)
    whole = swap_pass(objective, start, reach=4, failures=50, tolerance=1e-9)
    monkeypatch.setattr("methods.hessian.cbs.WINDOW", 7)
    assert torch.equal(swap_pass(objective, start, reach=4, failures=50, tolerance=1e-9), whole)
    assert not torch.equal(whole, start)


def test_large_negative_weights_are_candidates():
    """Two gradients that cancel: pruning the large negative weight beside the small one costs nothing."""
    objective = Objective(torch.tensor([[5.0, 1.0, 3.0]]).double(), torch.tensor([0.5, -2.5, 0.9]).double())
    start = smallest(objective.weight, 2)  # {0, 2}: r = 2.5 + 2.7
    assert search(objective, start).tolist() == [True, True, False]  # r = 2.5 - 2.5
    assert search(objective, start, reach=1).sum() == 2


def test_nothing_to_swap():
    objective, _ = problem(0, 5, 4)
    for mask in (torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)):
        assert torch.equal(swap_pass(objective, mask), mask)


@pytest.mark.parametrize(("losses", "expected", "asked"), [
    ([5, 4, 3, 2, 6, 7, 8, 9, 1], 3, 7),  # three passes without a better loss: later sets are not looked at
    ([5, 6, 7, 8, 9], 0, 4),  # the start itself was best
    ([5, 4, 4, 4, 4, 4, 4, 3], 7, 8),  # as good as the best is no reason to stop
])  # fmt: skip
def test_stopping_and_the_returned_set(losses, expected, asked):
    masks = [torch.tensor([index == other for other in range(10)]) for index in range(10)]
    seen = []

    def loss(kept):
        index = int((~kept).nonzero())
        seen.append(index)
        return float(losses[index])

    def step(_objective, pruned):
        return masks[min(int(pruned.nonzero()) + 1, len(losses) - 1)]

    objective, _ = problem(0, 2, 3)
    result = local_search(objective, masks[0], loss, step, passes=20, patience=3)
    assert torch.equal(result, masks[expected])
    assert len(seen) == asked


def test_perturbed_starts():
    weight = torch.randn(103, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tried = []

    def loss(kept):
        tried.append(~kept)
        return -float(len(tried) == 4)  # the fourth trial is best

    best = perturbed_magnitude(weight, 70, 6, loss, torch.Generator().manual_seed(1))
    assert len(tried) == 6 and torch.equal(best, tried[3])
    assert torch.equal(tried[0], smallest(weight, 70))
    for mask in tried[1:]:
        assert int(mask.sum()) == 70
        assert not torch.equal(mask, tried[0])
        overlap = int((mask & tried[0]).sum())
        assert overlap > 55  # still mostly small weights; 48 would be chance
    ties = perturbed_magnitude(weight, 70, 6, lambda kept: 0.0, torch.Generator().manual_seed(1))
    assert torch.equal(ties, tried[0])


# --- on a network -----------------------------------------------------------------------------------------------------


def network(live=None, samples=60):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))
    calibration = Calibration(
        torch.randn(samples, 6), torch.randint(3, (samples,)), torch.arange(samples), batch_size=32
    )
    shared, layers = {}, []
    for name in ("0", "3"):
        alive = torch.ones(model.get_submodule(name).weight.shape, dtype=torch.bool) if live is None else live[name]
        with torch.no_grad():
            model.get_submodule(name).weight.mul_(alive)
        layers.append(
            EdgeLayer(name, model, calibration, torch.Generator().manual_seed(0), lambda: None, alive, shared)
        )
    shared["layers"] = layers
    return layers


def masked_loss(layers, masks):
    model, calibration = layers[0].model.eval(), layers[0].calibration
    saved = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for layer in layers:
            model.get_submodule(layer.name).weight.mul_(masks[layer.name])
        result = float(nn.functional.cross_entropy(model(calibration.inputs), calibration.labels))
    model.load_state_dict(saved)
    return result


def test_the_networks_set_has_the_total_size_and_beats_its_magnitude_start():
    layers = network()
    layers[0].model.train()
    before = {key: value.clone() for key, value in layers[0].model.state_dict().items()}
    masks = CBSSelection(trials=1, tolerance=1e-9).select_all(layers, {"0": 20, "3": torch.tensor([3, 4, 5])})
    assert sum(int(mask.sum()) for mask in masks.values()) == 32
    assert layers[0].model.training
    assert all(torch.equal(value, before[key]) for key, value in layers[0].model.state_dict().items())
    weight = torch.cat([layer.weight.flatten() for layer in layers])
    kept = ~smallest(weight, 72 - 32)
    magnitude = {"0": kept[:48].view(8, 6), "3": kept[48:].view(3, 8)}
    assert masked_loss(layers, masks) <= masked_loss(layers, magnitude)
    again = CBSSelection(trials=1, tolerance=1e-9).select_all(network(), {"0": 20, "3": 12})
    assert all(torch.equal(again[name], masks[name]) for name in masks)


def test_perturbed_start_depends_on_the_layers_stream_only():
    first = CBSSelection(trials=10, passes=0).select_all(network(), {"0": 20, "3": 12})
    second = CBSSelection(trials=10, passes=0).select_all(network(), {"0": 20, "3": 12})
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_weights_pruned_earlier_stay_pruned():
    torch.manual_seed(7)
    live = {"0": torch.rand(8, 6) < 0.6, "3": torch.rand(3, 8) < 0.6}
    layers = network(live)
    selection = CBSSelection(trials=5, tolerance=1e-9)
    masks = selection.select_all(layers, {"0": 12, "3": 6})
    assert sum(int(mask.sum()) for mask in masks.values()) == 18
    assert all(bool((masks[name] <= live[name]).all()) for name in masks)
    updated = OBSCompensation("group").edge_weights(layers, masks, selection)
    for layer in layers:
        assert (updated[layer.name][~masks[layer.name]] == 0).all()
        assert not torch.allclose(updated[layer.name], layer.weight * masks[layer.name])


def test_a_set_method_has_no_scores():
    with pytest.raises(BadInput, match="score"):
        CBSSelection().scores(network()[0])
