"""Exact compression: bounds hold, the integer programme is exact, and no input of the domain tells networks apart."""

import copy
import itertools

import pytest
import torch
from networks import calibration, make, noise, uniform
from torch import nn

from benchmarks.cells import cell
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from methods.allocation import Global
from methods.budgets.budget import Budget
from methods.compensation import LeastSquares
from methods.errors import BadInput, Skipped
from methods.exact.bounds import Clock, Programme, after_relu, interval, relaxed
from methods.exact.chain import Affine, chain_of, forward
from methods.exact.compression import CLOSED, OPEN, UNKNOWN, UNSTABLE, ExactCompression, dependent, states_on
from methods.layers.statistics import Calibration
from methods.pruner import Pruner

HALF = Budget("keep", 0.5)


def network(seed=0, widths=(4, 8, 7, 3), shift=0.0, scale=1.0):
    """Random layers in double precision; ``shift`` spreads the biases, so that ReLUs become stable."""
    layers = []
    for number, (inputs, out) in enumerate(itertools.pairwise(widths)):
        linear = nn.Linear(inputs, out).double()
        with torch.no_grad():
            linear.weight.copy_(scale * noise(out, inputs, seed=100 * seed + number, dtype=torch.float64))
            linear.bias.copy_(shift * noise(out, seed=100 * seed + 50 + number, dtype=torch.float64))
        layers += [linear, nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def samples(width=4, count=20, seed=3):
    return Calibration(uniform(count, width, seed=seed, dtype=torch.float64), torch.zeros(count, dtype=torch.int64))


def box(width=4):
    """Bounds are found on the CPU."""
    return torch.zeros(width, dtype=torch.float64, device="cpu"), torch.ones(width, dtype=torch.float64, device="cpu")


def points(width=4, count=4000, seed=9):
    """Random points of the unit box, and all its corners."""
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=width)), dtype=torch.float64)
    return torch.cat([uniform(count, width, seed=seed, dtype=torch.float64), corners])


def counterexample(first, second, width, rounds=40, seed=0):
    """The largest difference that a search finds: random starts, each moved coordinate by coordinate where it grows."""

    def apart(x):
        with torch.no_grad():
            return (first(x) - second(x)).abs().amax(1)

    x = torch.cat([points(width, 500, seed), points(width, 100, seed + 1)])
    best = apart(x)
    for number in range(rounds):
        step = 0.5 ** (1 + number % 8) * noise(*x.shape, seed=1000 * seed + number, dtype=torch.float64)
        tried = (x + step).clamp(0, 1)
        found = apart(tried)
        x, best = torch.where((found > best)[:, None], tried, x), torch.maximum(best, found)
    return float(best.max())


# --- bounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_bounds_hold_everywhere_and_relaxation_is_never_wider(seed):
    layers = chain_of(network(seed, shift=0.5), samples().inputs)
    boxes, wide = [], box()
    for number, layer in enumerate(layers):
        wide = interval(layer, after_relu(wide) if number else box())
        tight = relaxed(layers[: number + 1], boxes, box())
        reached = forward(layers[: number + 1], points().cpu())
        for low, high in (wide, tight):
            assert bool((low <= reached.min(0).values + 1e-9).all()) and bool(
                (high >= reached.max(0).values - 1e-9).all()
            )
        if number == 0:  # one layer takes its bounds in corners
            assert torch.allclose(wide[0], reached.min(0).values) and torch.allclose(wide[1], reached.max(0).values)
        boxes.append((torch.maximum(wide[0], tight[0]), torch.minimum(wide[1], tight[1])))
    assert float((tight[1] - tight[0]).sum()) < float((wide[1] - wide[0]).sum())


def test_a_relaxation_by_hand():
    """z = h1 - h2 with h1 = relu(x), h2 = relu(x - 0.5), for x in [-1, 1]."""
    layers = [
        Affine("a", torch.tensor([[1.0], [1.0]]).double(), torch.tensor([0.0, -0.5]).double()),
        Affine("b", torch.tensor([[1.0, -1.0]]).double(), torch.zeros(1).double()),
    ]
    domain = (-torch.ones(1).double(), torch.ones(1).double())
    boxes = [interval(layers[0], domain)]
    # h1 <= (x + 1) / 2; l2 = -1.5, u2 = 0.5, so that h2 >= 0 (the smaller triangle); largest at x = 1
    assert float(relaxed(layers, boxes, domain)[1]) == pytest.approx(1.0)
    # h1 >= 0 (u is no larger than -l), h2 <= (x + 1) / 4: smallest at x = 1
    assert float(relaxed(layers, boxes, domain)[0]) == pytest.approx(-0.5)
    assert float(interval(layers[1], after_relu(boxes[0]))[0]) == -0.5


