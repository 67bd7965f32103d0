"""What the parts of a method are given, and what their options mean: promises that only the whole can break."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import calibration, make
from torch import nn

from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.compensation import LeastSquares
from methods.layers.statistics import Calibration
from methods.pruner import Pruner
from methods.schedule import Iterative
from methods.spectral.selection import SpectralSelection
from methods.spectral.theory import row_weights


class Watched(SpectralSelection):
    """Keeps what the pruner tells each layer of its readers."""

    def __init__(self):
        super().__init__(procedure="backward")
        self.seen = {}

    def select(self, layer, k):
        self.seen[layer.name] = (layer, list(layer.readers_kept), list(layer.readers_probability))
        return super().select(layer, k)


def test_the_backward_procedure_tells_each_layer_which_rows_stay_and_with_which_probability():
    selection = Watched()
    pruned = Pruner(selection).prune(make("chain"), calibration(), Budget.parse({"keep": 0.5}))
    names = list(selection.seen)
    assert len(names) >= 2
    last, *earlier = names  # from the output to the input
    assert selection.seen[last][1:] == ([None], [None])
    for name, following in zip(earlier, names, strict=False):
        _, (kept,), (probability,) = selection.seen[name]
        assert torch.equal(kept, pruned.kept[following])
        reader = selection.seen[following][0]
        expected = row_weights(selection.leverage(reader), kept)
        assert torch.allclose(probability, expected)
        assert float(probability.sum()) == pytest.approx(1)
        assert probability[kept].min() > 0
        assert len(probability) == reader.size


@given(st.floats(1e-5, 0.3), st.integers(0, 1000), st.floats(0.1, 30.0))
def test_a_numeric_ridge_is_relative_to_the_trace_per_node(ridge, seed, scale):
    """A = S_FJ (S_JJ + lambda Tr S / m I)^-1, so that the scale of the features does not matter."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(40, 6, generator=generator).double() * scale
    network = nn.Sequential(nn.Linear(6, 6), nn.Identity(), nn.Linear(6, 2)).double()
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(6))
        network[0].bias.zero_()
        network[2].weight.copy_(torch.randn(2, 6, generator=generator))
    before = network[2].weight.detach().clone()
    samples = Calibration(features, torch.zeros(40, dtype=torch.long), torch.arange(40))
    pruner = Pruner(MagnitudeSelection("node"), compensation=LeastSquares(ridge=ridge, refit=False))
    pruned = pruner.prune(network, samples, Budget.parse({"keep": 0.5}))
    [kept] = pruned.kept.values()
    second = features.T @ features / len(features)
    system = second[kept][:, kept] + ridge * second.trace() / 6 * torch.eye(len(kept)).double()
    expected = before @ second[:, kept] @ torch.linalg.inv(system)
    reader = next(module for module in reversed(list(pruned.model.modules())) if isinstance(module, nn.Linear))
    assert torch.allclose(reader.weight.double(), expected, rtol=1e-4, atol=1e-6 * float(before.abs().max()))


@given(st.integers(2, 12), st.floats(0.02, 0.95))
def test_schedules_are_their_closed_forms(steps, final):
    budget = Budget.parse({"keep": final})
    remaining = {
        "linear": lambda t: 1 - (1 - final) * t,
        "cubic": lambda t: final + (1 - final) * (1 - t) ** 3,
        "exponential": lambda t: final**t,
    }
    for shape, formula in remaining.items():
        targets = Iterative(steps, shape).targets(budget)
        assert [target.remaining for target in targets] == pytest.approx(
            [formula((number + 1) / steps) for number in range(steps)]
        )
        assert targets[-1] == budget


def test_each_step_of_a_schedule_prunes_what_the_step_before_left():
    sizes = []

    class Watching(MagnitudeSelection):
        def scores(self, layer):
            sizes.append(layer.size)
            return super().scores(layer)

    trained = []
    pruner = Pruner(Watching("node"), schedule=Iterative(3))
    pruned = pruner.prune(
        make("chain"),
        calibration(),
        Budget.parse({"keep": 0.3}),
        train=lambda model, masks, step: trained.append((step, sum(p.numel() for p in model.parameters()))),
    )
    assert [step for step, _ in trained] == [0, 1]
    assert trained[0][1] > trained[1][1] > sum(p.numel() for p in pruned.model.parameters())
    layers = len(pruned.layers)
    rounds = [sum(sizes[i : i + layers]) for i in range(0, len(sizes), layers)]
    assert rounds == sorted(rounds, reverse=True)
    assert rounds[0] > rounds[-1]
