import copy

import pytest
import torch
from networks import NETWORKS, calibration, make, permutation, placed
from torch import nn

from methods.allocation import Explicit, Global, Uniform
from methods.baselines.magnitude import MagnitudeSelection
from methods.baselines.random import RandomSelection
from methods.budgets.budget import Budget, NodeCost, count_macs
from methods.compensation import Compensation, LeastSquares
from methods.errors import BadInput, Skipped
from methods.hessian.kronecker import KroneckerCompensation
from methods.hessian.obs import OBSCompensation
from methods.network.graph import NetworkGraph, gated
from methods.pruner import Pruner
from methods.schedule import Iterative

DATA = calibration()


def outputs(model, inputs=None):
    model.eval()
    with torch.no_grad():
        return model(DATA.inputs if inputs is None else inputs)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_node_cost_equals_the_counts_of_the_built_network(name, residual, device):
    model, inputs = placed(make(name), device), DATA.inputs.to(device)
    graph = NetworkGraph(model, inputs, residual=residual)
    cost = NodeCost(model, inputs, graph.groups)
    kept = {group.name: torch.arange(0, group.size, 2) for group in graph.groups}
    predicted = cost({key: len(nodes) for key, nodes in kept.items()})
    for key, nodes in kept.items():
        graph.remove(graph.find(key), nodes)
    assert predicted.compression == sum(p.numel() for p in model.parameters())
    assert predicted.speedup == count_macs(model, inputs)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_gated_equals_removed(name, residual, device):
    model, inputs = placed(make(name), device), DATA.inputs.to(device)
    before = copy.deepcopy(model)
    graph = NetworkGraph(model, inputs, residual=residual)
    groups = graph.groups
    kept = {group.name: permutation(group.size)[: group.size // 2].sort().values for group in groups}
    with gated(before, groups, kept):
        expected = outputs(before, inputs)
    for key, nodes in kept.items():
        graph.remove(graph.find(key), nodes)
    assert torch.allclose(outputs(model, inputs), expected, atol=1e-5)
    assert not torch.allclose(expected, outputs(before, inputs), atol=1e-3)


def test_the_residual_stream_is_one_group_and_only_pruned_on_request():
    model = make("residual")
    inner = NetworkGraph(model, DATA.inputs)
    assert [group.name for group in inner.groups] == ["first.0", "second.0"]
    assert set(inner.left_alone) == {"stem", "second.3"}
    stream = NetworkGraph(model, DATA.inputs, residual=True).find("stem")
    assert stream.writers == ("stem", "first.3")
    assert [reader.name for reader in stream.readers] == ["first.0", "second.0", "shortcut"]


@torch.no_grad()
def revive(model):
    """Positive biases, so that no node is dead on the calibration data."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.BatchNorm2d | nn.Conv2d) and module.bias is not None:
            module.bias.abs_().add_(0.5)


def with_duplicates(name, residual):
    """A network in which node 2i + 1 of every group does what node 2i does, so that half of them can be rebuilt."""
    model = make(name, seed=3)
    revive(model)
    graph = NetworkGraph(model, DATA.inputs, residual=residual)
    with torch.no_grad():
        for group in graph.groups:
            for path in (*group.writers, *group.carriers):
                module = model.get_submodule(path)
                for tensor in [module.weight, module.bias, *module.buffers()]:
                    if tensor is not None and tensor.ndim:
                        tensor[1::2] = tensor[::2]
    return model, graph.groups


class EverySecond(RandomSelection):
    def select(self, layer, k):
        return torch.arange(0, layer.size, 2 if k < layer.size else 1)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_least_squares_rebuilds_duplicated_nodes_exactly(name, residual):
    model, groups = with_duplicates(name, residual)
    allocation = Explicit({group.name: group.size // 2 for group in groups})
    seen = calibration(1000)  # enough for every node to be active once
    for refit in (False, True):
        pruner = Pruner(EverySecond(), allocation, LeastSquares(refit=refit), prune_residual=residual)
        pruned = pruner.prune(model, seen, Budget("keep", 0.5))
        fresh = calibration(seed=9).inputs
        assert torch.allclose(outputs(pruned.model, fresh), outputs(model, fresh), atol=1e-5)
    broken = Pruner(EverySecond(), allocation, Compensation(), prune_residual=residual).prune(
        model, DATA, Budget("keep", 0.5)
    )
    assert not torch.allclose(outputs(broken.model), outputs(model), atol=1e-2)


@pytest.mark.parametrize("kind,value", [("keep", 0.5), ("compression", 2.5), ("speedup", 2.0)])
@pytest.mark.parametrize("unit", ["node", "edge"])
@pytest.mark.parametrize("allocation", [Uniform(), Global(normalise="mean")])
def test_budget_is_met_and_achieved_values_are_true(kind, value, unit, allocation):
    model = make("residual")
    pruner = Pruner(MagnitudeSelection(unit), allocation, prune_residual=True)
    pruned = pruner.prune(model, DATA, Budget(kind, value))
    assert pruned.note is None and pruned.achieved[kind] == pytest.approx(value, rel=0.01)
    alive = sum(int((p != 0).sum()) if n in pruned.masks else p.numel() for n, p in pruned.model.named_parameters())
    total = sum(p.numel() for p in model.parameters())
    assert total / alive == pytest.approx(pruned.achieved["compression"])


def test_a_budget_out_of_reach_is_refused_and_the_model_untouched():
    model = make("chain")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BadInput, match=r"budget.compression=1000 cannot be reached.*smallest"):
        Pruner(MagnitudeSelection()).prune(model, DATA, Budget("compression", 1000))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_single_layer_has_nothing_to_remove():
    with pytest.raises(Skipped, match="no layer of this network"):
        Pruner(MagnitudeSelection()).prune(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), DATA, Budget("keep", 0.5))


@pytest.mark.parametrize("unit", ["node", "edge"])
def test_iterative_steps_are_nested_and_end_at_the_budget(unit):
    model = make("convolution")
    seen = []
    pruner = Pruner(MagnitudeSelection(unit), schedule=Iterative(3, "cubic"))
    pruned = pruner.prune(
        model,
        DATA,
        Budget("keep", 0.4),
        train=lambda m, masks, step: seen.append({k: v.clone() for k, v in masks.items()}),
    )
    assert len(seen) == 2
    assert [step["requested"] for step in pruned.steps][-1] == 0.4
    keeps = [step["keep"] for step in pruned.steps]
    assert keeps == sorted(keeps, reverse=True)
    for earlier, later in zip(seen, [*seen[1:], pruned.masks], strict=True):
        assert all(bool((earlier[name] | ~later[name]).all()) for name in later if name in earlier)


@pytest.mark.parametrize("unit", ["node", "edge"])
def test_rewinding_gives_the_survivors_their_initial_weights(unit):
    model, initial = make("batch_norm", seed=1), make("batch_norm", seed=2)
    pruner = Pruner(MagnitudeSelection(unit), schedule=Iterative(2, "exponential", rewind="init"))
    pruned = pruner.prune(model, DATA, Budget("keep", 0.5), rewind=initial)
    values = {round(v, 6) for v in initial[3].weight.flatten().tolist()}
    survivors = pruned.model[3].weight.flatten()
    assert all(round(v, 6) in values for v in survivors.tolist() if v != 0)


@pytest.mark.verifies("magnitude", by="brute force")
def test_magnitude_nodes_keep_the_rows_with_the_largest_norm():
    model = make("chain")
    pruned = Pruner(MagnitudeSelection(norm=2)).prune(model, DATA, Budget("keep", 0.5))
    norms = model[1].weight.norm(dim=1)
    expected = model[1].weight[norms.topk(10).indices.sort().values]
    assert torch.equal(pruned.model[1].weight, expected)


def test_least_squares_edges_reach_the_least_squares_error():
    model = make("chain").double()
    data = calibration(300)
    data = type(data)(data.inputs.double(), data.labels, data.indices)
    masked = Pruner(MagnitudeSelection("edge")).prune(model, data, Budget("keep", 0.3))
    refitted = Pruner(MagnitudeSelection("edge"), compensation=LeastSquares()).prune(model, data, Budget("keep", 0.3))
    inputs = data.inputs.flatten(1)
    target = inputs @ model[1].weight.detach().T
    mask = refitted.masks["1.weight"]
    assert torch.equal(mask, masked.masks["1.weight"])
    assert bool((refitted.model[1].weight[~mask] == 0).all())
    for row in range(20):
        best = torch.linalg.lstsq(inputs[:, mask[row]], target[:, row : row + 1]).solution.squeeze(1)
        assert torch.allclose(refitted.model[1].weight[row, mask[row]], best, atol=1e-8)


def test_least_squares_with_intercept_equals_regression_with_a_constant_column():
    model = make("chain").double()
    revive(model)
    data = calibration(300)
    data = type(data)(data.inputs.double(), data.labels, data.indices)
    pruned = Pruner(EverySecond(), Explicit({"1": 10}), LeastSquares(intercept=True)).prune(
        model, data, Budget("keep", 0.5)
    )
    hidden = model[2](model[1](data.inputs.flatten(1))).detach()
    target = model[3](hidden).detach()
    design = torch.cat([hidden[:, ::2], torch.ones(300, 1)], 1).double()
    best = torch.linalg.lstsq(design, target).solution
    assert torch.allclose(pruned.model[3].weight, best[:-1].T, atol=1e-7)
    assert torch.allclose(pruned.model[3].bias, best[-1], atol=1e-7)


def test_no_constant_is_fitted_for_a_reader_that_has_no_bias():
    model = make("chain").double()
    revive(model)
    model[3].bias = None
    data = calibration(300)
    data = type(data)(data.inputs.double(), data.labels, data.indices)
    pruned = Pruner(EverySecond(), Explicit({"1": 10}), LeastSquares(intercept=True)).prune(
        model, data, Budget("keep", 0.5)
    )
    hidden = model[2](model[1](data.inputs.flatten(1))).detach()
    best = torch.linalg.lstsq(hidden[:, ::2], model[3](hidden).detach()).solution
    assert torch.allclose(pruned.model[3].weight, best.T, atol=1e-7)


def test_a_compensation_for_other_units_is_refused_and_not_silently_idle():
    with pytest.raises(BadInput, match="repairs what is left of edge units.*removes node units"):
        Pruner(MagnitudeSelection(), compensation=OBSCompensation())
    with pytest.raises(BadInput, match="repairs what is left of node units.*removes edge units"):
        Pruner(MagnitudeSelection("edge"), compensation=KroneckerCompensation())


def test_explicit_widths_that_do_not_exist_are_named():
    with pytest.raises(BadInput, match="names 'nope'.*choose from 1, 3"):
        Pruner(MagnitudeSelection(), Explicit({"nope": 3})).prune(make("chain"), DATA, Budget("keep", 0.5))


@pytest.mark.parametrize(
    "section,message",
    [
        ({"keep": 0.0}, "outside"),
        ({"keep": 1.5}, "outside"),
        ({"compression": 0.5}, "outside .1, inf."),
        ({"speedup": 2, "keep": 0.5}, "two budgets at once"),
    ],
)
def test_nonsense_budgets_are_refused(section, message):
    with pytest.raises(BadInput, match=message):
        Budget.parse({"default_compression": 4, **section})


@pytest.mark.parametrize("name", ["chain", "residual"])
def test_moments_of_all_edge_layers_come_from_one_pass_or_from_several_alike(name, monkeypatch):
    model, samples = make(name), calibration()
    passes, found = [], []
    for size in (2**30, 1):
        monkeypatch.setattr("methods.layers.views.PASS_BYTES", size)
        calls = []
        handle = model.register_forward_hook(lambda *_, calls=calls: calls.append(1))  # its copies have it, too
        pruned = Pruner(MagnitudeSelection(unit="edge"), compensation=LeastSquares()).prune(
            model, samples, Budget("keep", 0.4), 0
        )
        handle.remove()
        passes.append(len(calls))
        found.append(pruned.model.state_dict())
    layers = sum(isinstance(module, nn.Linear | nn.Conv2d) for module in model.modules())
    batches = len(list(samples.batches()))
    assert passes[1] - passes[0] == (layers - 1) * batches
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())
