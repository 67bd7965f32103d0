"""M-FAC, CHITA, ALPS and SiPP against formulas evaluated by other ways, and against all sets of a small case."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import calibration, make

from methods.errors import BadInput
from methods.hessian.obs import InverseFisher
from methods.layers.gradients import per_sample_gradients
from methods.layers.sensitivity import sensitivities
from methods.layers.views import edge_views
from methods.selection import largest_mask
from methods.unstructured.alps import ALPSSelection, admm, lower_bound, scaled
from methods.unstructured.chita import CHITASelection, Regression, sparse_regression, threshold_step
from methods.unstructured.sipp import SiPPSelection
from secateurs.presets import pruner_of


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- M-FAC -----------------------------------------------------------------------------------------------------------


@pytest.mark.verifies("mfac", by="brute force")
def test_mfac_is_the_papers_recursion_over_single_gradients():
    """h_i = F^-1_{i-1} g_i by the vectors before it, F^-1 x = x / lambda - sum_i h_i h_i^T x / (N + g_i^T h_i)."""
    selection = pruner_of("mfac").selection
    damping = selection.damping
    assert (selection.block, damping) == ("full", 1e-5)
    gradients = random(12, 30, seed=0)
    vectors, weights = [], []
    for g in gradients:
        h = g / damping
        for before, weight in zip(vectors, weights, strict=True):
            h = h - before * float(before @ g) / weight
        vectors.append(h)
        weights.append(len(gradients) + float(g @ h))
    x = random(30, seed=1)
    product = x / damping - sum(h * float(h @ x) / w for h, w in zip(vectors, weights, strict=True))
    diagonal = torch.full((30,), 1 / damping) - sum(h * h / w for h, w in zip(vectors, weights, strict=True))
    inverse = InverseFisher(gradients, damping)
    assert torch.allclose(inverse.product(x), product, rtol=1e-6, atol=1e-3)
    assert torch.allclose(inverse.diagonal(), diagonal.double(), rtol=1e-6, atol=1e-3)


def test_mfac_has_one_fisher_of_all_layers():
    """Its scores are w^2 / (2 [F^-1]_qq) of the gradients of all layers side by side."""
    model, data = make("chain"), calibration(40)
    names = ["1", "3", "5"]
    both = edge_views(model, names, {}, data, "test")
    selection = pruner_of("mfac", overrides=["selection.damping=0.01"]).selection
    gradients = torch.cat(per_sample_gradients(model, names, data.inputs, data.labels), 1).double()
    fisher = 0.01 * torch.eye(gradients.shape[1], dtype=torch.float64) + gradients.T @ gradients / 40
    inverse = torch.linalg.inv(fisher).diagonal()
    weight = torch.cat([layer.weight.flatten() for layer in both])
    wanted = weight.square() / (2 * inverse)
    found = torch.cat([selection.scores(layer).flatten() for layer in both])
    assert torch.allclose(found, wanted, rtol=1e-4)


# --- CHITA -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), first_order=st.booleans())
def test_the_regression_is_the_local_model_of_the_loss(seed, first_order):
    """N (g d + d F d / 2) up to a constant, with F the damped mean of the gradients' squares."""
    a, w, moved = random(9, 6, seed=seed), random(6, seed=seed + 1), random(6, seed=seed + 2)
    problem = Regression(a, w, 0.1, first_order)
    d = moved - w
    fisher = 0.1 * torch.eye(6, dtype=torch.float64) + a.T @ a / 9
    wanted = 9 * float(first_order * (a.mean(0) @ d) + d @ fisher @ d / 2) + 4.5 * first_order
    residual = problem.residual(moved)
    assert problem.loss(moved, residual) == pytest.approx(wanted)
    point = moved.clone().requires_grad_(True)
    loss = 9 * (first_order * (a.mean(0) @ (point - w)) + (point - w) @ fisher @ (point - w) / 2)
    [slope] = torch.autograd.grad(loss, point)
    assert torch.allclose(problem.slope(moved, residual), slope)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 7))
