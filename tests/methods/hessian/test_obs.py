import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import calibration, make
from torch import nn

from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.errors import BadInput
from methods.hessian.exact_obs import ExactOBSSelection
from methods.hessian.obd import obd_saliency
from methods.hessian.obs import (
    InverseFisher,
    OBSCompensation,
    OBSSelection,
    fisher_blocks,
    gram,
    group_update,
    obs_saliency,
    sum_update,
    woodfisher_inverse,
)
from methods.layers.gradients import Gradients
from methods.layers.seen import EdgeLayer
from methods.layers.statistics import Calibration
from methods.pruner import Pruner

problems = st.tuples(st.integers(0, 10_000), st.integers(2, 12), st.integers(2, 12))


def problem(seed, samples, size):
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(samples, size, dtype=torch.float64, generator=generator)
    weight = torch.randn(size, dtype=torch.float64, generator=generator)
    return gradients, weight


def fisher(gradients, damping):
    return damping * torch.eye(gradients.shape[1], dtype=torch.float64) + gradients.T @ gradients / len(gradients)


def increase(matrix, step):
    return 0.5 * step @ matrix @ step


def some(seed, size):
    """A random set that is neither empty nor everything."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed + 1))
    mask = torch.zeros(size, dtype=torch.bool)
    mask[order[: max(1, size // 2)]] = True
    return mask


# --- the inverse ------------------------------------------------------------------------------------------------------


@pytest.mark.verifies("obs", by="closed form")
@settings(deadline=None, max_examples=50)
@given(problems, st.sampled_from([1e-5, 1e-2, 1.0]), st.sampled_from([1, 3, 64]))
def test_recursion_equals_the_direct_inverse_in_any_order(case, damping, at_once):
    gradients, _ = problem(*case)
    direct = torch.linalg.inv(fisher(gradients, damping))
    scale = float(direct.abs().max())
    recursive = woodfisher_inverse(gradients, damping, at_once)
    torch.testing.assert_close(recursive / scale, direct / scale, rtol=0, atol=1e-9)
    torch.testing.assert_close(woodfisher_inverse(gradients.flip(0), damping, at_once) / scale, recursive / scale)


def test_recursion_to_all_digits():
    gradients, _ = problem(0, 20, 8)
    direct = torch.linalg.inv(fisher(gradients, 1e-3))
    torch.testing.assert_close(woodfisher_inverse(gradients, 1e-3, 1), direct, rtol=1e-12, atol=1e-13)


@settings(deadline=None, max_examples=50)
@given(problems, st.sampled_from([1e-3, 1.0]))
def test_product_and_diagonal_equal_the_matrix(case, damping):
    gradients, x = problem(*case)
    matrix = woodfisher_inverse(gradients, damping)
    inverse = InverseFisher(gradients, damping)
    torch.testing.assert_close(inverse.product(x), matrix @ x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(inverse.diagonal(), matrix.diagonal(), rtol=1e-8, atol=1e-8)


def test_the_cholesky_form_is_the_static_recursion_of_mfac():
    """h_i = g_i / lambda - sum_j h_j (h_j . g_i) / den_j;  den_i = m + g_i . h_i;  F^-1 = I/lambda - sum h h^T/den."""
    gradients, x = problem(3, 6, 15)
    damping, samples = 1e-2, 6
    vectors, denominators = [], []
    for g in gradients:
        h = g / damping
        for earlier, den in zip(vectors, denominators, strict=True):
            h = h - earlier * (earlier @ g) / den
        vectors.append(h)
        denominators.append(samples + g @ h)
    h, den = torch.stack(vectors), torch.stack(denominators)
    inverse = InverseFisher(gradients, damping)
    torch.testing.assert_close(inverse.diagonal(), 1 / damping - (h**2 / den[:, None]).sum(0))
    torch.testing.assert_close(inverse.product(x), x / damping - h.T @ ((h @ x) / den))
    system = gram(gradients) + samples * damping * torch.eye(samples, dtype=torch.float64)
    rows = torch.linalg.solve_triangular(torch.linalg.cholesky(system), gradients, upper=False)
    torch.testing.assert_close(rows / damping**0.5, h / den.sqrt()[:, None])


def test_float32_gradients_lose_no_digits_at_small_damping():
    gradients, x = problem(4, 10, 40)
    gradients, damping = (gradients * 3).float(), 1e-5
    exact = torch.linalg.inv(fisher(gradients.double(), damping))
    inverse = InverseFisher(gradients, damping)
    torch.testing.assert_close(inverse.diagonal(), exact.diagonal(), rtol=1e-8, atol=0)
    torch.testing.assert_close(inverse.product(x), exact @ x, rtol=1e-6, atol=1e-6 * float((exact @ x).abs().max()))
    quick = inverse.product(x.float())
    assert quick.dtype == torch.float32
    torch.testing.assert_close(quick.double(), exact @ x, rtol=0, atol=1e-3 * float((exact @ x).abs().max()))


def test_gram_over_a_mask_and_over_several_chunks(monkeypatch):
    monkeypatch.setattr("methods.hessian.obs.CHUNK", 5)
    gradients, weight = problem(5, 7, 23)
    mask = some(5, 23)
    torch.testing.assert_close(gram(gradients, mask), gradients[:, mask] @ gradients[:, mask].T)
    torch.testing.assert_close(gram(gradients, torch.zeros(23, dtype=torch.bool)), torch.zeros(7, 7).double())
    matrix = torch.linalg.inv(fisher(gradients, 0.1))
    inverse = InverseFisher(gradients, 0.1)
    torch.testing.assert_close(inverse.product(weight), matrix @ weight)
    torch.testing.assert_close(inverse.diagonal(), matrix.diagonal())


def test_damping_must_be_positive():
    with pytest.raises(BadInput, match="damping"):
        InverseFisher(torch.ones(2, 3), 0.0)


# --- saliencies and updates on quadratics -----------------------------------------------------------------------------


@pytest.mark.verifies("obs", by="brute force")
@settings(deadline=None, max_examples=50)
@given(problems)
def test_predicted_increase_is_the_actual_one_and_at_most_obds(case):
    gradients, weight = problem(*case)
    matrix = fisher(gradients, 0.1)
    saliency = obs_saliency(InverseFisher(gradients, 0.1), weight)
    for q in range(len(weight)):
        single = torch.zeros(len(weight), dtype=torch.bool)
        single[q] = True
        inverse = InverseFisher(gradients, 0.1)
        for step in (sum_update(inverse, weight, single), group_update(gradients, weight, single, 0.1)):
            torch.testing.assert_close(increase(matrix, step), saliency[q], rtol=1e-10, atol=1e-12)
            assert abs(float(weight[q] + step[q])) < 1e-10
    assert (saliency <= obd_saliency(weight, matrix.diagonal()) + 1e-12).all()


def test_on_a_diagonal_hessian_obs_is_obd():
    gradients = torch.diag(torch.arange(1.0, 5.0, dtype=torch.float64))
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    diagonal = fisher(gradients, 0.1).diagonal()
    torch.testing.assert_close(obs_saliency(InverseFisher(gradients, 0.1), weight), obd_saliency(weight, diagonal))


@settings(deadline=None, max_examples=80)
@given(problems)
def test_group_update_is_constrained_least_squares_and_sequential_obs(case):
    gradients, weight = problem(*case)
    size, damping = len(weight), 0.05
    pruned = some(case[0], size)
    kept = ~pruned
    matrix = fisher(gradients, damping)
    step = group_update(gradients, weight, pruned, damping)
    assert torch.equal((weight + step)[pruned], torch.zeros(int(pruned.sum()), dtype=torch.float64))
    expected = torch.linalg.solve(matrix[kept][:, kept], matrix[kept][:, pruned] @ weight[pruned])
    torch.testing.assert_close(step[kept], expected, rtol=1e-8, atol=1e-9)
    # explicit inverse, CBS-U
    inverse = torch.linalg.inv(matrix)
    explicit = -inverse[:, pruned] @ torch.linalg.solve(inverse[pruned][:, pruned], weight[pruned])
    torch.testing.assert_close(step, explicit, rtol=1e-8, atol=1e-9)
    # one weight at a time, with down-dates
    current, total = weight.clone(), 0.0
    for q in pruned.nonzero().flatten().tolist():
        total += float(current[q] ** 2 / (2 * inverse[q, q]))
        current = current - inverse[:, q] * current[q] / inverse[q, q]
        inverse = inverse - torch.outer(inverse[:, q], inverse[q]) / inverse[q, q]
    torch.testing.assert_close(weight + step, current, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(float(increase(matrix, step)), total, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(inverse[kept][:, kept], torch.linalg.inv(matrix[kept][:, kept]), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(inverse[pruned], torch.zeros_like(inverse[pruned]), rtol=0, atol=1e-8)


@settings(deadline=None, max_examples=80)
@given(problems)
def test_group_update_is_never_worse_than_the_sum_or_plain_masking(case):
    gradients, weight = problem(*case)
    pruned = some(case[0], len(weight))
    matrix = fisher(gradients, 0.05)
    masking = torch.where(pruned, -weight, 0.0)
    summed = torch.where(pruned, -weight, sum_update(InverseFisher(gradients, 0.05), weight, pruned))
    best = increase(matrix, group_update(gradients, weight, pruned, 0.05))
    assert best <= increase(matrix, masking) + 1e-10
    assert best <= increase(matrix, summed) + 1e-10


def test_the_published_sum_of_updates_can_be_worse_than_none():
    worse = 0
    for seed in range(100):
        gradients, weight = problem(seed, 8, 8)
        pruned = some(seed, 8)
        matrix = fisher(gradients, 1e-3)
        summed = torch.where(pruned, -weight, sum_update(InverseFisher(gradients, 1e-3), weight, pruned))
        worse += bool(increase(matrix, summed) > increase(matrix, torch.where(pruned, -weight, 0.0)))
    assert 0 < worse < 100


@pytest.mark.verifies("wood_taylor", by="closed form")
@settings(deadline=None, max_examples=50)
@given(problems)
def test_wood_taylor_minimises_the_quadratic_with_its_gradient(case):
    gradients, weight = problem(*case)
    damping, size = 0.1, len(weight)
    matrix, slope = fisher(gradients, damping), gradients.mean(0)

    def change(step):
        return slope @ step + increase(matrix, step)

    saliency = obs_saliency(InverseFisher(gradients, damping), weight, first_order=True)
    constant = -0.5 * slope @ torch.linalg.solve(matrix, slope)
    for q in range(size):
        single = torch.zeros(size, dtype=torch.bool)
        single[q] = True
        step = sum_update(InverseFisher(gradients, damping), weight, single, first_order=True)
        torch.testing.assert_close(change(step), saliency[q] + constant, rtol=1e-8, atol=1e-10)
        assert abs(float(weight[q] + step[q])) < 1e-10
    pruned = some(case[0], size)
    step = group_update(gradients, weight, pruned, damping, first_order=True)
    residual = (slope + matrix @ step)[~pruned]  # the gradient on the free coordinates vanishes
    torch.testing.assert_close(residual, torch.zeros_like(residual), rtol=0, atol=1e-9)
    assert torch.equal((weight + step)[pruned], torch.zeros_like(weight[pruned]))


# --- applied to layers ------------------------------------------------------------------------------------------------


def network(samples=30, live=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)).double()
    calibration = Calibration(torch.randn(samples, 4).double(), torch.randint(3, (samples,)), torch.arange(samples))
    shared, layers = {}, []
    for name in ("0", "2"):
        alive = torch.ones(model.get_submodule(name).weight.shape, dtype=torch.bool) if live is None else live[name]
        with torch.no_grad():
            model.get_submodule(name).weight.mul_(alive)
        layers.append(EdgeLayer(name, model, calibration, torch.Generator(), lambda: None, alive, shared))
    shared["layers"] = layers
    return layers


def flat(layers, tensors):
    return torch.cat([tensors[layer.name].flatten() for layer in layers])


def explicit_gradients(layers):
    model, calibration, rows = layers[0].model, layers[0].calibration, []
    for x, y in zip(calibration.inputs, calibration.labels, strict=True):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[None]), y[None]).backward()
        parts = [(model.get_submodule(layer.name).weight.grad * layer.live).flatten() for layer in layers]
        rows.append(torch.cat(parts))
    return torch.stack(rows)


@pytest.mark.parametrize("block", ["full", "layer", 7])
def test_blocks_are_diagonal_blocks_of_the_fisher(block):
    layers = network()
    gradients = explicit_gradients(layers)
    weight = flat(layers, {layer.name: layer.weight for layer in layers})
    edges = {"full": [0, 35], "layer": [0, 20, 35], 7: [0, 7, 14, 20, 27, 34, 35]}[block]
    matrix = fisher(gradients, 1e-3)
    mask = torch.zeros_like(matrix)
    for a, b in itertools.pairwise(edges):
        mask[a:b, a:b] = 1
    inverse = torch.linalg.inv(matrix * mask)
    selection = OBSSelection(damping=1e-3, block=block)
    scores = flat(layers, {layer.name: selection.scores(layer) for layer in layers})
    torch.testing.assert_close(scores, weight**2 / (2 * inverse.diagonal()))
    kept = torch.ones(35, dtype=torch.bool)
    kept[::3] = False
    masks = {"0": kept[:20].view(5, 4), "2": kept[20:].view(3, 5)}
    summed = weight - inverse @ torch.where(kept, 0.0, weight / inverse.diagonal())
    joint = weight - inverse[:, ~kept] @ torch.linalg.solve(inverse[~kept][:, ~kept], weight[~kept])
    for update, expected in (("sum", summed), ("group", joint)):
        actual = OBSCompensation(update).edge_weights(layers, masks, selection)
        torch.testing.assert_close(flat(layers, actual), torch.where(kept, expected, 0.0))
        half = OBSCompensation(update, scale=0.5).edge_weights(layers, masks, selection)
        torch.testing.assert_close(flat(layers, half), torch.where(kept, (weight + expected) / 2, 0.0))


def test_blocks_cover_every_column_once():
    gradients = Gradients(torch.zeros(1, 35), {"0": slice(0, 20), "2": slice(20, 35)}, "true")
    for block in ("full", "layer", 1, 7, 100):
        columns = [i for part in fisher_blocks(gradients, block) for i in range(part.start, part.stop)]
        assert columns == list(range(35))


def test_weights_pruned_earlier_stay_out_of_it():
    torch.manual_seed(5)
    live = {"0": torch.rand(5, 4) < 0.6, "2": torch.rand(3, 5) < 0.6}
    layers = network(live=live)
    selection = OBSSelection(damping=1e-3, block="full")
    alive = flat(layers, live)
    gradients = explicit_gradients(layers)[:, alive]
    weight = flat(layers, {layer.name: layer.weight for layer in layers})[alive]
    scores = flat(layers, {layer.name: selection.scores(layer) for layer in layers})[alive]
    torch.testing.assert_close(scores, obs_saliency(InverseFisher(gradients, 1e-3), weight))
    masks = selection.select_all(layers, {"0": 4, "2": 3})
    assert all(bool((masks[name] <= live[name]).all()) for name in masks)
    updated = OBSCompensation("group").edge_weights(layers, masks, selection)
    kept = flat(layers, masks)[alive]
    expected = weight + group_update(gradients, weight, ~kept, 1e-3)
    torch.testing.assert_close(flat(layers, updated)[alive], expected)
    assert (flat(layers, updated)[~alive] == 0).all()


def test_gradients_are_computed_once_for_selection_and_update(monkeypatch):
    from methods.layers import gradients as module

    calls = []
    collect = module.collect_gradients
    monkeypatch.setattr(module, "collect_gradients", lambda *a: calls.append(1) or collect(*a))
    layers = network()
    selection = OBSSelection(damping=1e-3)
    masks = selection.select_all(layers, {"0": 10, "2": 8})
    OBSCompensation("sum").edge_weights(layers, masks, selection)
    # a layer that lost nothing is not even handed over by the pruner
    OBSCompensation("group").edge_weights(layers[:1], masks, selection)
    assert len(calls) == 1


def test_any_edge_selection_can_be_repaired_and_loses_less():
    layers = network(samples=200)
    selection = MagnitudeSelection("edge")
    masks = {layer.name: selection.select(layer, layer.size // 2) for layer in layers}
    weight = flat(layers, {layer.name: layer.weight for layer in layers})
    matrix = fisher(explicit_gradients(layers), 1e-4)
    masked = torch.where(flat(layers, masks), weight, 0.0)
    updated = flat(layers, OBSCompensation("group", damping=1e-4).edge_weights(layers, masks, selection))
    assert increase(matrix, updated - weight) < 0.9 * increase(matrix, masked - weight)
    assert (updated[~flat(layers, masks)] == 0).all()


def test_large_damping_is_magnitude_pruning_without_update():
    layers = network()
    selection = OBSSelection(damping=1e9)
    masks = selection.select_all(layers, {"0": 10, "2": 8})
    magnitude = MagnitudeSelection("edge").select_all(layers, {"0": 10, "2": 8})
    assert all(torch.equal(masks[name], magnitude[name]) for name in masks)
    updated = OBSCompensation("sum").edge_weights(layers, masks, selection)
    for layer in layers:
        torch.testing.assert_close(updated[layer.name], layer.weight * masks[layer.name])


def test_the_report_predicts_the_increase_of_one_removal():
    layers = network()
    selection = OBSSelection(damping=1e-2, block="full")
    masks = selection.select_all(layers, {"0": 19, "2": 15})
    predicted = selection.report(layers[0], masks["0"])["predicted_increase"]
    weight = flat(layers, {layer.name: layer.weight for layer in layers})
    updated = flat(layers, OBSCompensation("group").edge_weights(layers, masks, selection))
    actual = increase(fisher(explicit_gradients(layers), 1e-2), updated - weight)
    torch.testing.assert_close(predicted, float(actual))


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: OBSSelection(block="rows"), "block"),
        (lambda: OBSSelection(block=0), "block"),
        (lambda: OBSSelection(labels="guessed"), "labels"),
        (lambda: OBSCompensation(update="both"), "update"),
    ],
)
def test_mistakes_are_named(make, word):
    with pytest.raises(BadInput, match=word):
        make()


def test_the_inverse_kept_from_the_selection_gives_the_same_update():
    layers = network(samples=8)  # few gradients, so that keeping the factor is cheap
    selection = OBSSelection(damping=1e-3, block="full")
    masks = selection.select_all(layers, {"0": 10, "2": 8})
    assert any(key[0] == "inverse Fisher" for key in layers[0].shared if isinstance(key, tuple))
    reused = OBSCompensation("sum").edge_weights(layers, masks, selection)
    fresh = OBSCompensation("sum", damping=1e-3, block="full").edge_weights(network(samples=8), masks, None)
    assert all(torch.equal(reused[name], fresh[name]) for name in masks)


def test_settings_of_a_selection_that_has_no_fisher_are_not_taken_for_the_repairs(monkeypatch):
    """ExactOBS and SparseGPT have a damping and a block too, of another matrix."""
    asked = {}

    def blocks(gradients, block):
        asked["block"] = block
        return fisher_blocks(gradients, block)

    monkeypatch.setattr("methods.hessian.obs.fisher_blocks", blocks)
    before = make("chain")
    with_own, alone = (
        Pruner(ExactOBSSelection(), compensation=repair).prune(before, calibration(32), Budget("keep", 0.5)).model
        for repair in (OBSCompensation("group"), OBSCompensation("group", damping=1e-5, block="full"))
    )
    assert asked["block"] == "full"
    for (name, mine), (_, theirs) in zip(with_own.named_parameters(), alone.named_parameters(), strict=True):
        assert torch.equal(mine, theirs), name
