"""Layers as two of lower rank: the factors, their costs, and the least common error against every combination."""

import itertools

import pytest
import torch
from networks import calibration, make
from torch import nn

from benchmarks.cells import cell
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from methods.allocation import Global
from methods.budgets.budget import Budget
from methods.compensation import LeastSquares
from methods.errors import BadInput, Skipped, Unreachable
from methods.lowrank.selection import LowRankSelection
from methods.lowrank.split import Option, options, split
from methods.network.counting import count_macs
from methods.pruner import Pruner
from methods.schedule import Iterative

DATA = calibration(16)


def convolution(inputs=6, out=5, **options):
    torch.manual_seed(0)
    return nn.Conv2d(inputs, out, 3, **options).double()


def linear():
    torch.manual_seed(0)
    return nn.Linear(9, 7).double()


def apply(module, x):
    with torch.no_grad():
        return module(x)


@pytest.mark.parametrize("slices", [1, 2, 3, 6])
@pytest.mark.parametrize("options_", [{}, {"stride": 2, "padding": 1, "bias": False}])
def test_full_rank_changes_nothing(slices, options_):
    module = convolution(**options_)
    new = split(module, Option(slices, min(5, 6 // slices * 9), 0, 0.0))
    x = torch.randn(2, 6, 7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(apply(new, x), apply(module, x), atol=1e-12)
    assert new[0].groups == slices and (new[1].bias is None) == (module.bias is None)


def test_one_slice_is_the_nearest_matrix_of_its_rank():
    module, rank = linear(), 3
    new = split(module, Option(1, rank, 0, 0.0))
    product = (new[1].weight @ new[0].weight).detach()
    left, values, right = torch.linalg.svd(module.weight.detach())
    assert torch.allclose(product, left[:, :rank] * values[:rank] @ right[:rank], atol=1e-12)
    assert float(torch.linalg.matrix_norm(product - module.weight.detach(), ord=2)) == pytest.approx(
        float(values[rank])
    )


@pytest.mark.parametrize("slices", [2, 3])
def test_each_slice_is_the_nearest_of_its_rank(slices):
    module, rank = convolution(), 2
    new = split(module, Option(slices, rank, 0, 0.0))
    width = 6 // slices
    for number in range(slices):
        own = slice(number * rank, (number + 1) * rank)
        product = new[1].weight[:, own, 0, 0] @ new[0].weight[own].flatten(1)
        part = module.weight[:, number * width : (number + 1) * width].detach().flatten(1)
        left, values, right = torch.linalg.svd(part, full_matrices=False)
        assert torch.allclose(product, left[:, :rank] * values[:rank] @ right[:rank], atol=1e-12)


def test_options_cost_what_the_layers_have_and_none_is_beaten_by_another():
    module = convolution(8, 20, bias=False)
    found = options(module, 8)
    assert (found[-1].slices, found[-1].weights, found[-1].error) == (0, module.weight.numel(), 0.0)
    assert len({option.slices for option in found}) > 2
    for first, second in itertools.pairwise(found):
        assert first.weights <= second.weights and first.error > second.error
    for option in found[:-1]:
        assert option.weights == sum(parameter.numel() for parameter in split(module, option).parameters())
        whole = torch.linalg.matrix_norm(module.weight.detach().flatten(1), ord=2)
        parts = module.weight.detach().unflatten(1, (option.slices, -1)).transpose(0, 1).flatten(2)
        missed = [torch.linalg.svdvals(part)[option.rank] for part in parts]
        assert option.error == pytest.approx(float(max(missed) / whole))


def low_rank(name, kind, value, slices=1):
    return Pruner(LowRankSelection(slices)).prune(make(name), DATA, Budget(kind, value))


@pytest.mark.parametrize("slices", [1, 8])
@pytest.mark.parametrize("kind", ["compression", "speedup"])
def test_budgets_are_met_and_costs_are_those_of_the_network(slices, kind):
    dense, found = make("wide"), low_rank("wide", kind, 3.0, slices)
    assert found.achieved[kind] == pytest.approx(3.0, rel=0.05) and found.unit == "node"
    assert (found.note is None) == (abs(found.achieved[kind] / 3 - 1) <= 0.01)
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (dense, found.model)]
    assert found.achieved["compression"] == pytest.approx(sizes[0] / sizes[1])
    macs = [count_macs(model, DATA.inputs[:2]) for model in (dense, found.model)]
    assert found.achieved["speedup"] == pytest.approx(macs[0] / macs[1])
    assert found.model(DATA.inputs).shape == dense(DATA.inputs).shape


@pytest.mark.verifies("low_rank", by="brute force")
def test_no_combination_that_costs_no_more_has_a_smaller_largest_error():
    found = low_rank("chain", "compression", 2.5)
    model = make("chain")
    every = {path: options(model.get_submodule(path), 1) for path in ("1", "3", "5")}
    errors = {row["name"]: row["relative_error"] for row in found.layers}
    spent = sum(parameter.numel() for parameter in found.model.parameters())
    biases = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 1)
    fitting = [
        max(option.error for option in chosen)
        for chosen in itertools.product(*every.values())
        if biases + sum(option.weights for option in chosen) <= spent
    ]
    assert max(errors.values()) <= min(fitting) + 1e-12


def test_slices_never_make_the_error_at_a_budget_larger():
    one, many = (low_rank("wide", "compression", 3.0, slices) for slices in (1, 8))
    worst = [max(row["relative_error"] for row in found.layers) for found in (one, many)]
    assert worst[1] <= worst[0] + 0.02  # budgets are met within a per cent, not to the weight


def test_a_rewound_split_becomes_the_nearest_of_its_rank():
    other = make("chain", seed=1)
    pruner = Pruner(LowRankSelection(), schedule=Iterative(1, rewind="init"))
    found = pruner.prune(make("chain"), DATA, Budget("compression", 2.0), rewind=other)
    layers = [row for row in found.layers if row["slices"]]
    assert layers
    for row in layers:
        new, source = found.model.get_submodule(row["name"]), other.get_submodule(row["name"])
        left, values, right = torch.linalg.svd(source.weight.detach())
        k = row["kept"]
        assert torch.allclose(new[1].weight @ new[0].weight, left[:, :k] * values[:k] @ right[:k], atol=1e-5)
        assert torch.equal(new[1].bias, source.bias)


def test_what_cannot_be_is_refused():
    with pytest.raises(Unreachable):
        low_rank("chain", "compression", 1000.0)
    with pytest.raises(BadInput, match="slices=0"):
        LowRankSelection(0)
    with pytest.raises(BadInput, match="compensation=none"):
        Pruner(LowRankSelection(), compensation=LeastSquares())
    with pytest.raises(BadInput, match="by itself"):
        Pruner(LowRankSelection(), allocation=Global())
    with pytest.raises(Skipped, match="split already"):
        Pruner(LowRankSelection(), schedule=Iterative(2)).prune(make("wide"), DATA, Budget("compression", 4.0))


@pytest.mark.slow
def test_a_cell(tmp_path):
    words = [
        "dataset=digits", "dataset.limit=100", "model=mlp", "trainer=tiny", "calibration.samples=20", "track=none",
        "measure=none", "method=low_rank", "budget.compression=3", "save=true",
        f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache",
    ]  # fmt: skip
    found = cell.run(Composer(CONF).cell(words))
    assert found.status == "done" and found.budget.achieved.compression == pytest.approx(3, rel=0.02)
    assert (tmp_path / "results" / "networks" / found.key / "weights.safetensors").is_file()