@pytest.mark.verifies("exact", by="brute force")
@pytest.mark.parametrize("seed", range(3))
def test_the_integer_programme_finds_the_largest_value(seed):
    """Against a maximum over all patterns of open and closed ReLUs, each a linear programme of its own."""
    from scipy.optimize import linprog

    layers = chain_of(network(seed, widths=(3, 5, 2), shift=0.3), samples(3).inputs)
    first, last = layers
    boxes = [interval(first, box(3))]
    programme = Programme(layers[:1], boxes, box(3))
    for unit in range(2):
        best = -float("inf")
        for pattern in itertools.product([0.0, 1.0], repeat=5):
            sign = torch.tensor(pattern).double().cpu()
            weight = (last.weight[unit] * sign) @ first.weight
            constant = float(last.bias[unit] + (last.weight[unit] * sign) @ first.bias)
            side = (1 - 2 * sign)[:, None] * first.weight  # open: -z <= 0; closed: z <= 0
            limit = -(1 - 2 * sign) * first.bias
            found = linprog(-weight.numpy(), A_ub=side.numpy(), b_ub=limit.numpy(), bounds=[(0, 1)] * 3)
            best = max(best, constant - found.fun) if found.status == 0 else best
        assert programme.largest(last.weight[unit], float(last.bias[unit]), 30) == (pytest.approx(best, abs=1e-5), True)


