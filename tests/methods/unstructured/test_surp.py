"""SuRP: the description step by step against a plain loop, and masks that hold as many weights as were asked for."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import calibration, make

from methods.budgets.budget import Budget
from methods.errors import BadInput
from methods.pruner import Pruner
from methods.unstructured.surp import FALL, REFRESHED, Refinement, SuRPSelection

DATA = calibration(16)


def described(left, alpha):
    """The authors' arithmetic (inverse rate times log(n / log n)) as a loop over all weights, largest candidate first.

    ``left`` is lowered in place; returns the order in which weights are named, until half of them are.
    """
    n, refreshed, order = len(left), 0, []
    scale = math.log(n / math.log(n))
    alpha /= scale
    rate = alpha * left.mean()
    while len(order) < n // 2:
        above = np.flatnonzero(left > rate * scale)
        if len(above) == 0:
            refreshed += 1
            alpha *= FALL if refreshed % REFRESHED == 0 else 1.0
            rate = alpha * left.mean()
            continue
        unit = int(above[np.argmax(left[above])])
        left[unit] -= rate * scale
        order += [] if unit in order else [unit]
        gamma = (n - 1) / (n - scale)
        rate = gamma * (n - scale) / n * rate
    return order


class Largest:
    """In the place of random numbers: always the largest of the candidates, whatever their order."""

    def __init__(self, refinement):
        self.refinement = refinement

    def integers(self, many):
        assert many == len(self.refinement.above)
        return int(np.argmax([self.refinement.left[unit] for unit in self.refinement.above]))


@pytest.mark.verifies("surp", by="brute force")
@pytest.mark.parametrize("alpha", [3.0, 10.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_description_is_the_authors_step_by_step(seed, alpha):
    magnitudes = np.abs(np.random.default_rng(seed).laplace(size=60))
    found, left = Refinement(magnitudes, alpha, 0), magnitudes.copy()
    found.draw = Largest(found)
    assert found.first(30).tolist() == described(left, alpha)
    assert np.allclose(found.left, left) and found.total == pytest.approx(left.sum())


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), size=st.integers(2, 80), parts=st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_any_number_of_weights_is_named_each_once_and_more_never_unname(seed, size, parts):
    magnitudes = np.abs(np.random.default_rng(seed).laplace(size=size))
    magnitudes[::3] = 0
    found, before = Refinement(magnitudes, 10.0, seed), []
    for many in sorted(round(part * size) for part in parts):
        order = found.first(many).tolist()
        assert len(order) == len(set(order)) == many and order[: len(before)] == before
        before = order
    assert set(before) <= set(range(size))


def test_without_any_weight_the_first_follow():
    assert Refinement(np.zeros(5), 10.0, 0).first(3).tolist() == [0, 1, 2]


def test_large_weights_go_in_and_draws_decide_between_them():
    def kept(seed):
        found = Pruner(SuRPSelection()).prune(make("wide"), DATA, Budget("keep", 0.1), seed)
        assert found.achieved["keep"] == pytest.approx(0.1, rel=0.01)
        return torch.cat([mask.flatten() for mask in found.masks.values()])

    model = make("wide")
    weights = [module.weight.detach().flatten() for module in model if hasattr(module, "weight")]
    sizes = torch.cat([weight.abs() / weight.norm() for weight in weights])
    first, second = kept(0), kept(1)
    assert torch.equal(first, kept(0)) and not torch.equal(first, second)
    assert float(sizes[first].mean()) > 1.5 * float(sizes.mean())


def test_every_layer_keeps_a_weight():
    model = make("chain")
    with torch.no_grad():
        model[3].weight.copy_(torch.ones_like(model[3].weight))  # all alike, so each is small beside the others'
    found = Pruner(SuRPSelection()).prune(model, DATA, Budget("keep", 5 / 1664))
    assert min(layer["kept"] for layer in found.layers) >= 1 and sum(layer["kept"] for layer in found.layers) == 5


def test_alpha_has_to_be_above_0():
    with pytest.raises(BadInput, match="alpha=0"):
        SuRPSelection(0)
