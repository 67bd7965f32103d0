"""Weights that are shared, computed, frozen or pruned already: what masks claim is true, or it is refused."""

import copy
import warnings

import pytest
import torch
from networks import noise
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

from methods import BadInput, Budget, Calibration, Pruner, Skipped
from methods.allocation import Global
from methods.baselines.magnitude import MagnitudeSelection
from methods.compensation import LeastSquares
from methods.hessian.obd import OBDSelection
from methods.network.counting import products
from methods.schedule import Iterative
from methods.seeds import stream


def perceptron() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(),
        nn.Linear(24, 4),
    )  # fmt: skip


def tied() -> nn.Module:
    model = perceptron()
    model[5].weight = model[3].weight
    return model


class Words(nn.Module):
    """A language model whose head is tied to its embedding; the first layer turns pixels into words."""

    def __init__(self):
        super().__init__()
        self.embedding, self.body, self.head = nn.Embedding(9, 12), nn.Linear(12, 12), nn.Linear(12, 9, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        tokens = (x.flatten(1)[:, :5].abs() * 3).long().clamp_max(8)
        return self.head(self.body(self.embedding(tokens)).relu().mean(1))[:, :4]


class Aliased(nn.Module):
    """One module under two names."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 24), nn.Linear(24, 24), nn.Linear(24, 4)
        self.net = nn.Sequential(nn.Flatten(), self.fc1, nn.ReLU(), self.fc2, nn.ReLU(), self.fc3)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class LowRank(nn.Linear):
    """A subclass with a forward pass of its own."""

    def __init__(self):
        super().__init__(24, 24)
        self.a, self.b = nn.Parameter(noise(2, 24)), nn.Parameter(noise(24, 2, seed=1))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight + self.b @ self.a, self.bias)


class Named(nn.Linear):
    """A subclass that computes the same."""


def weight_normed() -> nn.Module:
    model = perceptron()
    parametrizations.weight_norm(model[3])
    return model


def spectral_normed() -> nn.Module:
    model = perceptron()
    parametrizations.spectral_norm(model[3])
    return model


def with_subclass(layer: nn.Module) -> nn.Module:
    model = perceptron()
    model[3] = layer
    return model


def frozen() -> nn.Module:
    return perceptron().requires_grad_(False)


def pruned_already() -> nn.Module:
    model = perceptron()
    with torch.no_grad():
        model[3].weight[torch.rand(24, 24, generator=stream(0, "zeros")) < 0.7] = 0
    return model


CASES = {
    "tied": (tied, {"3": "3 and 5 share a weight", "5": "3 and 5 share a weight"}, {"1", "7"}),
    "words": (Words, {"head": "embedding and head share", "embedding": "embedding and head share"}, {"body"}),
    "aliased": (Aliased, {}, {"fc1", "fc2", "fc3"}),
    "low rank": (lambda: with_subclass(LowRank()), {"3": "LowRank has a forward pass of its own"}, {"1", "5", "7"}),
    "subclass": (lambda: with_subclass(Named(24, 24)), {}, {"1", "3", "5", "7"}),
    "weight norm": (weight_normed, {"3": "computed from other parameters"}, {"1", "5", "7"}),
    "spectral norm": (spectral_normed, {"3": "computed from other parameters"}, {"1", "5", "7"}),
    "frozen": (frozen, {}, {"1", "3", "5", "7"}),
    "pruned already": (pruned_already, {}, {"1", "3", "5", "7"}),
}


def made(build, n=40):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().eval()
    inputs = torch.randn(n, 1, 8, 8, generator=stream(0, "x"))
    return model, Calibration(inputs, torch.randint(0, 4, (n,), generator=stream(0, "y")), torch.arange(n))


def count(model):
    """Nonzero entries of weight matrices, all entries of the rest, each memory once."""
    return sum(int(p.count_nonzero()) if p.dim() > 1 else p.numel() for p in model.parameters())


PARTS = {
    "magnitude": lambda: Pruner(MagnitudeSelection("edge")),
    "global": lambda: Pruner(MagnitudeSelection("edge"), Global()),
    "repaired": lambda: Pruner(MagnitudeSelection("edge"), compensation=LeastSquares()),
    "obd": lambda: Pruner(OBDSelection()),
    "in steps": lambda: Pruner(MagnitudeSelection("edge"), schedule=Iterative(steps=2)),
}


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("name", CASES)
def test_masks_and_counts_under_edge_methods_are_true(name, parts):
    build, left_alone, seen = CASES[name]
    model, data = made(build)
    before = copy.deepcopy(model.state_dict())
    dense, macs = count(model), sum(product.effective for product in products(model, data.inputs))
    pruned = PARTS[parts]().prune(model, data, Budget("keep", 0.5))
    assert {key.removesuffix(".weight") for key in pruned.masks} == seen
    assert pruned.left_alone.keys() == left_alone.keys()
    for path, reason in left_alone.items():
        assert reason in pruned.left_alone[path]
    assert pruned.masks.keys() <= dict(pruned.model.named_parameters()).keys()
    for key, mask in pruned.masks.items():
        assert bool((pruned.model.get_parameter(key)[~mask] == 0).all())
    for key, value in before.items():  # what is left alone is not touched, nor is the network that was handed in
        assert torch.equal(model.state_dict()[key], value)
        if any(key.startswith(f"{path}.") for path in left_alone):
            assert torch.equal(pruned.model.state_dict()[key], value)
    assert pruned.achieved["keep"] == pytest.approx(0.5, rel=0.01)
    assert pruned.achieved["compression"] == pytest.approx(dense / count(pruned.model))
    effective = sum(product.effective for product in products(pruned.model, data.inputs))
    assert pruned.achieved["speedup"] == pytest.approx(macs / effective)


def test_what_is_zero_already_stays_zero_and_is_no_unit():
    model, data = made(pruned_already)
    pruned = Pruner(MagnitudeSelection("edge")).prune(model, data, Budget("keep", 0.9))
    assert not bool((pruned.masks["3.weight"] & (model[3].weight == 0)).any())
    live = sum(int(model[place].weight.count_nonzero()) for place in (1, 3, 5, 7))
    assert sum(int(mask.sum()) for mask in pruned.masks.values()) == pytest.approx(0.9 * live, rel=0.01)


def test_a_network_without_a_layer_of_its_own_weights_is_refused_with_names():
    model, data = made(lambda: nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(64, 4))))
    with pytest.raises(Skipped, match=r"1: the weight of 1 is computed .*remove_parametrizations\(1, 'weight'\)"):
        Pruner(MagnitudeSelection("edge")).prune(model, data, Budget("keep", 0.5))


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and still in people's networks
        nn.utils.weight_norm(layer)


OLD = {
    "prune.remove": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "remove_weight_norm": old_weight_norm,
    "remove_spectral_norm": nn.utils.spectral_norm,
}


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("unit", ["node", "edge"])
@pytest.mark.parametrize("remedy", OLD)
def test_a_weight_that_is_made_anew_in_every_pass_is_refused_with_the_layer_and_the_remedy(remedy, unit, gradients):
    model, data = made(perceptron)
    OLD[remedy](model[3])
    with torch.set_grad_enabled(gradients):
        model(data.inputs)
    with pytest.raises(BadInput, match=rf"the weight of 3 is computed anew[^$]*{remedy}\(3") as caught:
        Pruner(MagnitudeSelection(unit)).prune(model, data, Budget("keep", 0.5))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("unit", ["node", "edge"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_named_at_the_door(unit, value):
    model, data = made(perceptron)
    data.inputs[3, 0, 1] = value
    with pytest.raises(BadInput, match="8 of the 2560 numbers in the calibration inputs .* in 1 of 40 samples"):
        Pruner(MagnitudeSelection(unit)).prune(model, data, Budget("keep", 0.5))
    model, data = made(perceptron)
    with torch.no_grad():
        model[3].bias[2] = value
    with pytest.raises(BadInput, match=r"1 of the 24 numbers in 3\.bias are NaN or infinite"):
        Pruner(MagnitudeSelection(unit)).prune(model, data, Budget("keep", 0.5))
