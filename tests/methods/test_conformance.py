"""Promises that every method in conf/method keeps on every kind of network; a new method is found by itself."""

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from networks import NETWORKS, calibration, make
from omegaconf import OmegaConf

from benchmarks.cells.parts import build_pruner
from benchmarks.sweeps.composition import Composer
from methods.budgets.budget import Budget
from methods.errors import Skipped
from methods.network.graph import NetworkGraph, gated

CONF = Path(__file__).parents[2] / "conf"
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
DATA = calibration(64)
QUICK = {"cbs": ["selection.trials=3", "selection.passes=5"], "hap": ["selection.probes=20"]}


COMPOSER = Composer(CONF)


@cache
def configuration(method, *words):
    return COMPOSER.cell([f"method={method}", *QUICK.get(method, []), *words])


@cache
def choice(group, name):
    return OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))


def pruner_of(method, **parts):
    """The method with other parts in the place of its own, as words such as ``schedule=one_shot`` put them there."""
    return build_pruner(configuration(method) | parts)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def outputs(model):
    with torch.no_grad():
        return copy.deepcopy(model).eval()(DATA.inputs)


def prune(method, network, budget, **parts):
    """The pruned network; a combination that the method refuses with a reason is no breach of its promises."""
    model = make(network)
    try:
        return model, pruner_of(method, **parts).prune(model, DATA, budget)
    except Skipped as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_budget_is_met_the_original_untouched_and_the_seed_decides(method, network):
    model = make(network).train()
    before, modes = state(model), [module.training for module in model.modules()]
    try:
        pruned = pruner_of(method).prune(model, DATA, Budget("keep", 0.5))
    except Skipped as reason:
        pytest.skip(str(reason))
    assert pruned.note is not None or pruned.achieved["keep"] == pytest.approx(0.5, rel=0.01)
    assert all(1 <= layer["kept"] <= layer["units"] for layer in pruned.layers)
    assert sum(layer["kept"] for layer in pruned.layers) < sum(layer["units"] for layer in pruned.layers)
    assert same(state(model), before)
    assert [module.training for module in model.modules()] == modes
    assert pruned.model.training
    assert torch.isfinite(outputs(pruned.model)).all()
    for name, mask in pruned.masks.items():
        assert bool((pruned.model.get_parameter(name)[~mask] == 0).all())
    again = pruner_of(method).prune(model, DATA, Budget("keep", 0.5))
    assert same(state(again.model), state(pruned.model))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_keeping_everything_changes_nothing(method, network):
    model, pruned = prune(method, network, Budget("keep", 1.0))
    if all(layer["kept"] == layer["units"] for layer in pruned.layers):
        assert same(state(pruned.model), state(model))
    else:
        assert pruned.note is not None  # the rule, not the budget, sizes this method's steps


@pytest.mark.parametrize("method", METHODS)
def test_steps_meet_the_budget_where_layers_run_empty(method):
    """At the last of these steps whole rows of the chain have lost their edges."""
    steps = choice("schedule", "iterative") | {"steps": 3}
    keep = 0.03 if pruner_of(method, schedule=steps).selection.unit == "edge" else 0.1
    _, pruned = prune(method, "chain", Budget("keep", keep), schedule=steps)
    assert pruned.note is not None or pruned.achieved["keep"] == pytest.approx(keep, rel=0.02)


@pytest.mark.parametrize("residual", [None, True])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_gated_equals_removed(method, network, residual):
    parts = {"compensation": choice("compensation", "none"), "schedule": choice("schedule", "one_shot")}
    if pruner_of(method, **parts).selection.unit != "node":
        pytest.skip("edges are masked, not removed")
    model, pruned = prune(method, network, Budget("keep", 0.6), prune_residual=residual, **parts)
    groups = NetworkGraph(model, DATA.inputs, residual=bool(residual)).groups
    with gated(model, groups, pruned.kept), torch.no_grad():
        expected = model.eval()(DATA.inputs)
    assert torch.allclose(outputs(pruned.model), expected, atol=1e-5)


@pytest.mark.parametrize("kind,value", [("compression", 3.0), ("speedup", 2.0)])
@pytest.mark.parametrize("method", METHODS)
def test_budgets_of_the_whole_model(method, kind, value):
    _, pruned = prune(method, "convolution", Budget(kind, value))
    assert pruned.note is not None or pruned.achieved[kind] == pytest.approx(value, rel=0.01)


PLAIN = {"compensation": "none", "allocation": "uniform", "schedule": "one_shot"}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_names_itself_and_sets_no_option_of_a_part_that_the_user_may_swap(method):
    config = configuration(method)
    assert config["method"]["name"] == method
    build_pruner(config)
    for part, plain in PLAIN.items():
        if config[part] != choice(part, plain):  # else it is swapped
            swapped = configuration(method, f"{part}={plain}")
            assert swapped == config | {part: choice(part, plain)}
            build_pruner(swapped)
