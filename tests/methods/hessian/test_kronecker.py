"""Kronecker factors, filter saliencies and updates against explicit Fisher matrices."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import noise
from torch import nn
from torch.nn import functional

from methods.allocation import Global
from methods.budgets.budget import Budget
from methods.curvature.kfac import (
    Factors,
    fisher_diagonal,
    kfac_factors,
    kfac_radius,
    patch_sum,
    patches,
    pi_damped,
    relatively_damped,
    require_factorable,
    sample_labels,
    split_matrix,
    weight_matrix,
)
from methods.errors import BadInput, Skipped
from methods.hessian import filter_obs, kronecker
from methods.layers.seen import NodeLayer
from methods.layers.statistics import Calibration
from methods.network.graph import NetworkGraph, gated
from methods.pruner import Pruner
from methods.schedule import Iterative

sizes = st.integers(2, 5)
seeds = st.integers(0, 10_000)


def spd(size, generator, least=0.1):
    root = torch.randn(size, size + 2, generator=generator, dtype=torch.float64)
    return root @ root.T / size + least * torch.eye(size, dtype=torch.float64)


def random_layer(out, d, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, d, generator=generator, dtype=torch.float64)
    return weight, Factors(spd(d, generator), spd(out, generator))


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()


def cnn(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 2, stride=2, bias=False),
        nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3),
    ).double()  # fmt: skip


def sample_gradients(model, name, inputs, labels):
    """(n, out, d) gradient of each sample's loss by the layer's weight with the bias as last column, one by one."""
    module = model.eval().get_submodule(name)
    rows = []
    for x, y in zip(inputs, labels, strict=True):
        model.zero_grad()
        functional.cross_entropy(model(x[None]), y[None]).backward()
        gradient = module.weight.grad.flatten(1)
        if module.bias is not None:
            gradient = torch.cat([gradient, module.bias.grad[:, None]], 1)
        rows.append(gradient.clone())
    return torch.stack(rows)


def data(n, shape, seed=1, classes=3):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, *shape, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(classes, (n,), generator=generator)


# --- factors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["0", "2"])
def test_one_sample_of_a_linear_layer_gives_the_exact_fisher_block(name):
    model = mlp()
    inputs, labels = data(1, (4,))
    factors = kfac_factors(model, [name], inputs, labels)[name]
    gradient = sample_gradients(model, name, inputs, labels)[0].flatten()
    torch.testing.assert_close(torch.kron(factors.G, factors.A), torch.outer(gradient, gradient))


def test_linear_factors_are_the_second_moments_of_reads_and_slopes():
    model = mlp()
    inputs, labels = data(7, (4,))
    factors = kfac_factors(model, ["2"], inputs, labels, batch_size=3)["2"]
    hidden = functional.pad(model[1](model[0](inputs)), (0, 1), value=1.0)
    slopes = model(inputs).softmax(1) - functional.one_hot(labels, 3)
    torch.testing.assert_close(factors.A, (hidden.T @ hidden / 7).detach())
    torch.testing.assert_close(factors.G, (slopes.T @ slopes / 7).detach())


def test_factors_do_not_depend_on_the_batch_size_and_leave_the_model_alone():
    model = cnn().train()
    state = copy.deepcopy(model.state_dict())
    inputs, labels = data(7, (2, 6, 6))
    names = ["0", "2", "6"]
    one, many = (kfac_factors(model, names, inputs, labels, batch_size=b) for b in (1, 7))
    for name in names:
        torch.testing.assert_close(one[name].A, many[name].A)
        torch.testing.assert_close(one[name].G, many[name].G)
    assert model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_convolution_factors_equal_those_of_the_same_layer_as_an_unfolded_linear_layer():
    torch.manual_seed(0)
    convolution = nn.Conv2d(2, 3, 3, padding=1).double()

    class Unfolded(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(18, 3).double()
            self.linear.weight = nn.Parameter(convolution.weight.detach().flatten(1))
            self.linear.bias = nn.Parameter(convolution.bias.detach())

        def forward(self, x):
            patches = functional.unfold(x, 3, padding=1).transpose(1, 2)
            return torch.tanh(self.linear(patches).transpose(1, 2)).mean(2)

    plain = nn.Sequential(convolution, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    inputs, labels = data(5, (2, 4, 4))
    expected = kfac_factors(Unfolded(), ["linear"], inputs, labels)["linear"]
    actual = kfac_factors(plain, ["0"], inputs, labels)["0"]
    torch.testing.assert_close(actual.A, expected.A)
    torch.testing.assert_close(actual.G, expected.G)


@pytest.mark.parametrize("size", [(8, 8), (5, 9), (1, 4), (2, 1)])
@pytest.mark.parametrize("padding", ["half", "same", 0])
@pytest.mark.parametrize("kernel", [3, 5])
def test_the_sum_over_patches_equals_that_of_their_outer_products(kernel, padding, size):
    if padding == 0:
        size = (size[0] + kernel, size[1] + kernel)
    layer = nn.Conv2d(3, 2, kernel, padding=kernel // 2 if padding == "half" else padding, bias=False)
    read = noise(4, 3, *size, dtype=torch.float64)
    columns = patches(layer, read)
    expected = torch.einsum("ndt,net->de", columns, columns)
    torch.testing.assert_close(patch_sum(layer, read), expected, rtol=1e-12, atol=1e-12)


def test_one_position_convolution_is_exact_for_one_sample():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten()).double()
    inputs, labels = data(1, (2, 3, 3))
    factors = kfac_factors(model, ["0"], inputs, labels)["0"]
    gradient = sample_gradients(model, "0", inputs, labels)[0].flatten()
    torch.testing.assert_close(torch.kron(factors.G, factors.A), torch.outer(gradient, gradient))


@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize("padding", [0, 1, "same", "valid"])
def test_patches_times_weights_are_the_layers_output(padding):
    torch.manual_seed(0)
    module = nn.Conv2d(2, 3, (3, 2), padding=padding, dilation=1).double()
    inputs, _ = data(2, (2, 5, 6))
    written = torch.einsum("od,ndt->not", weight_matrix(module), patches(module, inputs))
    torch.testing.assert_close(written, module(inputs).flatten(2).detach())


def test_sampled_labels_follow_the_predicted_distribution_and_their_generator():
    outputs = torch.tensor([[0.0, 1.0, 2.0]]).repeat(20_000, 1)
    labels = torch.zeros(len(outputs), dtype=torch.long)
    drawn = sample_labels(outputs, labels, torch.Generator().manual_seed(3))
    again = sample_labels(outputs, labels, torch.Generator().manual_seed(3))
    frequency = torch.bincount(drawn, minlength=3) / len(drawn)
    assert torch.equal(drawn, again)
    torch.testing.assert_close(frequency, outputs[0].softmax(0), atol=0.015, rtol=0)


def test_sampled_fisher_of_the_last_layer_tends_to_the_gauss_newton_factor():
    model = mlp()
    inputs, labels = data(20_000, (4,))
    generator = torch.Generator().manual_seed(0)
    factors = kfac_factors(model, ["2"], inputs, labels, generator=generator, batch_size=20_000)["2"]
    p = model(inputs).softmax(1).detach()
    expected = torch.diag(p.mean(0)) - p.T @ p / len(p)
    torch.testing.assert_close(factors.G, expected, atol=6e-3, rtol=0)


def test_fisher_diagonal_is_the_mean_square_of_single_gradients_also_in_a_rotated_basis():
    model = cnn()
    inputs, labels = data(6, (2, 6, 6))
    generator = torch.Generator().manual_seed(0)
    for name in ["0", "2", "6"]:
        single = sample_gradients(model, name, inputs, labels)
        diagonal = fisher_diagonal(model, [name], inputs, labels, batch_size=4)[name]
        torch.testing.assert_close(diagonal, single.square().mean(0))
        bases = Factors(*(torch.linalg.qr(spd(n, generator))[0] for n in (single.shape[2], single.shape[1])))
        rotated = fisher_diagonal(model, [name], inputs, labels, bases={name: bases})[name]
        torch.testing.assert_close(rotated, (bases.G.T @ single @ bases.A).square().mean(0))


def test_a_layer_without_factors_is_skipped_and_an_unused_one_is_an_error():
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.ReLU())
    with pytest.raises(Skipped, match="no Kronecker factors"):
        require_factorable(model, "0")
    with pytest.raises(Skipped, match="Embedding"):  # its A would be as large as the vocabulary, squared
        require_factorable(nn.Sequential(nn.Embedding(50_000, 4)), "0")

    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(BadInput, match="unused"):
        kfac_factors(Unused(), ["unused"], noise(2, 4), torch.tensor([0, 1]))


def test_an_in_place_activation_behind_a_layer_changes_nothing():
    model = mlp()
    inputs, labels = data(5, (4,))
    expected = kfac_factors(model, ["0", "2"], inputs, labels)
    model[1].inplace = True
    actual = kfac_factors(model, ["0", "2"], inputs, labels)
    for name in expected:
        torch.testing.assert_close(actual[name].A, expected[name].A)
        torch.testing.assert_close(actual[name].G, expected[name].G)


def test_frozen_weights_have_the_same_factors():
    model = mlp()
    inputs, labels = data(5, (4,))
    expected = kfac_factors(model, ["0", "2"], inputs, labels)
    actual = kfac_factors(model.requires_grad_(False), ["0", "2"], inputs, labels)
    for name in expected:
        torch.testing.assert_close(actual[name].A, expected[name].A)
        torch.testing.assert_close(actual[name].G, expected[name].G)


# --- damping and radius ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(out=sizes, d=sizes, seed=seeds, damping=st.floats(1e-6, 10))
def test_pi_damping_adds_the_damping_and_balances_the_factors(out, d, seed, damping):
    _, factors = random_layer(out, d, seed)
    damped = pi_damped(factors, damping)
    added_a, added_g = (new - old for new, old in zip(damped, factors, strict=True))
    eye = torch.kron(torch.eye(out), torch.eye(d)).double()
    torch.testing.assert_close(torch.kron(added_g, added_a), damping * eye, rtol=1e-6, atol=1e-12)
    relative = [
        float(a.diagonal().mean() / f.diagonal().mean()) for a, f in zip((added_a, added_g), factors, strict=True)
    ]
    assert relative[0] == pytest.approx(relative[1], rel=1e-6)


@settings(deadline=None, max_examples=20)
@given(out=sizes, d=sizes, seed=seeds, scale=st.floats(1e-6, 1e6))
def test_relative_damping_does_not_care_about_the_scale_of_the_loss(out, d, seed, scale):
    weight, factors = random_layer(out, d, seed)
    costs = kronecker.kron_obs_cost(weight, relatively_damped(factors, 1e-2))
    scaled = kronecker.kron_obs_cost(weight, relatively_damped(Factors(factors.A, factors.G * scale), 1e-2))
    torch.testing.assert_close(scaled, costs * scale)


def test_kfac_radius_is_the_largest_eigenvalue_of_the_block_diagonal_kronecker_product():
    generator = torch.Generator().manual_seed(0)
    factors = {str(n): Factors(spd(n, generator), spd(n + 1, generator)) for n in (2, 3, 4)}
    matrix = torch.block_diag(*(torch.kron(f.G, f.A) for f in factors.values()))
    assert kfac_radius(factors) == pytest.approx(float(torch.linalg.eigvalsh(matrix).abs().max()), rel=1e-12)


# --- saliencies and updates ------------------------------------------------------------------------------------------


def quadratic(change, factors):
    fisher = torch.kron(factors.G, factors.A)
    return 0.5 * change.flatten() @ fisher @ change.flatten()


def brute_force_removal(weight, factors, removed):
    """The least-squares solution of min 1/2 dw^T F dw subject to rows ``removed`` becoming zero, on the full F."""
    fisher = torch.kron(factors.G, factors.A)
    gone = torch.zeros(weight.shape, dtype=torch.bool)
    gone[removed] = True
    gone = gone.flatten()
    new = weight.flatten().clone()
    new[gone] = 0
    free = fisher[~gone][:, ~gone]
    new[~gone] += torch.linalg.solve(free, fisher[~gone][:, gone] @ weight.flatten()[gone])
    return new.view_as(weight)


@settings(deadline=None, max_examples=40)
@given(out=sizes, d=sizes, seed=seeds)
def test_quadratic_form_of_the_kronecker_product(out, d, seed):
    weight, factors = random_layer(out, d, seed)
    expected = 0.5 * ((factors.G @ weight @ factors.A) * weight).sum()
    torch.testing.assert_close(quadratic(weight, factors), expected)


@pytest.mark.verifies("kron_obd", by="brute force")
@settings(deadline=None, max_examples=40)
@given(out=sizes, d=sizes, seed=seeds)
def test_kron_obd_cost_is_the_quadratic_form_of_the_row_and_not_of_its_squares(out, d, seed):
    weight, factors = random_layer(out, d, seed)
    costs = kronecker.kron_obd_cost(weight, factors)
    for row in range(out):
        change = torch.zeros_like(weight)
        change[row] = -weight[row]
        torch.testing.assert_close(costs[row], quadratic(change, factors))
    assert not torch.allclose(costs, 0.5 * factors.G.diagonal() * (weight.square() @ factors.A).sum(1))


@pytest.mark.verifies("kron_obs", by="brute force")
@settings(deadline=None, max_examples=40)
@given(out=sizes, d=sizes, seed=seeds)
def test_kron_obs_cost_is_the_least_increase_and_at_most_that_of_kron_obd(out, d, seed):
    weight, factors = random_layer(out, d, seed)
    costs = kronecker.kron_obs_cost(weight, factors)
    for row in range(out):
        best = brute_force_removal(weight, factors, torch.tensor([row]))
        torch.testing.assert_close(costs[row], quadratic(best - weight, factors))
    assert bool((costs <= kronecker.kron_obd_cost(weight, factors) * (1 + 1e-12)).all())


@pytest.mark.verifies("kron_obs", by="closed form")
@settings(deadline=None, max_examples=40)
@given(out=st.integers(3, 6), d=sizes, seed=seeds, data=st.data())
def test_group_update_is_the_group_obs_solution_on_the_full_fisher(out, d, seed, data):
    weight, factors = random_layer(out, d, seed)
    kept = torch.tensor(sorted(data.draw(st.sets(st.integers(0, out - 1), min_size=1, max_size=out - 1))))
    removed = torch.tensor([row for row in range(out) if row not in kept])
    updated = kronecker.group_update(weight, factors, kept)
    torch.testing.assert_close(updated, brute_force_removal(weight, factors, removed), rtol=1e-8, atol=1e-10)
    inverse = torch.linalg.inv(factors.G)
    formula = weight - inverse[:, removed] @ torch.linalg.solve(inverse[removed][:, removed], weight[removed])
    torch.testing.assert_close(updated, formula, rtol=1e-8, atol=1e-10)
    cost = kronecker.group_cost(weight, factors, removed)
    torch.testing.assert_close(cost, quadratic(updated - weight, factors))
    masked = weight.clone()
    masked[removed] = 0
    summed = kronecker.summed_update(weight, factors, kept)
    assert cost <= quadratic(masked - weight, factors) * (1 + 1e-12)
    assert cost <= quadratic(summed - weight, factors) * (1 + 1e-12)
    if len(removed) == 1:
        torch.testing.assert_close(summed, updated)


@settings(deadline=None, max_examples=30)
@given(out=st.integers(2, 6), d=sizes, seed=seeds, layers=st.integers(1, 2))
def test_each_removal_of_a_path_adds_least_to_what_the_whole_set_costs(out, d, seed, layers):
    """Against the cost of every set that is one row larger, on the full Fisher; increments sum to that of the set."""
    written = [random_layer(out, d, seed + 1000 * number) for number in range(layers)]

    def cost(rows):
        changes = [(brute_force_removal(w, f, torch.tensor(rows)) - w, f) for w, f in written]
        return float(sum(quadratic(change, factors) for change, factors in changes))

    order, added = kronecker.removal_path(written)
    assert sorted(order.tolist()) == list(range(out))
    gone, total = [], 0.0
    for row, increment in zip(order.tolist(), added.tolist(), strict=True):
        choices = {other: cost([*gone, other]) for other in range(out) if other not in gone}
        assert choices[row] == pytest.approx(min(choices.values()), rel=1e-8)
        gone.append(row)
        total += increment
        assert total == pytest.approx(choices[row], rel=1e-8)


def twins():
    """A perceptron whose hidden neurons come in pairs that do the same."""
    model = mlp()
    model[0], model[2] = nn.Linear(4, 6).double(), nn.Linear(6, 3).double()
    with torch.no_grad():
        for parameter in (model[0].weight, model[0].bias):
            parameter[3:] = parameter[:3]
        model[2].weight[:, 3:] = model[2].weight[:, :3]
    return model


def test_of_two_neurons_that_do_the_same_one_stays_where_the_set_is_looked_at():
    inputs, labels = data(200, (4,))
    samples = Calibration(inputs, labels)
    pruned = {}
    for aware in (False, True):
        selection = kronecker.KronOBS(1e-6, "true", set_aware=aware)
        pruned[aware] = Pruner(selection, compensation=kronecker.KroneckerCompensation(1e-6, "true")).prune(
            twins(), samples, Budget("keep", 0.5)
        )
    [kept] = pruned[True].kept.values()
    assert sorted(node % 3 for node in kept.tolist()) == [0, 1, 2]
    [row] = pruned[True].layers
    assert row["set_aware"] is True
    before = twins()(inputs)
    changed = {aware: float((found.model(inputs) - before).abs().max()) for aware, found in pruned.items()}
    assert changed[True] < 1e-3 * float(before.abs().max()) < changed[False]
    [other] = pruned[False].kept.values()
    assert len({node % 3 for node in other.tolist()}) < 3, "each twin alone is free to go"


@settings(deadline=None, max_examples=15)
@given(seed=seeds)
def test_scores_of_a_path_rank_as_the_path_does(seed):
    model, (inputs, labels) = mlp(seed), data(60, (4,), seed)
    [group] = NetworkGraph(model, inputs).groups
    layer = NodeLayer(group, model, Calibration(inputs, labels), None, None)
    selection = kronecker.KronOBS(1e-3, "true", set_aware=True)
    order = kronecker.removal_path(selection.written(layer))[0]
    scores = selection.scores(layer)[order]
    assert bool((scores.diff() >= 0).all())
    for k in range(1, layer.size + 1):
        assert selection.select(layer, k).tolist() == sorted(order[layer.size - k :].tolist())
    assert float(selection.gains(layer).sum()) == pytest.approx(
        sum(float(kronecker.group_cost(w, f, order)) for w, f in selection.written(layer))
    )


def test_curvature_is_taken_anew_between_steps_without_training(monkeypatch):
    taken = []

    def counted(model, *rest):
        taken.append(sum(parameter.numel() for parameter in model.parameters()))
        return factors(model, *rest)

    factors = kronecker.calibrated_factors
    monkeypatch.setattr(kronecker, "calibrated_factors", counted)
    inputs, labels = data(60, (4,))
    pruner = Pruner(
        kronecker.KronOBS(1e-3, "true", set_aware=True),
        compensation=kronecker.KroneckerCompensation(1e-3, "true"),
        schedule=Iterative(3, between=False),
    )
    pruner.prune(mlp(), Calibration(inputs, labels), Budget("keep", 0.4), train=lambda *_: pytest.fail("trained"))
    assert len(taken) == 3 and taken[0] > taken[1] > taken[2]


def test_the_summed_update_can_be_worse_than_no_update():
    worse = 0
    for seed in range(200):
        weight, factors = random_layer(6, 3, seed)
        factors = Factors(factors.A, factors.G + 3)  # strongly correlated gradients
        kept = torch.tensor([0, 1])
        masked = weight.clone()
        masked[2:] = 0
        summed = kronecker.summed_update(weight, factors, kept)
        worse += bool(quadratic(summed - weight, factors) > quadratic(masked - weight, factors))
    assert worse > 0


@pytest.mark.verifies("obd_filter", "obs_filter", by="brute force")
@settings(deadline=None, max_examples=30)
@given(out=sizes, d=sizes, seed=seeds)
def test_filter_costs_sum_the_classic_saliencies_of_single_weights(out, d, seed):
    weight, factors = random_layer(out, d, seed)
    fisher = torch.kron(factors.G, factors.A)
    obd = 0.5 * fisher.diagonal() * weight.flatten().square()
    obs = 0.5 * weight.flatten().square() / torch.linalg.inv(fisher).diagonal()
    diagonal = fisher.diagonal().view_as(weight)
    torch.testing.assert_close(filter_obs.filter_obd_cost(weight, diagonal), obd.view(out, d).sum(1))
    torch.testing.assert_close(filter_obs.filter_obs_cost(weight, factors), obs.view(out, d).sum(1))


@pytest.mark.verifies("obs_filter", by="brute force")
@settings(deadline=None, max_examples=30)
@given(out=st.integers(2, 5), d=sizes, seed=seeds)
def test_summed_weight_update_adds_the_obs_updates_of_single_weights(out, d, seed):
    weight, factors = random_layer(out, d, seed)
    inverse = torch.linalg.inv(torch.kron(factors.G, factors.A))
    kept = torch.arange(1, out)
    change = torch.zeros(out * d, dtype=torch.float64)
    for q in range(d):  # the weights of row 0
        change -= weight.flatten()[q] / inverse[q, q] * inverse[:, q]
    expected = weight + change.view(out, d)
    expected[0] = 0
    torch.testing.assert_close(filter_obs.summed_weight_update(weight, factors, kept), expected, rtol=1e-8, atol=1e-9)


# --- on a network ----------------------------------------------------------------------------------------------------


def node_layers(model, calibration):
    graph = NetworkGraph(model, calibration.inputs[:2])
    shared = {}
    make = lambda group: NodeLayer(group, model, calibration, torch.Generator(), lambda: [], shared)  # noqa: E731
    return graph, [make(group) for group in graph.groups]


def calibration(n, shape):
    inputs, labels = data(n, shape)
    return Calibration(inputs, labels, torch.arange(n), seed=4)


SELECTIONS = [kronecker.KronOBD(), kronecker.KronOBS(), filter_obs.FilterOBD(), filter_obs.FilterOBS()]


@pytest.mark.parametrize("selection", SELECTIONS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(("build", "shape"), [(mlp, (4,)), (cnn, (2, 6, 6))])
def test_scores_are_positive_reproducible_and_follow_a_permutation_of_the_nodes(selection, build, shape):
    model, samples = build(), calibration(9, shape)
    _, layers = node_layers(model, samples)
    for layer in layers:
        scores = selection.scores(layer)
        assert scores.shape == (layer.size,)
        assert scores.dtype == torch.float64
        assert bool((scores > 0).all())
        assert torch.equal(scores, selection.scores(node_layers(model, samples)[1][layers.index(layer)]))
    first = layers[0]
    order = torch.randperm(first.size, generator=torch.Generator().manual_seed(0))
    permuted = copy.deepcopy(model)
    with torch.no_grad():
        permuted[0].weight.copy_(model[0].weight[order])
        permuted[0].bias.copy_(model[0].bias[order])
        permuted[2].weight.copy_(model[2].weight[:, order])
    again = selection.scores(node_layers(permuted, samples)[1][0])
    torch.testing.assert_close(again, selection.scores(first)[order])


def test_factors_are_computed_once_for_all_layers(monkeypatch):
    samples, selection = calibration(5, (2, 6, 6)), kronecker.KronOBD()
    _, layers = node_layers(cnn(), samples)
    passes = []
    original = kronecker.calibrated_factors
    monkeypatch.setattr(kronecker, "calibrated_factors", lambda *a: passes.append(1) or original(*a))
    for layer in layers:
        selection.scores(layer)
    assert len(layers) == 2
    assert len(passes) == 1


@pytest.mark.parametrize(
    "compensation",
    [
        kronecker.KroneckerCompensation(),
        kronecker.KroneckerCompensation(update="summed"),
        filter_obs.FilterOBSCompensation(),
    ],
)
@pytest.mark.parametrize(("build", "shape"), [(mlp, (4,)), (cnn, (2, 6, 6))])
def test_update_leaves_everything_when_all_stay_and_gated_equals_removed(compensation, build, shape):
    model, samples = build().eval(), calibration(9, shape)
    _, layers = node_layers(model, samples)
    layer, selection = layers[0], kronecker.KronOBS()
    module = model.get_submodule(layer.name)
    weight, bias = compensation.writer_update(layer, torch.arange(layer.size), selection)[layer.name]
    assert torch.equal(weight, module.weight.detach())
    assert torch.equal(bias, module.bias.detach())

    kept = selection.select(layer, layer.size - 1)
    weight, bias = compensation.writer_update(layer, kept, selection)[layer.name]
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.get_submodule(layer.name).weight.copy_(weight)
        changed.get_submodule(layer.name).bias.copy_(bias)
    assert not torch.allclose(weight[kept], module.weight[kept])
    graph = NetworkGraph(changed, samples.inputs[:2])
    group = graph.groups[0]
    with torch.no_grad():
        with gated(changed, [group], {group.name: kept}):
            expected = changed(samples.inputs)
        before = sum(p.numel() for p in changed.parameters())
        graph.remove(group, kept)
        torch.testing.assert_close(changed(samples.inputs), expected, rtol=0, atol=1e-6)
    per_node = module.weight[0].numel() + 1 + layer.outgoing[0][:, 0].numel()
    assert sum(p.numel() for p in changed.parameters()) == before - per_node


@pytest.mark.parametrize("compensation", [kronecker.KroneckerCompensation(), filter_obs.FilterOBSCompensation()])
def test_pruner_updates_all_writers_before_it_removes_their_inputs(compensation):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    samples, selection = calibration(40, (4,)), kronecker.KronOBS()
    pruned = Pruner(selection, Global(), compensation).prune(model, samples, Budget("keep", 0.6), seed=1)
    graph, layers = node_layers(model, samples)
    expected = copy.deepcopy(model)
    with torch.no_grad():
        for layer in layers:
            weight, bias = compensation.writer_update(layer, pruned.kept[layer.name], selection)[layer.name]
            expected.get_submodule(layer.name).weight.copy_(weight)
            expected.get_submodule(layer.name).bias.copy_(bias)
        with gated(expected, graph.groups, pruned.kept):
            torch.testing.assert_close(pruned.model(samples.inputs), expected(samples.inputs), rtol=0, atol=1e-6)


def test_update_takes_over_from_a_duplicate_neuron_exactly():
    """Two neurons with the same inputs and outgoing weights in the ratio 1:2 have gradients in that ratio."""
    model = mlp().eval()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
        model[2].weight[:, 1] = 2 * model[2].weight[:, 0]
        model[0].weight.abs_()
        model[0].bias.abs_()
    samples = calibration(200, (4,))
    samples = Calibration(samples.inputs.abs(), samples.labels, samples.indices)
    _, [layer] = node_layers(model, samples)
    kept = torch.tensor([1, 2, 3, 4])
    weight, bias = kronecker.KroneckerCompensation(damping=1e-12).writer_update(layer, kept, None)["0"]
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed[0].weight.copy_(weight)
        changed[0].bias.copy_(bias)
    # logits may shift together, which no loss sees
    expected, actual = (network(samples.inputs).log_softmax(1) for network in (model, changed))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


def test_weight_matrix_and_split_are_inverse():
    for module in (nn.Linear(3, 2), nn.Linear(3, 2, bias=False), nn.Conv2d(2, 3, (2, 3))):
        weight, bias = split_matrix(weight_matrix(module), module)
        assert torch.equal(weight.float(), module.weight)
        assert (bias is None) == (module.bias is None)
        assert bias is None or torch.equal(bias.float(), module.bias)


def test_unknown_choices_are_explained():
    with pytest.raises(BadInput, match="group or summed"):
        kronecker.KroneckerCompensation(update="joint")
    _, [layer] = node_layers(mlp(), calibration(5, (4,)))
    with pytest.raises(BadInput, match="true"):
        kronecker.KronOBD(labels="guessed").scores(layer)
