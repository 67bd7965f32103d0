"""EigenDamage: rotations that change nothing, damages that sum to the quadratic form, costs that are the true ones."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from methods.budgets.budget import Budget
from methods.curvature.eigenbasis import (
    RotatedLayer,
    channel_factor,
    damage,
    eigenbasis,
    kernels,
    rotate,
    rotated_layer,
)
from methods.curvature.kfac import Factors
from methods.errors import BadInput, Skipped
from methods.hessian.eigendamage import EigenDamage, eigen_layers
from methods.layers.statistics import Calibration
from methods.network.counting import count_macs
from methods.pruner import Pruner
from methods.schedule import Iterative


def spd(size, generator):
    root = torch.randn(size, size + 2, generator=generator, dtype=torch.float64)
    return root @ root.T / size


def vgg(seed=0, width=8):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(2 * width * 9, 20), nn.ReLU(), nn.Linear(20, 4),
    ).eval()  # fmt: skip


def samples(n=12, shape=(3, 6, 6), seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, *shape, generator=generator)
    return Calibration(inputs, torch.randint(4, (n,), generator=generator), torch.arange(n), seed=1, batch_size=8)


def every(basis):
    return torch.arange(len(basis.inputs)), torch.arange(len(basis.outputs))


def random_basis(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    out, inputs = module.weight.shape[:2]
    return eigenbasis(Factors(spd(inputs, generator), spd(out, generator)))


LAYERS = [
    (lambda: nn.Linear(5, 4), (7, 5)),
    (lambda: nn.Linear(5, 4, bias=False), (2, 3, 5)),
    (lambda: nn.Conv2d(3, 6, 3, stride=2, padding=1), (2, 3, 7, 8)),
    (lambda: nn.Conv2d(4, 3, (2, 3), padding="same", dilation=2, bias=False), (2, 4, 7, 8)),
]


@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize(("build", "shape"), LAYERS)
def test_with_all_directions_the_three_layers_compute_the_same(build, shape):
    torch.manual_seed(0)
    module, inputs = build(), torch.randn(shape)
    basis = random_basis(module)
    once = rotated_layer(module, basis, *every(basis))
    torch.testing.assert_close(once(inputs), module(inputs), rtol=0, atol=1e-5)
    second = random_basis(once.core, seed=1)
    twice = rotated_layer(once, second, *every(second))
    assert len(twice) == 3
    torch.testing.assert_close(twice(inputs), module(inputs), rtol=0, atol=1e-5)
    assert (twice[2].bias is None) == (module.bias is None)


@pytest.mark.verifies("eigendamage", by="brute force")
def test_removed_directions_are_exactly_the_zeroed_rows_and_columns_of_the_rotated_weight():
    torch.manual_seed(0)
    module, inputs = nn.Conv2d(4, 6, 3, padding=1), torch.randn(2, 4, 5, 5)
    basis = random_basis(module)
    columns, rows = torch.tensor([0, 3]), torch.tensor([1, 2, 5])
    mask = torch.zeros(6, 4, 1, dtype=torch.float64)
    mask[rows[:, None], columns] = 1
    zeroed = torch.einsum("rck,or,ic->oik", rotate(kernels(module), basis) * mask, basis.outputs, basis.inputs)
    gated = copy.deepcopy(module)
    with torch.no_grad():
        gated.weight.copy_(zeroed.view_as(module.weight))
    removed = rotated_layer(module, basis, columns, rows)
    torch.testing.assert_close(removed(inputs), gated(inputs), rtol=0, atol=1e-5)
    assert sum(p.numel() for p in removed.parameters()) == 4 * 2 + 2 * 3 * 9 + 3 * 6 + 6


@pytest.mark.verifies("eigendamage", by="closed form")
@settings(deadline=None, max_examples=40)
@given(out=st.integers(1, 5), inputs=st.integers(1, 5), positions=st.integers(1, 4), seed=st.integers(0, 9999))
def test_damages_sum_to_the_quadratic_form(out, inputs, positions, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, inputs, positions, generator=generator, dtype=torch.float64)
    factors = Factors(spd(inputs, generator), spd(out, generator))
    basis = eigenbasis(factors)
    damages = damage(rotate(weight, basis), torch.outer(basis.output_values, basis.input_values)[:, :, None])
    fisher = torch.kron(factors.G, factors.A)
    form = sum(weight[:, :, k].flatten() @ fisher @ weight[:, :, k].flatten() for k in range(positions))
    assert damages.shape == (out, inputs)
    assert bool((damages >= 0).all())
    torch.testing.assert_close(damages.sum(), form)


def test_channel_factor_averages_the_kernel_positions_blocks():
    generator = torch.Generator().manual_seed(0)
    full = spd(3 * 4 + 1, generator)  # three channels, four positions, a bias
    expected = torch.zeros(3, 3, dtype=torch.float64)
    for k in range(4):
        index = torch.arange(3) * 4 + k
        expected += full[index][:, index] / 4
    torch.testing.assert_close(channel_factor(full, 3), expected)


@pytest.mark.parametrize("name", ["0", "3", "6"])
def test_ekfac_curvature_is_the_mean_square_of_rotated_single_gradients(name):
    model, calibration = vgg(width=3).double(), samples(5)
    calibration = Calibration(calibration.inputs.double(), calibration.labels, calibration.indices)
    plan = EigenDamage("ekfac", labels="true").plan(model, calibration)
    layer = next(layer for layer in plan.layers if layer.name == name)
    module, total = model.get_submodule(name), 0
    for x, y in zip(calibration.inputs, calibration.labels, strict=True):
        model.zero_grad()
        functional.cross_entropy(model(x[None]), y[None]).backward()
        gradient = module.weight.grad.reshape(*module.weight.shape[:2], -1)
        total = total + rotate(gradient, layer.basis).square() / len(calibration)
    damages = (rotate(kernels(module), layer.basis).square() * total).sum(2)
    torch.testing.assert_close(layer.rows, damages.sum(1))
    torch.testing.assert_close(layer.columns, damages.sum(0))


@pytest.mark.parametrize("scaling", ["kfac", "ekfac"])
@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8, 1.0])
def test_predicted_cost_is_that_of_the_built_network(scaling, fraction):
    model, calibration = vgg(), samples()
    plan = EigenDamage(scaling).plan(model, calibration)
    counts = plan.family(fraction)
    built = plan.build(counts)
    cost = plan.cost(counts)
    assert cost.compression == sum(p.numel() for p in built.parameters())
    assert cost.speedup == count_macs(built, calibration.inputs)
    assert cost.keep == sum(counts.values()) == sum(row["kept"] for row in plan.report(counts))
    for row in plan.report(counts):
        assert row["split"] == isinstance(built.get_submodule(row["name"]), RotatedLayer)
    if fraction == 1.0:
        assert cost == plan.dense == EigenDamage(scaling).dense_cost(model, calibration.inputs)
    assert built(calibration.inputs).shape == (12, 4)


def test_everything_kept_is_the_network_itself():
    model, calibration = vgg(), samples()
    plan = EigenDamage().plan(model, calibration)
    built = plan.build(plan.family(1.0))
    assert not any(isinstance(module, RotatedLayer) for module in built.modules())
    torch.testing.assert_close(built(calibration.inputs), model(calibration.inputs), rtol=0, atol=0)
    assert built is not model


def test_costs_never_rise_when_directions_go():
    plan = EigenDamage(floor=0.01).plan(vgg(), samples())
    costs = [plan.cost(plan.family(step / 100)) for step in range(101)]
    for smaller, larger in itertools.pairwise(costs):
        assert smaller.compression <= larger.compression
        assert smaller.speedup <= larger.speedup


def test_family_is_monotone_keeps_the_most_important_and_respects_the_floor():
    plan = EigenDamage(floor=0.25).plan(vgg(), samples())
    last = None
    for step in range(21):
        counts = plan.family(step / 20)
        assert all(counts[key] >= 0.25 * size for key, size in plan.sizes.items())
        assert last is None or all(counts[key] >= last[key] for key in counts)
        last = counts
    assert last == plan.sizes
    half = plan.family(0.5)
    threshold = {
        key: values.sort(descending=True).values[half[key] - 1]
        for layer in plan.layers
        for key, values in ((f"{layer.name}/columns", layer.columns), (f"{layer.name}/rows", layer.rows))
        if half[key] > 0.25 * len(values) + 1
    }
    dropped = [
        values.sort(descending=True).values[half[key] :]
        for layer in plan.layers
        for key, values in ((f"{layer.name}/columns", layer.columns), (f"{layer.name}/rows", layer.rows))
    ]
    assert min(threshold.values()) >= max(values.max() for values in dropped if len(values))


@pytest.mark.parametrize("budget", [Budget("compression", 1.7), Budget("speedup", 3.0), Budget("keep", 0.5)])
def test_restructured_network_meets_the_budget_and_the_model_is_untouched(budget):
    model, calibration = vgg(width=16), samples()
    state = copy.deepcopy(model.state_dict())
    new, cost, rows, note = EigenDamage().restructure(model, calibration, budget)
    dense = EigenDamage().plan(model, calibration).dense
    achieved = cost.achieved(dense)[budget.kind]
    # splitting a layer is a jump, so that not every size can be reached
    assert achieved == pytest.approx(budget.value, rel=0.2)
    assert (note is None or "nearest" not in note) == (abs(achieved / budget.value - 1) <= 0.01)
    assert ("left as they are" in (note or "")) == any(not r["split"] and r["kept"] < r["units"] for r in rows)
    assert sum(p.numel() for p in new.parameters()) == cost.compression
    assert {row["name"] for row in rows} == {"0", "3", "6"}
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert isinstance(model[3], nn.Conv2d)


def test_pruning_again_rotates_the_cores_only():
    model, calibration = vgg(), samples()
    dense = EigenDamage().plan(model, calibration).dense
    once, *_ = EigenDamage().restructure(model, calibration, Budget("compression", 2))
    plan = EigenDamage().plan(once, calibration)
    assert plan.dense.compression == sum(p.numel() for p in once.parameters())
    assert plan.dense.speedup == count_macs(once, calibration.inputs)
    twice, cost, _, _ = EigenDamage().restructure(once, calibration, Budget("compression", 4), dense)
    assert sum(p.numel() for p in twice.parameters()) == cost.compression
    assert dense.compression / cost.compression == pytest.approx(4, rel=0.1)
    depth = [name.count(".") for name, module in twice.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert max(depth) == 1  # three layers, not three within three


def test_initial_weights_come_back_as_their_projection_on_the_kept_directions():
    """Against the projection U U^T W V V^T by hand, and least squares after training has bent them."""
    torch.manual_seed(5)
    plan, initial = EigenDamage().plan(vgg(), samples()), vgg(seed=7)
    built = plan.build(plan.family(0.3))
    split = {path: module for path, module in built.named_modules() if isinstance(module, RotatedLayer)}
    assert split
    for path, module in split.items():
        for bent in (False, True):
            if bent:
                module[0].weight.data.add_(0.3 * torch.randn_like(module[0].weight))
            module.take_coordinates(initial.get_submodule(path))
            inputs, outputs = module[0].weight.double().flatten(1).T, module[2].weight.double().flatten(1)
            weight = kernels(initial.get_submodule(path))
            core = kernels(module.core)
            for position in range(weight.shape[2]):
                left = torch.linalg.lstsq(outputs, weight[:, :, position], driver="gelsd").solution
                best = torch.linalg.lstsq(inputs, left.T, driver="gelsd").solution.T
                torch.testing.assert_close(core[:, :, position], best, rtol=1e-4, atol=1e-5)
                if not bent:
                    projected = outputs @ outputs.T @ weight[:, :, position] @ inputs @ inputs.T
                    torch.testing.assert_close(outputs @ best @ inputs.T, projected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(module[2].bias, initial.get_submodule(path).bias)


@pytest.mark.parametrize(("build", "shape"), LAYERS)
@pytest.mark.filterwarnings("ignore:Using padding")
def test_with_all_directions_the_coordinates_of_another_layer_are_that_layer(build, shape):
    torch.manual_seed(0)
    module, other, inputs = build(), build(), torch.randn(shape)
    basis = random_basis(module)
    layer = rotated_layer(module, basis, *every(basis))
    layer.take_coordinates(other)
    torch.testing.assert_close(layer(inputs), other(inputs), rtol=0, atol=1e-5)


def test_a_schedule_that_rewinds_gives_initial_weights_to_layers_split_or_not():
    model, initial = vgg(width=16), vgg(seed=7, width=16)
    pruner = Pruner(EigenDamage(), schedule=Iterative(3, "exponential", rewind="init"))
    between = []

    def train(network, masks, step):
        between.append(copy.deepcopy(network.state_dict()))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))

    torch.manual_seed(3)
    pruned = pruner.prune(model, samples(), Budget("compression", 3), train=train, rewind=initial)
    own = pruned.model
    split = [path for path, module in own.named_modules() if isinstance(module, RotatedLayer)]
    assert split and len(between) == 2
    assert torch.equal(own[8].weight, initial[8].weight) and torch.equal(own[1].weight, initial[1].weight)
    for path in split:
        rewound = copy.deepcopy(own.get_submodule(path))
        rewound.take_coordinates(initial.get_submodule(path))
        assert torch.equal(rewound.core.weight, own.get_submodule(path).core.weight)


def test_directions_that_the_data_never_uses_go_without_loss():
    model, calibration = vgg(), samples(12)
    plan = EigenDamage().plan(model, calibration)
    [layer] = [layer for layer in plan.layers if layer.name == "6"]
    used = int((layer.basis.input_values > 1e-9 * layer.basis.input_values.max()).sum())
    assert used == 12  # as many as samples, of 144
    built = plan.build(plan.sizes | {"6/columns": used})
    assert isinstance(built[6], RotatedLayer)
    torch.testing.assert_close(built(calibration.inputs), model(calibration.inputs), rtol=0, atol=1e-5)


def test_fixed_rotations_do_not_train():
    plan = EigenDamage(fixed_rotation=True).plan(vgg(), samples())
    built = plan.build(plan.family(0.3))
    rotated = [module for module in built.modules() if isinstance(module, RotatedLayer)]
    assert rotated
    for layer in rotated:
        assert [part.weight.requires_grad for part in layer] == [False, True, False]


def test_the_last_layer_is_left_alone_and_one_layer_is_not_enough():
    assert eigen_layers(vgg(), samples().inputs) == ["0", "3", "6"]
    with pytest.raises(Skipped, match="one layer"):
        EigenDamage().plan(nn.Linear(4, 2), samples(shape=(4,)))


def test_unknown_choices_are_explained():
    with pytest.raises(BadInput, match="kfac or ekfac"):
        EigenDamage("diagonal")
    with pytest.raises(BadInput, match="floor"):
        EigenDamage(floor=1.0)
