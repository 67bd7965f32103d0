"""Training towards flat minima: the radius and its gradient, the neurons' share of it, surgery, and the whole loop."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn import functional

from methods.budgets.budget import Budget
from methods.curvature.flatness import (
    batch_radius,
    hessian_radius,
    input_entries,
    radius_decreases,
    reduced_tops,
    top_eigenpair,
)
from methods.curvature.kfac import Factors, factorable, kfac_factors, kfac_radius
from methods.errors import BadInput, Collapsed
from methods.hessian.flat_minimum import FlatMinimum, pruning_times, remaining_fraction
from methods.hooks import TrainingHook
from methods.network.graph import NetworkGraph, gated
from methods.network.surgery import remove_in_training

pytestmark = pytest.mark.slow


def mlp(seed=0, hidden=(8, 6)):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(5, hidden[0]), nn.ReLU(), nn.Linear(hidden[0], hidden[1]), nn.ReLU(), nn.Linear(hidden[1], 3)
    )  # fmt: skip


def cnn(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(20, 3),
    )  # fmt: skip


def batch(n, shape, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=generator, dtype=dtype), torch.randint(3, (n,), generator=generator)


def spd(size, seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return root @ root.T / size


# --- flatness --------------------------------------------------------------------------------------------------------


@pytest.mark.verifies("flat_minimum", by="brute force")
@pytest.mark.parametrize(("build", "shape"), [(mlp, (5,)), (cnn, (2, 4, 4))])
def test_batch_radius_and_factors_are_those_of_the_explicit_factors(build, shape):
    model, (x, y) = build().double(), batch(9, shape, dtype=torch.float64)
    names = factorable(model)
    rho, factors = batch_radius(model, names, x, y)
    expected = kfac_factors(model, names, x, y)
    for name in names:
        torch.testing.assert_close(factors[name].A, expected[name].A)
        torch.testing.assert_close(factors[name].G, expected[name].G)
    assert float(rho.detach()) == pytest.approx(kfac_radius(expected), rel=1e-6)
    assert model.training


@pytest.mark.parametrize(("build", "shape"), [(mlp, (5,)), (cnn, (2, 4, 4))])
def test_gradient_of_the_kfac_radius_equals_finite_differences(build, shape):
    model, (x, y) = build().double(), batch(9, shape, dtype=torch.float64)
    for module in model:
        if isinstance(module, nn.ReLU):  # smooth, so that finite differences exist everywhere
            model[list(model).index(module)] = nn.Softplus()
    names = factorable(model)
    rho, _ = batch_radius(model, names, x, y)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(rho, parameters, materialize_grads=True)
    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
    values = []
    for step in (1e-5, -1e-5):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for p, direction in zip(moved.parameters(), directions, strict=True):
                p += step * direction
        values.append(kfac_radius(kfac_factors(moved, names, x, y)))
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-3)


def test_top_eigenpair_and_warm_start():
    matrix = spd(12, 0)
    value, vector = top_eigenpair(matrix, tolerance=1e-9)
    assert value == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-6)
    torch.testing.assert_close(matrix @ vector, value * vector, rtol=1e-4, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(size=st.integers(3, 9), block=st.integers(1, 2), seed=st.integers(0, 9999))
def test_reduced_tops_are_the_eigenvalues_of_the_submatrices(size, block, seed):
    matrix = spd(size, seed)
    deleted = torch.stack([torch.arange(i, i + block) for i in range(size - block)])
    tops = reduced_tops(matrix, deleted, iterations=20_000, tolerance=1e-13)
    for i, gone in enumerate(deleted):
        stays = torch.tensor([k for k in range(size) if k not in gone])
        assert float(tops[i]) == pytest.approx(float(torch.linalg.eigvalsh(matrix[stays][:, stays])[-1]), rel=1e-4)


def test_reduced_tops_of_a_diagonal_matrix_where_the_top_vector_itself_goes():
    tops = reduced_tops(torch.diag(torch.tensor([1.0, 5.0, 3.0])).double(), torch.arange(3)[:, None])
    torch.testing.assert_close(tops, torch.tensor([5.0, 3.0, 5.0]).double())


@pytest.mark.verifies("flat_minimum", by="brute force")
@pytest.mark.parametrize(("build", "shape"), [(mlp, (5,)), (cnn, (2, 4, 4))])
@pytest.mark.parametrize("dominating", [0, 1, 2])
def test_radius_decreases_equal_the_radius_after_deleting_each_neuron(build, shape, dominating):
    model, (x, y) = build().double(), batch(9, shape, dtype=torch.float64)
    names = factorable(model)
    factors = kfac_factors(model, names, x, y)
    scale = {name: 100.0 if name == names[dominating] else 1.0 for name in names}
    factors = {name: Factors(f.A * scale[name], f.G) for name, f in factors.items()}
    modules, some = dict(model.named_modules()), 0.0
    for group in NetworkGraph(model, x[:2]).groups:
        decreases = radius_decreases(factors, group, modules)
        for node in range(group.size):
            reduced = dict(factors)
            for name in group.writers:
                own = torch.tensor([i for i in range(group.size) if i != node])
                reduced[name] = Factors(reduced[name].A, reduced[name].G[own][:, own])
            for reader in group.readers:
                entries = input_entries(reader.columns, modules[reader.name])[node].tolist()
                own = torch.tensor([i for i in range(len(reduced[reader.name].A)) if i not in entries])
                reduced[reader.name] = Factors(reduced[reader.name].A[own][:, own], reduced[reader.name].G)
            after = kfac_radius(reduced)
            assert after <= kfac_radius(factors) * (1 + 1e-12)  # interlacing: it never grows
            assert float(decreases[node]) == pytest.approx(
                kfac_radius(factors) - after, abs=1e-4 * kfac_radius(factors)
            )
            some += float(decreases[node])
    assert some > 0


def explicit_hessian(model, x, y):
    names, values = zip(*model.named_parameters(), strict=True)
    flat, shapes = torch.cat([v.detach().flatten() for v in values]), [v.shape for v in values]

    def loss(vector):
        parts = vector.split([s.numel() for s in shapes])
        chosen = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return functional.cross_entropy(functional_call(model, chosen, (x,)), y)

    return hessian(loss, flat)


def test_hessian_radius_is_the_largest_absolute_eigenvalue_and_the_submatrix_of_a_pruned_network_is_never_larger():
    model, (x, y) = mlp(hidden=(4, 3)).double(), batch(9, (5,), dtype=torch.float64)
    full = explicit_hessian(model, x, y)
    radius, _ = hessian_radius(model, x, y, tolerance=1e-6)
    largest = float(torch.linalg.eigvalsh(full).abs().max())
    assert radius.value == pytest.approx(largest, rel=1e-4)
    # neuron 0 of the first layer: row 0 of its weight, its bias, and column 0 of the next weight
    gone = {*range(5), 20, *(24 + 4 * row for row in range(3))}
    stays = torch.tensor([i for i in range(len(full)) if i not in gone])
    assert float(torch.linalg.eigvalsh(full[stays][:, stays]).abs().max()) <= largest


# --- schedule --------------------------------------------------------------------------------------------------------


def test_cubic_schedule():
    assert remaining_fraction(0, 0.2) == 1
    assert remaining_fraction(1, 0.2) == pytest.approx(0.2)
    assert remaining_fraction(0.5, 0.2) == pytest.approx(0.3)


@given(epochs=st.integers(1, 60), start=st.floats(0, 1), end=st.floats(0, 1), period=st.integers(1, 10))
def test_pruning_times_lie_in_the_training_rise_and_end_with_one(epochs, start, end, period):
    start, end = sorted((start, end))
    times = pruning_times(epochs, start, end, period)
    assert all(0 <= epoch < epochs for epoch in times)
    assert list(times.values()) == sorted(times.values())
    assert list(times) == sorted(times)
    assert max(times.values()) == 1
    assert min(times.values()) > 0
    if epochs > 1:
        assert max(times) < epochs - 1  # some training is left


# --- surgery ---------------------------------------------------------------------------------------------------------


def trained(model, x, y, optimizer, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, 0.01),
    "fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("build", "shape"), [(mlp, (5,)), (cnn, (2, 4, 4))])
def test_removed_equals_gated_and_survivors_keep_parameters_and_state(build, shape, optimizer):
    model, (x, y) = build(), batch(9, shape)
    optimizer = OPTIMIZERS[optimizer](model.parameters())
    trained(model, x, y, optimizer)
    objects, before = dict(model.named_parameters()), copy.deepcopy(model.state_dict())
    states = {name: {k: v.clone() for k, v in optimizer.state[p].items()} for name, p in objects.items()}
    graph = NetworkGraph(model, x[:2])
    kept = {group.name: torch.arange(group.size).cpu()[1::2] for group in graph.groups}  # as groups are
    model.eval()
    with gated(model, graph.groups, kept):
        expected = model(x)
    readers = [(r.name, r.columns[kept[g.name]].flatten(), kept.get(r.name)) for g in graph.groups for r in g.readers]
    first = graph.groups[0].name
    remove_in_training(graph, kept, optimizer)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-6)
    for name, parameter in model.named_parameters():
        assert parameter is objects[name]
        assert parameter.dtype == torch.float32
        assert all(v.shape == parameter.shape for v in optimizer.state[parameter].values() if v.ndim)
    key = next(k for k, v in states[f"{first}.weight"].items() if v.ndim)
    now = dict(model.named_parameters())
    own = optimizer.state[now[f"{first}.weight"]][key]
    assert torch.equal(own, states[f"{first}.weight"][key][kept[first]])
    for name, columns, rows in readers:
        rows = torch.arange(len(before[f"{name}.weight"])) if rows is None else rows
        state = optimizer.state[now[f"{name}.weight"]][key]
        assert torch.equal(state, states[f"{name}.weight"][key][rows][:, columns])
        assert torch.equal(now[f"{name}.weight"], before[f"{name}.weight"][rows][:, columns])
    model.train()
    trained(model, x, y, optimizer)


# --- the hook --------------------------------------------------------------------------------------------------------


def run(hook, model, x, y, epochs=6, steps=4, optimizer=None, first=0):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for epoch in range(first, epochs):
        model.train()
        for step in range(epoch * steps, (epoch + 1) * steps):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            hook.on_step_loss(model, x, y, loss, step).backward()
            optimizer.step()
            hook.after_step(model, optimizer, step)
        if hook.on_epoch(model, optimizer, epoch):
            old = optimizer.state
            optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
            optimizer.state.update({p: old[p] for p in model.parameters() if p in old})
    return optimizer


@pytest.mark.parametrize("score", ["obs", "obd", "magnitude"])
@pytest.mark.parametrize("radius", ["kfac", "hessian"])
def test_training_ends_with_the_requested_number_of_neurons_and_survives(score, radius):
    model, (x, y) = mlp(hidden=(12, 10)), batch(40, (5,))
    hook = FlatMinimum(mu=1e-2, every=2, score=score, radius=radius)
    hook.begin(model, x, Budget("keep", 0.5), epochs=6)
    run(hook, model, x, y)
    assert model[0].out_features + model[2].out_features == 11
    assert model[2].in_features == model[0].out_features
    live = [row["live"] for row in hook.log]
    assert live == sorted(live, reverse=True)
    assert len(live) == len(hook.times)
    assert live[0] > live[-1]
    assert all(row["radius_after"] <= row["radius_before"] * (1 + 1e-9) for row in hook.log)
    assert bool(torch.isfinite(model(x)).all())


def test_a_layer_that_was_left_with_one_neuron_keeps_it_and_its_width_is_still_known():
    model, (x, y) = mlp(hidden=(3, 12)), batch(40, (5,))
    with torch.no_grad():
        model[0].weight[1:].mul_(1e-6)  # of the first layer only one neuron is worth anything
    hook = FlatMinimum(mu=0.0, every=2, score="magnitude", floor=0.0)
    hook.begin(model, x, Budget("keep", 0.4), epochs=8)
    run(hook, model, x, y, epochs=8)
    assert len(hook.log) > 2 and hook.log[0]["widths"]["0"] == hook.log[-1]["widths"]["0"] == model[0].out_features == 1
    assert hook.widths == {"0": 1, "2": model[2].out_features}


@pytest.mark.parametrize("budget", [Budget("compression", 2), Budget("speedup", 2)])
def test_convolutions_meet_a_budget_in_parameters_or_macs(budget):
    model, (x, y) = cnn(), batch(20, (2, 4, 4))
    hook = FlatMinimum(every=2, floor=0.0)
    hook.begin(model, x, budget, epochs=5)
    parameters = sum(p.numel() for p in model.parameters())
    run(hook, model, x, y, epochs=5)
    if budget.kind == "compression":
        assert parameters / sum(p.numel() for p in model.parameters()) == pytest.approx(2, rel=0.3)
    assert model[0].out_channels == model[1].num_features == model[3].in_channels < 4
    assert set(hook.factors) == {"0", "3", "6"}
    for name, factors in hook.factors.items():
        module = model.get_submodule(name)
        assert factors.A.shape[0] == module.weight[0].numel() + 1
        assert factors.G.shape[0] == len(module.weight)


def test_the_penalty_lowers_the_radius():
    (x, y), radii = batch(60, (5,)), {}
    for mu in (0.0, 0.3):
        model = mlp(hidden=(12, 10))
        hook = FlatMinimum(mu=mu, every=1, radius="hessian")
        hook.begin(model, x, Budget("keep", 0.6), epochs=12)
        run(hook, model, x, y, epochs=12, steps=10)
        radii[mu] = hessian_radius(model, x, y)[0].value
    assert radii[0.3] < 0.8 * radii[0.0]


def test_penalty_is_added_only_at_its_steps_and_only_above_the_bound():
    model, (x, y) = mlp(), batch(9, (5,))
    loss = functional.cross_entropy(model(x), y)
    hook = FlatMinimum(mu=2.0, every=3)
    hook.begin(model, x, Budget("keep", 0.5), epochs=5)
    assert hook.on_step_loss(model, x, y, loss, 1) is loss
    assert not hook.factors
    penalty = lambda: float((hook.on_step_loss(model, x, y, loss, 3) - loss).detach())  # noqa: E731
    rho = penalty() / 2
    assert rho == pytest.approx(kfac_radius(hook.factors), rel=1e-4)
    hook.bound = rho / 4
    assert penalty() == pytest.approx(2 * 0.75 * rho, rel=1e-3)
    hook.bound = 2 * rho
    assert penalty() == 0


def test_a_negative_dominating_eigenvalue_is_pushed_towards_zero(monkeypatch):
    """f = -3 a^2 / 2 + a^4: at 0 the curvature is -3, and |curvature| falls when a moves away from 0."""

    class Saddle(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.tensor([0.1], dtype=torch.float64))

        def forward(self, x):
            # half the squared error of sqrt(2 f + 6) to 0 is f + 3
            return (2 * (self.a**4 - 1.5 * self.a**2) + 6).sqrt() + 0 * x

    model, x, y = Saddle(), torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    # the saddle has no layers with factors
    monkeypatch.setattr("methods.hessian.flat_minimum.batch_radius", lambda *a, **k: (torch.tensor(0.0), {}))
    hook = FlatMinimum(mu=1.0, every=1, radius="hessian")
    penalised = hook.on_step_loss(model, x, y, torch.zeros((), dtype=torch.float64), 0)
    assert float(penalised.detach()) == pytest.approx(abs(12 * 0.1**2 - 3))
    [gradient] = torch.autograd.grad(penalised, model.parameters())
    assert float(gradient) == pytest.approx(-24 * 0.1)  # d|12 a^2 - 3| / da


def test_an_interrupted_training_continues_with_the_same_network():
    (x, y), budget = batch(40, (5,)), Budget("keep", 0.5)
    whole, hook = mlp(hidden=(12, 10)), FlatMinimum(mu=1e-2, every=2)
    hook.begin(whole, x, budget, epochs=6)
    run(hook, whole, x, y)

    part, hook = mlp(hidden=(12, 10)), FlatMinimum(mu=1e-2, every=2)
    hook.begin(part, x, budget, epochs=6)
    optimizer = run(hook, part, x, y, epochs=3)
    kept = {key: v.clone() if isinstance(v, torch.Tensor) else copy.deepcopy(v) for key, v in hook.state().items()}
    moments = {name: optimizer.state[p]["momentum_buffer"] for name, p in part.named_parameters()}
    again, hook = mlp(seed=5, hidden=(12, 10)), FlatMinimum(mu=1e-2, every=2)
    hook.begin(again, x, budget, epochs=6)
    hook.restore(again, kept)
    again.load_state_dict(part.state_dict())
    optimizer = torch.optim.SGD(again.parameters(), 0.1, momentum=0.9)
    for name, parameter in again.named_parameters():
        optimizer.state[parameter]["momentum_buffer"] = moments[name].clone()
    run(hook, again, x, y, first=3, optimizer=optimizer)
    assert hook.log[-1]["widths"] == {"0": again[0].out_features, "2": again[2].out_features}
    for key, value in again.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[key], rtol=0, atol=1e-6)


def test_impossible_requests_are_explained_before_any_training():
    model, (x, _) = mlp(), batch(4, (5,))
    with pytest.raises(BadInput, match="cannot be reached"):
        FlatMinimum(floor=0.5).begin(model, x, Budget("keep", 0.2), epochs=5)
    with pytest.raises(BadInput, match="at least one epoch"):
        FlatMinimum().begin(model, x, Budget("keep", 0.5), epochs=0)
    with pytest.raises(BadInput, match="kfac, hessian"):
        FlatMinimum(radius="trace")
    with pytest.raises(BadInput, match="negative"):
        FlatMinimum(mu=-1)


def test_without_a_begin_it_is_a_hook_that_removes_nothing():
    hook = FlatMinimum()
    assert isinstance(hook, TrainingHook)
    assert hook.on_epoch(nn.Linear(1, 1), torch.optim.SGD([torch.zeros(1)]), 0) is False


def test_a_loss_that_is_not_finite_ends_the_training():
    x, y = batch(8, (5,))
    schedule = FlatMinimum(mu=1.0, every=1)
    with pytest.raises(Collapsed, match="step 3.*schedule.mu=0.1"):
        schedule.on_step_loss(mlp(), x, y, torch.tensor(float("nan")), 3)