def test_without_time_nothing_is_claimed():
    layers = chain_of(network(1, widths=(6, 30, 30, 3)), samples(6).inputs)
    boxes = [interval(layers[0], box(6))]
    found = states_on(box(6), layers[:1], boxes, layers[1], Clock(0.0), samples(6).inputs[:1].cpu())
    assert UNKNOWN in found.states and found.proved["by_programme"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_states_are_true(seed):
    layers = chain_of(network(seed, shift=2.0), samples().inputs)
    boxes = [interval(layers[0], box())]
    found = states_on(box(), layers[:1], boxes, layers[1], Clock(60.0), samples().inputs.cpu())
    reached = forward(layers[:2], points().cpu())
    for unit, state in enumerate(found.states):
        low, high = float(reached[:, unit].min()), float(reached[:, unit].max())
        assert (state == CLOSED) <= (high <= 1e-6) and (state == OPEN) <= (low >= -1e-6)
        assert (state == UNSTABLE) <= (low < 0 < high)
    assert UNKNOWN not in found.states and {OPEN, CLOSED} & set(found.states)


# --- the network ----------------------------------------------------------------------------------------------------


def compressed(model, width=4, **options):
    options = {"low": 0.0, "high": 1.0} | options
    return Pruner(ExactCompression(**options)).prune(model, samples(width), HALF)


@pytest.mark.verifies("exact", by="brute force")
@pytest.mark.parametrize("seed", range(4))
def test_no_input_of_the_domain_tells_the_networks_apart(seed):
    model = network(seed, widths=(4, 10, 9, 8, 3), shift=2.0)
    before = copy.deepcopy(model.state_dict())
    found = compressed(model)
    assert counterexample(model, found.model, 4, seed=seed) <= 1e-6
    assert sum(layer["kept"] for layer in found.layers) < 27  # and something has gone
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert "the function is the same" in found.note


def test_the_global_random_state_stays_and_a_second_run_gives_the_same():
    model = network(3, shift=2.0)
    state = torch.get_rng_state()
    first, second = compressed(model), compressed(model)
    assert torch.equal(torch.get_rng_state(), state)
    pairs = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_search_would_find_a_difference():
    model, other = network(0, shift=2.0), network(0, shift=2.0)
    with torch.no_grad():
        other[-1].weight[0, 0] += 1e-3
    assert counterexample(model, other, 4) > 1e-6


def test_closed_units_go_and_dependent_open_ones_are_merged():
    model = network(2, widths=(3, 6, 2))
    with torch.no_grad():
        model[1].bias[:] = torch.tensor([-100.0, 100.0, 100.0, 100.0, 100.0, 0.0]).double()
        model[1].weight[4] = 2 * model[1].weight[1] - model[1].weight[2]
    found = compressed(model, 3)
    [row] = found.layers
    assert (row["removed"], row["merged"], row["folded"], row["kept"]) == (1, 1, 0, 4)
    assert row["by_interval"] == 5 and counterexample(model, found.model, 3) <= 1e-6


def test_a_layer_that_is_always_open_is_folded_where_that_is_smaller():
    model = network(1, widths=(3, 9, 5, 2))
    with torch.no_grad():
        model[1].bias += 100.0
    found = compressed(model, 3)
    assert found.layers[0]["folded"] == 9 and found.layers[0]["kept"] == 0
    left = [module for module in found.model if isinstance(module, nn.Linear)]
    assert isinstance(found.model[1], nn.Identity) and left[0].in_features == 3
    assert counterexample(model, found.model, 3) <= 1e-6
    narrow = network(1, widths=(9, 2, 9))  # 36 weights in two layers, 81 in one
    with torch.no_grad():
        narrow[1].bias += 100.0
    assert compressed(narrow, 9).layers[0]["folded"] == 0


def test_programmes_prove_what_bounds_leave_open():
    gained = 0
    for seed in range(8):
        model = network(seed, widths=(3, 6, 8, 2), shift=1.5)
        without, with_them = (compressed(model, 3, seconds=seconds) for seconds in (0, 60))
        counts = [sum(layer["kept"] for layer in found.layers) for found in (without, with_them)]
        assert counts[1] <= counts[0] and counterexample(model, with_them.model, 3) <= 1e-6
        gained += sum(layer["by_programme"] for layer in with_them.layers)
    assert gained > 0


def test_on_calibration_data_only_is_said_so_and_can_differ_elsewhere():
    apart, kept = [], []
    for seed in range(4):
        model = network(seed, widths=(4, 12, 8, 3), shift=1.0)
        data = samples(count=6)
        found = Pruner(ExactCompression("calibration")).prune(model, data, HALF)
        with torch.no_grad():
            assert torch.allclose(found.model(data.inputs), model(data.inputs), atol=1e-9)
        assert "on calibration data only, not proved" in found.note
        apart.append(counterexample(model, found.model, 4))
        kept.append(
            sum(layer["kept"] for layer in found.layers) - sum(layer["kept"] for layer in compressed(model).layers)
        )
    assert max(apart) > 1e-3 and min(kept) <= 0


def test_combinations_are_exact_or_not_made():
    weight = noise(3, 5, dtype=torch.float64)
    rows = torch.cat([weight, (weight[0] + 2 * weight[1])[None], torch.zeros(1, 5, dtype=torch.float64)]).cpu()
    basis, combined = dependent(rows, range(5))
    assert len(basis) == 3 and set(basis) | set(combined) == set(range(5))
    for unit, coefficients in combined.items():
        assert torch.allclose(coefficients @ rows[basis], rows[unit], atol=1e-9)
    assert dependent(rows, []) == ([], {})
    near = torch.cat([weight, weight[:1] + 1e-6 * noise(1, 5, seed=1, dtype=torch.float64)]).cpu()
    assert dependent(near, range(4))[1] == {}  # independent, if hardly


def test_networks_of_another_form_are_left_alone():
    for name in ("convolution", "batch_norm", "residual"):
        with pytest.raises(Skipped, match="chains of linear layers"):
            Pruner(ExactCompression(low=-9.0, high=9.0)).prune(make(name), calibration(8), HALF)

    class Shifted(nn.Sequential):
        def forward(self, x):
            return super().forward(x) + 1

    with pytest.raises(Skipped, match="does something between"):
        compressed(Shifted(*network()))


def test_what_cannot_be_is_refused():
    with pytest.raises(BadInput, match="outside of the domain"):
        compressed(network(), low=0.4, high=0.5)
    with pytest.raises(BadInput, match=r"selection\.low=0 selection\.high=1"):
        Pruner(ExactCompression()).prune(network(), samples(), HALF)
    for options in ({"low": 1.0}, {"low": 1.0, "high": 0.0}, {"seconds": -1.0}, {"scope": "all"}):
        with pytest.raises(BadInput, match="selection"):
            ExactCompression(**options)
    with pytest.raises(BadInput, match="compensation=none"):
        Pruner(ExactCompression(low=0.0, high=1.0), compensation=LeastSquares())
    with pytest.raises(BadInput, match="would do nothing"):
        Pruner(ExactCompression(low=0.0, high=1.0), allocation=Global())


def test_the_domain_of_pixels_is_that_of_the_normalisation():
    inputs = torch.zeros(1, 2, 2, 2)
    low, high = ExactCompression(mean=[0.5, 0.25], std=[0.5, 0.25]).domain(inputs)
    assert low.tolist() == [-1.0] * 8 and high.tolist() == [1.0] * 4 + [3.0] * 4


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["domain", "calibration"])
def test_a_cell_keeps_its_accuracy(scope, tmp_path):
    words = [
        "dataset=digits", "dataset.limit=200", "model=mlp", "model.widths=[20,20]", "trainer=tiny",
        "trainer.finetune.epochs=0", "calibration.samples=50", "track=none", "measure=none", "method=exact",
        f"selection.scope={scope}", "selection.seconds=1",
        f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache",
    ]  # fmt: skip
    found = cell.run(Composer(CONF).cell(words))
    assert found.status == "done" and "not consulted" in found.budget.note
    if scope == "domain":
        assert found.metrics.pruned.loss == pytest.approx(found.metrics.dense.loss, rel=1e-4)