def test_a_step_keeps_the_number_of_weights_and_never_raises_the_loss(seed, count):
    problem = Regression(random(9, 8, seed=seed), random(8, seed=seed + 1), 0.05)
    weight = problem.weight * largest_mask(problem.weight.abs()[None], count)[0]
    before = problem.loss(weight, problem.residual(weight))
    moved, after = threshold_step(problem, weight, count)
    assert int((moved != 0).sum()) <= count
    assert after <= before and after == pytest.approx(problem.loss(moved, problem.residual(moved)))


def best(problem, count):
    size, found = len(problem.weight), {}
    for chosen in itertools.combinations(range(size), count):
        kept = torch.zeros(size, dtype=torch.bool)
        kept[list(chosen)] = True
        weight = problem.solved(kept)
        found[chosen] = problem.loss(weight, problem.residual(weight))
    return found


@pytest.mark.slow
@pytest.mark.verifies("chita", by="brute force")
def test_the_search_is_never_worse_than_magnitude_and_often_the_best_of_all_sets():
    optimal, better = 0, 0
    for seed in range(30):
        problem = Regression(random(12, 9, seed=seed), random(9, seed=seed + 100), 0.05)
        every = best(problem, 4)
        start = largest_mask(problem.weight.abs()[None], 4)[0]
        kept = sparse_regression(problem, start, 4, 50, 5)
        assert int(kept.sum()) == 4
        loss = every[tuple(kept.nonzero().flatten().tolist())]
        magnitude = every[tuple(start.nonzero().flatten().tolist())]
        assert min(every.values()) - 1e-9 <= loss <= magnitude + 1e-9
        optimal += loss <= min(every.values()) + 1e-9
        better += loss < magnitude - 1e-9
    assert better >= 15 and optimal >= 10


def test_chita_keeps_a_total_for_the_whole_network_and_nothing_that_is_gone():
    model, data = make("chain"), calibration(40)
    both = edge_views(model, ["1", "3", "5"], {}, data, "test")
    both[0].live[:, :10] = False
    masks = CHITASelection(rounds=5, solves=2).select_all(both, {"1": 200, "3": 30, "5": torch.tensor([5, 5, 5, 5])})
    assert sum(int(mask.sum()) for mask in masks.values()) == 250
    assert not masks["1"][~both[0].live].any()


@pytest.mark.parametrize("options", [{"rounds": -1}, {"solves": 0}])
def test_searches_that_are_none_are_refused(options):
    with pytest.raises(BadInput, match="type selection.rounds=50"):
        CHITASelection(**options)


# --- ALPS ------------------------------------------------------------------------------------------------------------


def layer_problem(seed, rows=2, size=6):
    x = random(40, size, seed=seed) @ random(size, size, seed=seed + 1)
    return random(rows, size, seed=seed + 2), x.T @ x / 40


def errors(weight, second, count):
    """Least output error of every set of ``count`` weights, relative to the output's energy."""
    system = second + 0.01 * second.diagonal().mean() * torch.eye(len(second), dtype=torch.float64)
    energy = float(((weight @ system) * weight).sum())
    found = {}
    for chosen in itertools.combinations(range(weight.numel()), count):
        mask = torch.zeros(weight.numel(), dtype=torch.bool)
        mask[list(chosen)] = True
        total = 0.0
        for row, kept in zip(weight, mask.view_as(weight), strict=True):
            fitted = torch.zeros_like(row)
            if kept.any():
                fitted[kept] = torch.linalg.solve(system[kept][:, kept], system[kept] @ row)
            total += float((row - fitted) @ system @ (row - fitted))
        found[chosen] = total / energy
    return found


