"""SET, RigL and movement pruning step by step, against their rules written out."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import calibration, make
from torch.nn import functional

from methods.allocation import ErdosRenyiKernel, Uniform
from methods.baselines.magnitude import MagnitudeSelection
from methods.baselines.random import RandomSelection
from methods.budgets.budget import Budget
from methods.errors import BadInput
from methods.pruner import Pruner
from methods.sparse_training import Length
from methods.unstructured.movement import Movement, MovementSelection
from methods.unstructured.rigl import RigL
from methods.unstructured.set_training import SET, without_extremes
from methods.unstructured.training_masks import with_largest, without_smallest

DATA = calibration(64)
BUDGET = Budget("keep", 0.3)


def begun(schedule, network="chain", epochs=4, per_epoch=5, selection=None, allocation=None, budget=BUDGET):
    model = make(network).train()
    pruner = Pruner(selection or RandomSelection("edge"), allocation or ErdosRenyiKernel(), schedule=schedule)
    schedule.prepare(pruner, model, DATA, budget, Length(epochs, per_epoch), 7)
    return model, pruner


def sgd(model, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, **options)
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def backward(model, step):
    chosen = torch.arange(16) + 16 * (step % 4)
    model.zero_grad()
    loss = functional.cross_entropy(model(DATA.inputs[chosen]), DATA.labels[chosen])
    loss.backward()


def one_step(schedule, model, optimizer, step):
    backward(model, step)
    schedule.before_step(model, optimizer, step)
    optimizer.step()
    schedule.after_step(model, optimizer, step)


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), size=st.integers(2, 12), live=st.integers(1, 12), count=st.integers(0, 12))
def test_the_smallest_go_and_the_largest_come(seed, size, live, count):
    generator = torch.Generator().manual_seed(seed)
    weight, growth = torch.randn(size, generator=generator), torch.randn(size, generator=generator)
    mask = torch.zeros(size, dtype=torch.bool)
    mask[torch.randperm(size, generator=generator)[:live]] = True
    count = min(count, int(mask.sum()), int((~mask).sum()))
    kept = without_smallest(mask, weight, count)
    goes = sorted(mask.nonzero().flatten().tolist(), key=lambda i: abs(float(weight[i])))[:count]
    assert (mask & ~kept).nonzero().flatten().tolist() == sorted(goes)
    grown = with_largest(kept, growth, count)
    candidates = sorted((~kept).nonzero().flatten().tolist(), key=lambda i: -float(growth[i]))[:count]
    assert (grown & ~kept).nonzero().flatten().tolist() == sorted(candidates)
    assert int(grown.sum()) == int(mask.sum()) and bool(grown[kept].all())


@pytest.mark.verifies("rigl", by="brute force")
def test_rigl_drops_small_weights_and_grows_where_the_dense_gradient_is_large():
    schedule = RigL(fraction=0.4, every=4, end=0.8)
    model, _ = begun(schedule)
    optimizer, steps = sgd(model), 20
    for step in range(steps):
        before, masks = weights(model), {name: mask.clone() for name, mask in schedule.masks.items()}
        twin = copy.deepcopy(model)
        backward(twin, step)
        gradients = {name: parameter.grad for name, parameter in twin.named_parameters()}
        one_step(schedule, model, optimizer, step)
        changes = step in (4, 8, 12)  # not at 0, not from 0.8 x 20 on
        for name, mask in masks.items():
            new = schedule.masks[name]
            if not changes:
                assert torch.equal(new, mask)
                continue
            share = 0.4 / 2 * (1 + math.cos(math.pi * step / 16))
            count = int(share * int(mask.sum()))
            stepped = before[name] * 0
            # the optimizer's step of live weights alone: momentum and decay from the masked gradient
            momentum = optimizer.state[model.get_parameter(name)]["momentum_buffer"]
            still = mask & new
            stepped[still] = before[name][still] - 0.1 * momentum[still]
            assert torch.allclose(model.get_parameter(name)[still], stepped[still], atol=1e-6)
            assert int((mask & ~new).sum()) <= count and int(new.sum()) == int(mask.sum())
            came = new & ~mask
            left_out = ~mask & ~new
            if came.any() and left_out.any():
                assert gradients[name][came].abs().min() >= gradients[name][left_out].abs().max() - 1e-7
            assert not model.get_parameter(name)[came].any() and not momentum[came].any()
        for name, mask in schedule.masks.items():
            assert not model.get_parameter(name)[~mask].any()
            assert not optimizer.state[model.get_parameter(name)]["momentum_buffer"][~mask].any()


@pytest.mark.verifies("set", by="closed form")
def test_set_loses_the_weights_next_to_zero_on_either_side():
    weight = torch.tensor([0.1, 0.2, 0.3, 0.9, -0.05, -0.5, -0.6, -0.7, 0.01])
    live = torch.tensor([True] * 8 + [False])
    kept = without_extremes(live, weight, 0.5)
    assert kept.nonzero().flatten().tolist() == [2, 3, 6, 7]


def test_set_changes_masks_after_every_epoch_but_the_last():
    schedule = SET(fraction=0.3)
    model, _ = begun(schedule, epochs=3, per_epoch=5)
    optimizer = sgd(model)
    for step in range(15):
        masks = {name: mask.clone() for name, mask in schedule.masks.items()}
        one_step(schedule, model, optimizer, step)
        changed = any(not torch.equal(mask, schedule.masks[name]) for name, mask in masks.items())
        assert changed == (step in (4, 9))
        for name, mask in schedule.masks.items():
            assert int(mask.sum()) == int(masks[name].sum())
            parameter = model.get_parameter(name)
            assert not parameter[~mask].any()
            came = mask & ~masks[name]
            assert (parameter[came] != 0).all() and not optimizer.state[parameter]["momentum_buffer"][came].any()
        if step % 5 == 4:
            assert schedule.on_epoch(model, optimizer, step // 5) == (step != 14)
    assert [row["epoch"] for row in schedule.log] == [1, 2] and all(row["grown"] > 0 for row in schedule.log)


@pytest.mark.verifies("movement", by="brute force")
def test_movement_adds_up_minus_gradient_times_weight_of_all_weights():
    """Also of masked ones, with the value that they have kept; the masks are the largest sums, layer by layer."""
    schedule = Movement(every=2, begin=0.1, end=0.6)
    model, _ = begun(schedule, epochs=2, per_epoch=10, selection=MovementSelection(), allocation=Uniform())
    optimizer = sgd(model)
    latent = {name: model.get_parameter(name).detach().clone() for name in schedule.masks}
    scores = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in latent.items()}
    came_back = 0
    for step in range(20):
        twin, follower = copy.deepcopy((model, optimizer))
        backward(twin, step)
        for name in scores:
            scores[name] -= (twin.get_parameter(name).grad * latent[name]).double()
            twin.get_parameter(name).grad.mul_(schedule.masks[name])
        follower.step()
        masks = {name: mask.clone() for name, mask in schedule.masks.items()}
        one_step(schedule, model, optimizer, step)
        # 12 steps up to the end: the last change is at step 11, those before at 2, 4, ..., 10
        assert schedule.due(step) == (step in (2, 4, 6, 8, 10, 11))
        for name, mask in schedule.masks.items():
            parameter = model.get_parameter(name).detach()
            assert torch.allclose(schedule.scores[name], scores[name], atol=1e-6)
            if schedule.due(step):
                count = int(mask.sum())
                chosen = scores[name].flatten().argsort(descending=True)[:count]
                assert mask.flatten().nonzero().flatten().tolist() == sorted(chosen.tolist())
                back = mask & ~masks[name]
                assert torch.equal(parameter[back], latent[name][back])
                came_back += int(back.sum())
            latent[name] = torch.where(masks[name], twin.get_parameter(name).detach(), latent[name])
            assert not parameter[~mask].any()
    assert came_back
    live = sum(int(mask.sum()) for mask in schedule.masks.values())
    assert live == pytest.approx(0.3 * sum(mask.numel() for mask in schedule.masks.values()), rel=0.01)


def test_the_fraction_that_stays_follows_the_cubic_curve():
    schedule = Movement(every=1, begin=0.1, end=0.6)
    begun(schedule, epochs=2, per_epoch=50, selection=MovementSelection(), allocation=Uniform())
    assert schedule.target(10).value == pytest.approx(1)
    assert schedule.target(30).value == pytest.approx(0.3 + 0.7 * (1 - 20 / 49) ** 3)
    assert schedule.target(59) == BUDGET and schedule.last == 59


@pytest.mark.parametrize("make_schedule", [lambda: RigL(every=3), lambda: SET(), lambda: Movement(every=3)])
def test_an_interrupted_training_goes_on_with_the_same_masks(make_schedule):
    """State taken in the middle and put into another object ends with the same bits."""
    selection = MovementSelection() if isinstance(make_schedule(), Movement) else None
    allocation = Uniform() if selection else None
    whole = make_schedule()
    model, _ = begun(whole, selection=selection, allocation=allocation)
    optimizer = sgd(model)
    for step in range(20):
        if step == 10:
            kept, moments = weights(model), copy.deepcopy(optimizer.state_dict())
            stored = {key: copy.deepcopy(value) for key, value in whole.state().items()}
        one_step(whole, model, optimizer, step)
    second = make_schedule()
    again, _ = begun(second, selection=selection, allocation=allocation)
    second.restore(again, stored)
    again.load_state_dict(kept, strict=False)
    resumed = sgd(again)
    resumed.load_state_dict(moments)
    for step in range(10, 20):
        one_step(second, again, resumed, step)
    assert all(torch.equal(mask, second.masks[name]) for name, mask in whole.masks.items())
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(model).items())


def test_what_comes_out_is_masked_and_says_what_it_costs():
    schedule = RigL(every=3)
    model, pruner = begun(schedule, "convolution")
    optimizer = sgd(model)
    for step in range(20):
        one_step(schedule, model, optimizer, step)
    result = schedule.finish(pruner, model, DATA, BUDGET, 7)
    assert result.unit == "edge" and result.achieved["keep"] == pytest.approx(0.3, rel=0.01)
    for layer in result.layers:
        mask = result.masks[f"{layer['name']}.weight"]
        assert (
            int(mask.sum()) == layer["kept"] and not result.model.get_parameter(f"{layer['name']}.weight")[~mask].any()
        )


def test_movement_without_a_training_is_minus_gradient_times_weight():
    from methods.layers.views import edge_views

    model = make("chain")
    [first, *_] = edge_views(model, ["1", "3", "5"], {}, DATA, "test")
    parameter = model[1].weight
    [slope] = torch.autograd.grad(functional.cross_entropy(model(DATA.inputs), DATA.labels), [parameter])
    assert torch.allclose(MovementSelection().scores(first), -(slope * parameter.detach()).double(), atol=1e-6)


@pytest.mark.parametrize("schedule", [RigL(), SET(), Movement()])
def test_nodes_have_no_masks_to_change(schedule):
    pruner = Pruner(MagnitudeSelection(), schedule=schedule)
    with pytest.raises(BadInput, match="masks of single weights"):
        schedule.prepare(pruner, make("chain"), DATA, BUDGET, Length(1, 5), 0)


def test_movement_goes_with_its_own_scores_alone():
    schedule = Movement()
    pruner = Pruner(MagnitudeSelection("edge"), schedule=schedule)
    with pytest.raises(BadInput, match="type method=movement"):
        schedule.prepare(pruner, make("chain"), DATA, BUDGET, Length(1, 5), 0)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(RigL, {"fraction": 1.0}), (RigL, {"every": 0}), (SET, {"fraction": 0.0}), (SET, {"end": 0.0}),
     (Movement, {"begin": 0.8}), (Movement, {"every": 0})],
)  # fmt: skip
def test_schedules_that_are_none_are_refused(kind, options):
    with pytest.raises(BadInput, match="type schedule"):
        kind(**options)
