"""Penalties that prepare a pruning: their loss, what they reach, and what is removed behind them."""

import pytest
import torch
from networks import calibration, make
from torch.nn import functional

from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.errors import BadInput, Skipped
from methods.layers.views import node_views
from methods.network.graph import NetworkGraph
from methods.pruner import Pruner
from methods.sparse_training import Length
from methods.structured.growing_regularisation import GrowingRegularisation
from methods.structured.slimming import ScalePenalty, ScaleSelection

DATA = calibration(64)
BUDGET = Budget("keep", 0.5)
FORTY = Length(10, 4)


def prepared(schedule, selection, network="batch_norm", length=FORTY):
    model = make(network).train()
    pruner = Pruner(selection, schedule=schedule)
    schedule.prepare(pruner, model, DATA, BUDGET, length, 3)
    return model, pruner


def trained(schedule, model, steps, rate=0.05):
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for step in range(steps):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(DATA.inputs), DATA.labels)
        schedule.on_step_loss(model, DATA.inputs, DATA.labels, loss, step).backward()
        schedule.before_step(model, optimizer, step)
        optimizer.step()
        schedule.after_step(model, optimizer, step)


@pytest.mark.verifies("slimming", by="closed form")
def test_scales_are_summed_without_their_signs():
    model = make("batch_norm")
    with torch.no_grad():
        model[1].weight[3] = -4.0
    first, second = node_views(model, NetworkGraph(model, DATA.inputs[:2]).groups, DATA, "test")
    assert torch.equal(ScaleSelection().scores(first), model[1].weight.detach().double().abs())
    assert torch.equal(ScaleSelection().scores(second), model[4].weight.detach().double().abs())


@pytest.mark.verifies("slimming", by="closed form")
def test_slimming_adds_the_scales_to_the_loss():
    model, _ = prepared(ScalePenalty(0.01), ScaleSelection())
    loss = torch.tensor(2.0)
    total = float((model[1].weight.abs().sum() + model[4].weight.abs().sum()).detach())
    found = ScalePenalty(0.01).on_step_loss(model, DATA.inputs, DATA.labels, loss, 0)
    assert float(found.detach()) == pytest.approx(2 + 0.01 * total)


def test_slimming_makes_scales_small_and_removes_the_smallest():
    schedule = ScalePenalty(0.05)
    model, pruner = prepared(schedule, ScaleSelection())
    before = float(model[1].weight.abs().sum())
    trained(schedule, model, 40)
    assert float(model[1].weight.abs().sum()) < before
    assert schedule.on_epoch(model, None, 0)  # the last epoch counts, not the best one
    scales = model[1].weight.detach().abs()
    result = schedule.finish(pruner, model, DATA, BUDGET, 3)
    assert result.kept["0"].tolist() == scales.argsort(descending=True)[:4].sort().values.tolist()


@pytest.mark.parametrize("network", ["chain", "convolution"])
def test_slimming_leaves_networks_without_batch_norms_alone(network):
    with pytest.raises(Skipped, match="no batch norm"):
        prepared(ScalePenalty(), ScaleSelection(), network)
    with pytest.raises(Skipped, match="no batch norm scales its nodes"):
        Pruner(ScaleSelection()).prune(make(network), DATA, BUDGET)


def test_the_factor_grows_in_equal_steps_and_stays():
    schedule = GrowingRegularisation(ceiling=2.0, every=5, growth=0.5)
    prepared(schedule, MagnitudeSelection())  # 40 steps, 20 of them in four increases
    assert [schedule.factor(step) for step in (0, 4, 5, 14, 15, 20, 39)] == [0.5, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


@pytest.mark.verifies("greg", by="closed form")
@pytest.mark.parametrize("network", ["batch_norm", "convolution", "residual"])
def test_what_is_to_go_is_penalised_by_its_squares_and_nothing_else(network):
    schedule = GrowingRegularisation(ceiling=2.0, every=1, growth=0.1)
    model, pruner = prepared(schedule, MagnitudeSelection(), network, Length(1, 5))
    first = pruner.prune(model, DATA, BUDGET, 3)
    loss = torch.tensor(0.0, requires_grad=True)
    model.zero_grad()
    schedule.on_step_loss(model, DATA.inputs, DATA.labels, loss, 4).backward()
    writers = {}
    for group in NetworkGraph(model, DATA.inputs).groups:
        gone = [node for node in range(group.size) if node not in first.kept[group.name].tolist()]
        writers |= {f"{path}.weight": gone for path in group.writers}
    for name, parameter in model.named_parameters():
        wanted = torch.zeros_like(parameter)
        wanted[writers.get(name, [])] = 2.0 * parameter.detach()[writers.get(name, [])]
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(found, wanted), name


@pytest.mark.parametrize("unit", ["node", "edge"])
def test_what_was_chosen_first_has_become_small_and_is_what_goes(unit):
    schedule = GrowingRegularisation(ceiling=20.0, every=1)
    model, pruner = prepared(schedule, MagnitudeSelection(unit), "convolution", Length(1, 60))
    first = pruner.prune(model, DATA, BUDGET, 3)
    sizes = {name: float(model.get_parameter(name)[mask].abs().mean()) for name, mask in schedule.goes.items()}
    trained(schedule, model, 60)
    for name, mask in schedule.goes.items():
        assert float(model.get_parameter(name)[mask].abs().mean()) < 0.1 * sizes[name]
    result = schedule.finish(pruner, model, DATA, BUDGET, 3)
    assert result.achieved == first.achieved and result.note == first.note
    if unit == "node":
        assert all(torch.equal(kept, first.kept[name]) for name, kept in result.kept.items())
    else:
        assert all(torch.equal(mask, first.masks[name]) for name, mask in result.masks.items())


@pytest.mark.parametrize("options", [{"ceiling": 0.0}, {"every": 0}, {"growth": 0.0}, {"growth": 1.5}])
def test_growth_that_is_none_is_refused(options):
    with pytest.raises(BadInput, match="type schedule.ceiling"):
        GrowingRegularisation(**options)


def test_a_penalty_that_is_none_is_refused():
    with pytest.raises(BadInput, match="schedule.strength=0"):
        ScalePenalty(0.0)
