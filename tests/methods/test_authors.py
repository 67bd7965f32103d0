"""Our mathematics against numbers that the authors' own programs gave; tests/golden/authors.json says how."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.compensation import LeastSquares
from methods.curvature.kfac import kfac_factors
from methods.dpp.determinantal import log_elementary_symmetric, sample_dpp
from methods.hessian.cbs import Objective, swap_pass
from methods.hessian.exact_obs import ExactOBSSelection
from methods.layers.statistics import Calibration
from methods.lq.sap import sap_masks
from methods.pruner import Pruner

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "authors.json").read_text(encoding="utf-8"))


def numbers(*shape, step, phase=0.1):
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(step * i * i + phase + 0.5 * i).reshape(shape).float()


def pruned(layer, inputs, selection, keep):
    """The (rows, columns) weights of ``layer`` after selection and least squares on its inputs."""
    samples = Calibration(inputs, torch.zeros(len(inputs), dtype=torch.long), torch.arange(len(inputs)))
    pruner = Pruner(selection, compensation=LeastSquares(ridge=0.0, refit=False))
    network = nn.Sequential(layer, nn.Identity())
    done = pruner.prune(network, samples, Budget.parse({"keep": keep}))
    return done.model[0].weight.detach().flatten(1)


def linear():
    layer = nn.Linear(8, 4, bias=False)
    layer.weight.data = numbers(4, 8, step=0.37)
    return layer, numbers(40, 8, step=0.11, phase=0.3)


@pytest.mark.verifies("exact_obs", by="authors' program")
@pytest.mark.parametrize("sparsity", ["0.25", "0.5", "0.75"])
def test_exact_obs_removes_and_repairs_as_trueobs(sparsity):
    layer, inputs = linear()
    found = pruned(layer, inputs, ExactOBSSelection(damping=0.0), 1 - float(sparsity))
    expected = torch.tensor(GOLDEN["trueobs"]["unstructured"][sparsity])
    assert torch.equal(found != 0, expected != 0)
    assert torch.allclose(found, expected, atol=2e-4)


def test_exact_obs_in_blocks_as_trueobs():
    layer, inputs = linear()
    found = pruned(layer, inputs, ExactOBSSelection(damping=0.0, block=4), 0.5)
    expected = torch.tensor(GOLDEN["trueobs"]["blocks of 4"])
    assert torch.equal(found != 0, expected != 0)
    assert torch.allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_exact_obs_with_a_pattern_as_trueobs(kind):
    """For convolutions groups of four run along input channels, position by position."""
    layer, inputs = linear()
    if kind == "convolution":
        layer = nn.Conv2d(4, 3, 3, padding=1, bias=False)
        layer.weight.data = numbers(3, 4, 3, 3, step=0.23)
        inputs = numbers(20, 4, 5, 5, step=0.07, phase=0.9)
    found = pruned(layer, inputs, ExactOBSSelection(damping=0.0, pattern="2:4"), 0.5)
    expected = torch.tensor(GOLDEN["trueobs"][f"2:4 {kind}"])
    assert torch.equal(found != 0, expected != 0)
    assert torch.allclose(found, expected, atol=2e-3)


@pytest.mark.verifies("sap", by="authors' program")
@pytest.mark.parametrize("setting", sorted(GOLDEN["sap"]))
def test_sap_keeps_what_its_authors_program_keeps(setting):
    scope, gamma, eta = (part.rpartition("=")[2] for part in setting.split())
    weights = {"0.weight": numbers(4, 8, step=0.37) ** 3, "2.weight": numbers(8, 4, step=0.53) ** 3}
    masks = sap_masks(weights, None, scope, gamma=float(gamma), eta=float(eta))
    for name, kept in GOLDEN["sap"][setting].items():
        assert masks[name].int().tolist() == kept, name


@pytest.mark.verifies("kron_obd", "kron_obs", "eigendamage", by="authors' program")
def test_kronecker_factors_multiply_to_those_of_eigendamage():
    """The papers share positions between the factors in different ways: only G (x) A is the Fisher."""
    network = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4))
    for number, parameter in enumerate(network.parameters()):
        parameter.data = numbers(*parameter.shape, step=0.21 + 0.1 * number) * 0.5
    found = kfac_factors(network, ["0", "3"], numbers(10, 2, 5, 5, step=0.07), torch.arange(10) % 4)
    for path, name in (("0", "conv"), ("3", "linear")):
        theirs = (torch.tensor(GOLDEN["kfac"][f"{name} {letter}"]).double() for letter in "GA")
        assert torch.allclose(torch.kron(found[path].G, found[path].A), torch.kron(*theirs), rtol=1e-3, atol=1e-6)


@pytest.mark.verifies("cbs", by="authors' program")
@pytest.mark.parametrize("setting", sorted(GOLDEN["cbs"]))
def test_passes_of_swaps_are_those_of_combinatorial_brain_surgeon(setting):
    """Every pass from the magnitude start exchanges the same pairs, and the objective is the same number."""
    given = {name: float(value) for name, value in (part.split("=") for part in setting.split())}
    size, reach, failures = (int(given[name]) for name in ("size", "reach", "failures"))
    weight = numbers(size, step=given["weights"]).double()
    objective = Objective(numbers(30, size, step=given["gradients"]).double(), weight)
    pruned = torch.zeros(size, dtype=torch.bool)
    pruned[weight.abs().argsort()[: size // 2]] = True
    before, *after = GOLDEN["cbs"][setting]["objective"]
    assert objective.value(pruned) == pytest.approx(before, rel=1e-7)
    assert len(after) >= 2
    for expected, value in zip(GOLDEN["cbs"][setting]["pruned"], after, strict=True):
        pruned = swap_pass(objective, pruned, reach, failures, tolerance=1e-6)
        assert pruned.nonzero().flatten().tolist() == expected
        assert objective.value(pruned) == pytest.approx(value, rel=1e-7)


def kernel():
    vectors = numbers(6, 9, step=0.29).double()
    return vectors @ vectors.T + 0.1 * torch.eye(6).double()


def test_elementary_symmetric_polynomials_are_those_of_dppy():
    found = log_elementary_symmetric(torch.linalg.eigvalsh(kernel()), 4)
    theirs = torch.tensor(GOLDEN["dpp"]["elementary symmetric polynomials"]).double().log()
    assert torch.allclose(torch.as_tensor(found).double().flatten()[-len(theirs) :], theirs, rtol=1e-8)


@pytest.mark.slow
def test_samples_include_items_as_often_as_dppys_marginal_kernel_says():
    generator = torch.Generator().manual_seed(7)
    marginal = torch.tensor(GOLDEN["dpp"]["marginal kernel"]).double().diagonal()
    draws, hits = 3000, torch.zeros(6)
    for _ in range(draws):
        hits[sample_dpp(kernel(), generator)] += 1
    deviation = (marginal * (1 - marginal) / draws).sqrt()
    assert ((hits / draws - marginal).abs() < 4.5 * deviation + 1e-9).all()


def test_magnitude_is_not_what_trueobs_does():
    """The numbers can tell methods apart: a test that anything passes would show nothing."""
    layer, inputs = linear()
    found = pruned(layer, inputs, MagnitudeSelection("edge"), 0.5)
    assert not torch.equal(found != 0, torch.tensor(GOLDEN["trueobs"]["unstructured"]["0.5"]) != 0)