@pytest.mark.slow
@pytest.mark.verifies("alps", by="brute force")
def test_alps_is_near_the_best_of_all_sets_and_above_its_bound():
    lost, by_magnitude, optimal = 0.0, 0.0, 0
    for seed in range(0, 100, 5):
        weight, second = layer_problem(seed)
        problem = scaled(weight, second, 0.01)

        def project(squares):
            return largest_mask(squares, 5)

        every = errors(weight, second, 5)
        least = min(every.values())
        found = project(admm(problem, project, 5)[-1].free.square())
        error = every[tuple(found.flatten().nonzero().flatten().tolist())]
        scaled_magnitude = every[tuple(project(problem.weight.square()).flatten().nonzero().flatten().tolist())]
        assert lower_bound(problem, project) <= least + 1e-12
        lost, by_magnitude = lost + error - least, by_magnitude + scaled_magnitude - least
        optimal += error <= least + 1e-9
    assert lost < 0.6 * by_magnitude and optimal >= 4


def test_w_and_d_meet_as_the_penalty_grows():
    """Theorem 1: what is between them, and between one D and the next, times rho stays bounded, and ends small."""
    weight, second = layer_problem(1, rows=6, size=12)

    def project(squares):
        return largest_mask(squares, 30)

    done = admm(scaled(weight, second, 0.01), project, 30)
    gaps = [float((each.free - each.sparse).norm()) for each in done]
    assert gaps[-1] < 0.2 * max(gaps)
    late = [gap * each.rho for gap, each in zip(gaps, done, strict=True)]
    assert max(late) <= 10 * float(weight.norm() * second.diagonal().max().sqrt())
    assert all(int((each.sparse != 0).sum()) == 30 for each in done)


@pytest.mark.verifies("alps", by="closed form")
def test_the_first_round_is_the_papers_update():
    weight, second = layer_problem(3)
    problem = scaled(weight, second, 0.01)

    def project(squares):
        return largest_mask(squares, 5)

    [first] = admm(problem, project, 5, rho=0.3, rounds=1)
    d = problem.weight * project(problem.weight.square())
    inverse = torch.linalg.inv(problem.system + 0.3 * torch.eye(6, dtype=torch.float64))
    assert torch.allclose(first.free, (problem.weight @ problem.system + 0.3 * d) @ inverse)
    assert torch.allclose(first.sparse, first.free * project(first.free.square()))


def test_scaling_leaves_the_problem_as_it_is():
    weight, second = layer_problem(4)
    problem = scaled(weight, second, 0.01)
    assert torch.allclose(problem.system.diagonal(), torch.ones(6, dtype=torch.float64))
    system = second + 0.01 * second.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    assert problem.energy == pytest.approx(float(((weight @ system) * weight).sum()))


def test_alps_tells_its_bound_and_keeps_what_is_asked_for():
    model, data = make("convolution"), calibration(40)
    [_, second, *_] = edge_views(model, ["0", "3", "6", "8"], {}, data, "test")
    selection = ALPSSelection()
    mask = selection.select(second, 300)
    assert int(mask.sum()) == 300
    assert 0 <= selection.report(second, mask)["lower_bound"] < 1 and selection.report(second, mask)["rounds"] >= 1
    rows = torch.arange(10) + 20
    assert selection.select(second, rows).sum(1).tolist() == rows.tolist()


@pytest.mark.parametrize("options", [{"damping": 0.0}, {"rho": 0.0}, {"rounds": 0}])
def test_problems_that_are_none_are_refused(options):
    with pytest.raises(BadInput, match="type selection.damping=0.01"):
        ALPSSelection(**options)


# --- SiPP ------------------------------------------------------------------------------------------------------------


def test_sipp_ranks_mean_shares_and_tells_what_it_removes():
    model, data = make("chain"), calibration(30)
    [first, second, _] = edge_views(model, ["1", "3", "5"], {}, data, "test")
    for layer in (first, second):
        wanted, _ = sensitivities(model, layer.name, data, "mean")
        assert torch.equal(SiPPSelection(samples=30).scores(layer), wanted)
        kept = largest_mask(wanted, 40)
        told = SiPPSelection(samples=30).report(layer, kept)["sensitivity_removed"]
        assert told == pytest.approx(float((wanted * ~kept).sum(1).max()))


def test_sipp_needs_a_sample():
    with pytest.raises(BadInput, match="selection.samples=0"):
        SiPPSelection(0)
