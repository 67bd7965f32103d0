"""Every method in conf/method keeps the promises of secateurs.testing on every kind of network.

A new method is found by itself; one that prunes edges or draws random numbers is named in the sets below.
"""

from functools import cache
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from benchmarks.cells.parts import build_pruner
from benchmarks.sweeps.composition import Composer
from methods.budgets.budget import Budget
from secateurs.examples import WIDE, calibration, make
from secateurs.presets import pruner_of
from secateurs.promises import PLACES, PROMISES, Trial
from secateurs.testing import check_one

CONF = Path(__file__).parents[2] / "conf"
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
EDGES = {
    "alps", "cbs", "chita", "dpp_edge", "exact_obs", "gradual_magnitude", "grasp", "lamp", "lottery_ticket", "lq",
    "lq_greedy", "lq_lasso", "magnitude_edge", "mfac", "movement", "obd", "obs", "one_shot", "random_edge", "rigl",
    "sap", "set", "sipp", "snip", "sparsegpt", "surp", "synflow", "wanda", "wood_taylor",
}  # fmt: skip
EIGEN = {"eigendamage"}
BLOCKS, EXACT, RANKS = {"depth"}, {"exact"}, {"low_rank"}  # their promises: tests/methods/depth, exact, lowrank
STOCHASTIC = {"banzhaf", "cbs", "dpp", "dpp_edge", "random", "random_edge", "rigl", "set", "shapley", "surp"}
QUICK = {
    "banzhaf": ["selection.draws=4"],
    "cbs": ["selection.trials=3", "selection.passes=5"],
    "hap": ["selection.probes=20"],
    "shapley": ["selection.draws=1", "selection.batch=16"],
}
ONLY = {"slimming": ("batch_norm",)}  # networks of methods that refuse others, which tests of their own look at


def unit(method):
    units = {"edge": EDGES, "eigen": EIGEN, "block": BLOCKS, "exact": EXACT, "rank": RANKS}
    return next((unit for unit, methods in units.items() if method in methods), "node")


@cache
def pruner(method):
    return pruner_of(method, overrides=QUICK.get(method, []))


def slow_but_for(method, quick="magnitude"):
    """The quick round has all promises of one method."""
    return () if method == quick else pytest.mark.slow


CASES = [
    pytest.param(
        promise, method, network, id=f"{method}-{promise.check.__name__}-{network}", marks=slow_but_for(method)
    )
    for method in METHODS
    for promise in PROMISES
    for network in promise.networks
    if unit(method) in promise.units and network in ONLY.get(method, PLACES)
]


@pytest.mark.parametrize("promise,method,network", CASES)
def test_promise(promise, method, network, device):
    """A method that refuses a network fails here, too: all of these suit every method."""
    found = check_one(promise, Trial(pruner(method), network, stochastic=method in STOCHASTIC, device=device))
    assert found.status == "kept", found.message


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_units_are_as_this_file_says(method):
    assert pruner(method).selection.unit == unit(method)


def test_every_promise_is_asked_for_somewhere():
    assert {place for promise in PROMISES for place in promise.networks} == set(PLACES)
    assert {promise.check for promise in PROMISES} == {case.values[0].check for case in CASES}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spectral", "dpp", "magnitude", "random", "thinet"])
def test_half_of_the_macs_to_a_percent(method):
    pruned = pruner(method).prune(make(WIDE), calibration(64), Budget("speedup", 2.0))
    assert pruned.achieved["speedup"] == pytest.approx(2, rel=0.01) and pruned.note is None


COMPOSER = Composer(CONF)
PLAIN = {"compensation": "none", "allocation": "uniform", "schedule": "one_shot"}


@cache
def configuration(method, *words):
    return COMPOSER.cell([f"method={method}", *QUICK.get(method, []), *words])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_names_itself_and_sets_no_option_of_a_part_that_the_user_may_swap(method):
    config = configuration(method)
    assert config["method"]["name"] == method
    build_pruner(config)
    for part, plain in PLAIN.items():
        choice = OmegaConf.to_container(OmegaConf.load(CONF / part / f"{plain}.yaml"))
        if config[part] != choice:  # else it is swapped
            swapped = configuration(method, f"{part}={plain}")
            assert swapped == config | {part: choice}
            build_pruner(swapped)
