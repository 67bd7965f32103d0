"""Predictions of the theories: formulas against brute force, and each layer's own change against the pruner's."""

import copy

import pytest
import torch
from networks import calibration, make

from methods.allocation import Explicit, Uniform
from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.compensation import Compensation, LeastSquares
from methods.curvature.kfac import Factors
from methods.hessian.kronecker import KroneckerCompensation
from methods.lq.compensation import RefitWithBias
from methods.network.graph import NetworkGraph, gated
from methods.pruner import Pruner
from methods.schedule import Iterative
from methods.spectral.selection import SpectralSelection
from methods.theories.evaluation import TheoryEvaluation, mean_loss
from methods.theories.formulas import (
    diagonal_increase,
    fisher_increase,
    group_increase,
    kronecker_increase,
    negative_log_determinant,
    radius_increase,
)
from methods.theories.sites import output_errors


def spd(size, seed):
    root = torch.randn(size, 2 * size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T / size


def test_quadratic_forms():
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(30, 12, generator=generator, dtype=torch.float64)
    weight = torch.randn(12, generator=generator, dtype=torch.float64)
    change = torch.randn(12, generator=generator, dtype=torch.float64)
    fisher = gradients.T @ gradients / 30
    assert fisher_increase(gradients @ change) == pytest.approx(float(0.5 * change @ fisher @ change))
    assert diagonal_increase(fisher.diagonal(), change) == pytest.approx(
        float(0.5 * change @ torch.diag(fisher.diagonal()) @ change)
    )
    removed = torch.tensor([True, False, True] * 4)
    inverse = torch.linalg.inv(fisher + 0.01 * torch.eye(12, dtype=torch.float64))
    gone = weight[removed]
    expected = 0.5 * gone @ torch.linalg.solve(inverse[removed][:, removed], gone)
    assert group_increase(gradients, weight, removed, 0.01) == pytest.approx(float(expected))
    assert group_increase(gradients, weight, removed, 0.01) <= fisher_increase(
        gradients[:, removed] @ gone
    ) + 0.005 * float(gone @ gone)
    factors = Factors(spd(4, 1), spd(3, 2))
    matrix = change.view(3, 4)
    full = torch.kron(factors.G, factors.A)
    assert kronecker_increase(matrix, factors) == pytest.approx(float(0.5 * change @ full @ change))
    assert kronecker_increase(matrix, factors) <= radius_increase(float(torch.linalg.eigvalsh(full)[-1]), matrix)
    with_bias = Factors(spd(5, 3), factors.G)
    padded = torch.cat([matrix, torch.zeros(3, 1, dtype=torch.float64)], 1)
    assert kronecker_increase(matrix, with_bias) == pytest.approx(kronecker_increase(padded, with_bias))
    kernel, kept = spd(6, 4), torch.tensor([1, 4])
    assert negative_log_determinant(kernel, kept) == pytest.approx(
        -float((kernel[1, 1] * kernel[4, 4] - kernel[1, 4] ** 2).log()) / 2
    )


def pruned_by(model, samples, pruner, keep=0.5):
    pruned = pruner.prune(model, samples, Budget("keep", keep), 0)
    return pruned, TheoryEvaluation(model, pruned, pruner, samples)


@pytest.mark.parametrize("name", ["chain", "convolution", "batch_norm", "residual"])
def test_one_layers_change_is_closing_its_nodes_off(name):
    model, samples = make(name), calibration()
    pruner = Pruner(MagnitudeSelection(), Uniform())
    pruned, theories = pruned_by(model, samples, pruner)
    before = copy.deepcopy(model.state_dict())
    sites = {site.name: site for site in theories.sites()}
    groups = NetworkGraph(model, samples.inputs[:2]).groups
    for group in groups:
        only = {each.name: torch.arange(each.size) for each in groups} | {group.name: pruned.kept[group.name]}
        with torch.no_grad(), gated(model.eval(), groups, only):
            expected = model(samples.inputs)
        with torch.no_grad():
            actual = sites[group.name].network(model).eval()(samples.inputs)
        assert torch.allclose(actual, expected, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("selection", "compensation", "widths"),
    [
        (SpectralSelection(), LeastSquares(), {"1": 9}),
        (SpectralSelection(), LeastSquares(intercept=True), {"1": 9}),
        (MagnitudeSelection(), KroneckerCompensation(), {"3": 7}),
        (MagnitudeSelection(unit="edge"), RefitWithBias(), {"3": 100}),
        (MagnitudeSelection(unit="edge"), Compensation(), {"1": 500}),
    ],
)
def test_with_one_layer_pruned_alone_is_all(selection, compensation, widths):
    model, samples = make("chain"), calibration()
    pruned, theories = pruned_by(model, samples, Pruner(selection, Explicit(widths), compensation))
    rows = theories.rows(lambda network: -mean_loss(network, samples))
    increase = mean_loss(pruned.model, samples) - mean_loss(model, samples)
    losses = [row for row in rows if row["unit"] == "loss"]
    assert {row["theory"] for row in losses} >= {"OBD", "CBS objective", "OBS group", "Kron-OBD"}
    for row in losses:
        assert row["measured"] == pytest.approx(increase, abs=1e-6)
    alone = {row["theory"]: row["predicted"] for row in losses if row["layer"]}
    total = {row["theory"]: row["predicted"] for row in losses if row["layer"] is None}
    assert total["each layer pruned alone, summed"] == pytest.approx(increase, abs=1e-6)
    for name, value in alone.items():
        assert total[name] == pytest.approx(value)
    drops = [row for row in rows if row["unit"] == "accuracy drop"]
    assert len(drops) == 2
    assert all(row["measured"] == pytest.approx(row["predicted"], abs=1e-6) for row in drops)


def test_output_errors_are_those_of_the_layer():
    model, samples = make("chain"), calibration()
    _, theories = pruned_by(model, samples, Pruner(MagnitudeSelection(unit="edge"), Uniform()))
    [site] = [site for site in theories.sites() if site.name == "3"]
    with torch.no_grad():
        read = model[:3](samples.inputs).double()
    change, weight = site.change("3"), site.before["3"]
    expected = (read @ change.T).norm() / (read @ weight.T).norm()
    assert output_errors(model, [site], samples)["3"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", ["convolution", "batch_norm", "residual"])
def test_every_theory_speaks_of_every_layer(name):
    model, samples = make(name), calibration()
    pruned, theories = pruned_by(model, samples, Pruner(SpectralSelection(), Uniform(), LeastSquares()))
    rows = theories.rows()
    first = next(iter(pruned.kept))
    names = {row["theory"] for row in rows if row["layer"] == first}
    assert {row["layer"] for row in rows} == {*pruned.kept, None}
    assert {row["theory"] for row in rows if row["layer"] is None} >= names
    assert {"spectral input information loss", "lq tail bound", "PQ index", "DPP negative log determinant"} <= names
    errors = [row["measured"] for row in rows if row["unit"] == "relative output error"]
    assert errors and all(0 < error < 1 for error in errors)
    assert {"OBD", "CBS objective", "OBS group", "Kron-OBD", "spectral radius (K-FAC)"} <= names
    assert all(
        row["predicted"] >= 0
        for row in rows
        if row["unit"] == "loss" and row["theory"] != "each layer pruned alone, summed"
    )


def test_only_one_pruning_without_rewinding_is_judged():
    model, samples = make("chain"), calibration()
    pruner = Pruner(MagnitudeSelection(unit="edge"), Uniform(), schedule=Iterative(steps=2))
    pruned, theories = pruned_by(model, samples, pruner)
    assert len(pruned.steps) == 2 and theories.rows() == []
    _, untouched = pruned_by(model, samples, Pruner(MagnitudeSelection(unit="edge"), Uniform()), keep=1.0)
    assert untouched.rows() == []


def test_edges_of_convolutions():
    model, samples = make("residual"), calibration()
    pruned, theories = pruned_by(model, samples, Pruner(MagnitudeSelection(unit="edge"), Uniform()))
    rows = theories.rows()
    assert {row["layer"] for row in rows} == {name.removesuffix(".weight") for name in pruned.masks} | {None}
    bounds = {row["layer"]: row["predicted"] for row in rows if row["theory"] == "lq tail bound" and row["layer"]}
    for site in theories.sites():
        assert float(site.flat_change.norm()) <= bounds[site.name]
