"""Single weights of grouped convolutions, plain and transposed: every group is a layer that reads its own inputs."""

import pytest
import torch
from networks import noise
from torch import nn

from methods.budgets.budget import Budget
from methods.dpp.selection import DPPEdgeSelection
from methods.layers.statistics import Calibration
from methods.network.kinds.grouped import spread
from methods.network.kinds.registry import kind_of
from methods.selection import largest_mask
from methods.unstructured.alps import admm, lower_bound, scaled
from secateurs.presets import pruner_of

METHODS = [
    "alps",
    "cbs",
    "chita",
    "dpp_edge",
    "exact_obs",
    "grasp",
    "lamp",
    "lq",
    "lq_greedy",
    "lq_lasso",
    "magnitude_edge",
    "mfac",
    "obd",
    "obs",
    "random_edge",
    "sap",
    "sipp",
    "snip",
    "sparsegpt",
    "surp",
    "synflow",
    "wanda",
    "wood_taylor",
]
QUICK = {"cbs": ["selection.trials=2", "selection.passes=2"]}
REPAIRS = ["least_squares", "bias_correction", "refit_with_bias"]
INPUTS = noise(30, 4, 4, 4).abs() + noise(30, 1, 4, 4, seed=1)  # channels depend on each other and have means
LABELS = torch.arange(30) % 3


def made():
    """A grouped convolution, a transposed one and a classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        convolutions = nn.Conv2d(4, 6, 2, groups=2), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, 2, groups=2), nn.ReLU()
        return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_prunes_them(method):
    model = made()
    pruner = pruner_of(method, overrides=QUICK.get(method, []))
    pruned = pruner.prune(model, Calibration(INPUTS, LABELS, batch_size=16), Budget("keep", 0.5))
    assert [row["name"] for row in pruned.layers] == ["0", "2", "6"] and not pruned.left_alone
    kept = {row["name"]: row["kept"] / row["units"] for row in pruned.layers}
    assert kept["0"] < 1 and kept["2"] < 1
    assert bool(pruned.model(INPUTS).isfinite().all())
    assert all(bool((pruned.model.get_parameter(name)[~mask] == 0).all()) for name, mask in pruned.masks.items())


def convolution(kind, filters, bias, groups):
    """One convolution with (out, in / groups, 2, 2) filters."""
    layer = kind(filters.shape[1] * groups, len(filters), 2, groups=groups)
    with torch.no_grad():
        layer.bias.copy_(bias)
        layer.weight.copy_(kind_of(layer).stored_like(layer, filters))
    return nn.Sequential(layer)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize(
    ("method", "options"),
    [("sparsegpt", {"allocation": "uniform_per_neuron"}), ("sparsegpt", {"allocation": "n_m"}),
     ("lq_greedy", {}), *(("wanda", {"compensation": repair}) for repair in REPAIRS)],
)  # fmt: skip
def test_each_group_is_pruned_and_repaired_as_a_convolution_by_itself(kind, method, options):
    inputs = torch.cat([INPUTS, INPUTS.flip(0).roll(1, 1)], 1)
    filters, bias = noise(6, 4, 2, 2, seed=3), noise(6, seed=4)
    pruner = pruner_of(method, **options)

    def result(part, read, groups):
        model = convolution(kind, filters[part], bias[part], groups)
        pruned = pruner.prune(model, Calibration(read, LABELS, batch_size=16), Budget("keep", 0.5)).model[0]
        return kind_of(pruned).matrix(pruned).detach(), pruned.bias.detach()

    whole = result(slice(0, 6), inputs, 2)
    parts = result(slice(0, 3), inputs[:, :4], 1), result(slice(3, 6), inputs[:, 4:], 1)
    assert 0 < int((whole[0] == 0).sum()) < whole[0].numel()
    for found, *alone in zip(whole, *parts, strict=True):
        assert torch.allclose(found, torch.cat(alone), atol=1e-4)


def test_alps_treats_the_groups_as_one_problem_with_a_block_for_each():
    """As a layer that reads all inputs, of which only those of its own group may stay."""
    weight = noise(2, 3, 5, dtype=torch.float64)
    reads = noise(2, 40, 5, seed=1, dtype=torch.float64)
    second = reads.mT @ reads / 40
    second /= second.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]  # so that all are damped alike
    own = spread(torch.ones(6, 5, dtype=torch.bool), 2)
    grouped = scaled(weight, second, 0.01)
    joined = scaled(spread(weight.flatten(0, 1), 2), torch.block_diag(*second), 0.01)

    def kept(squares):
        return largest_mask(squares.flatten(0, 1), 11).view_as(squares)

    def kept_joined(squares):
        return largest_mask(squares.masked_fill(~own, -torch.inf), 11)

    some, same = admm(grouped, kept, 11), admm(joined, kept_joined, 11)
    assert len(some) == len(same) and grouped.energy == pytest.approx(joined.energy)
    assert torch.allclose(spread(some[-1].sparse.flatten(0, 1), 2), same[-1].sparse)
    assert lower_bound(grouped, kept) == pytest.approx(lower_bound(joined, kept_joined))


def test_edges_of_a_group_are_drawn_by_its_own_inputs():
    """Two inputs of the second group are the same up to their sign, so that no draw of two has both."""
    inputs = torch.cat([INPUTS, INPUTS.flip(0)[:, :4]], 1)
    inputs[:, 7] = -inputs[:, 6]
    filters = noise(40, 4, 1, 1, seed=3)
    filters[:, 3] = -filters[:, 2]
    model = nn.Sequential(nn.Conv2d(8, 40, 1, groups=2))
    model[0].weight.data = filters
    pruner = pruner_of(DPPEdgeSelection("linear", jitter=0.0), compensation="none")
    masks = pruner.prune(model, Calibration(inputs, LABELS, batch_size=16), Budget("keep", 0.5)).masks
    both = masks["0.weight"][:, 2:, 0, 0].all(1)
    assert both[:20].any() and not both[20:].any()
