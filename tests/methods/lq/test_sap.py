import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import calibration, make
from torch import nn

from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.errors import BadInput, Collapsed
from methods.lq.sap import SAP, UntilBudget, sap_counts, sap_masks, without_smallest
from methods.network.sparsity import pq_index
from methods.pruner import Pruner

universal = settings(deadline=None, max_examples=80)
SCOPES = ("neuron", "layer", "global")


def weights(seed=0, shapes=((6, 2, 3, 3), (7, 6, 3, 3), (4, 7))):
    generator = torch.Generator().manual_seed(seed)
    return {f"layer{i}": torch.randn(shape, generator=generator) ** 3 for i, shape in enumerate(shapes)}


def brute_masks(tensors, masks, scope, p, q, eta, gamma, beta):
    """Algorithm 1 with loops over units and weights."""
    places = []
    if scope == "global":
        places = [[(name, i) for name, w in tensors.items() for i in range(w.numel())]]
    for name, w in tensors.items():
        row = w[0].numel()
        if scope == "layer":
            places.append([(name, i) for i in range(w.numel())])
        elif scope == "neuron":
            places += [[(name, i) for i in range(o * row, (o + 1) * row)] for o in range(len(w))]
    result = {name: mask.clone().flatten() for name, mask in masks.items()}
    for unit in places:
        alive = [(name, i) for name, i in unit if masks[name].flatten()[i]]
        size = len(alive)
        if size == 0:
            continue
        value = {at: abs(float(tensors[at[0]].flatten()[at[1]])) for at in alive}
        norm = {e: math.fsum(v**e for v in value.values()) ** (1 / e) for e in (p, q)}
        index = 1 - size ** (1 / q - 1 / p) * norm[p] / norm[q]
        retained = size * (1 + eta) ** (-q / (q - p)) * (1 - index) ** (q * p / (q - p))
        removed = math.floor(size * min(gamma * (1 - math.ceil(retained - 1e-9) / size), beta) + 1e-9)
        order = sorted(range(size), key=lambda j: (value[alive[j]], -j))
        for j in order[:removed]:
            name, i = alive[j]
            result[name][i] = False
    return {name: mask.view_as(tensors[name]) for name, mask in result.items()}


@pytest.mark.verifies("sap", by="brute force")
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("rule", [(0.5, 1, 0, 1, 0.9), (1, 2, 0, 1, 0.9), (0.3, 1.7, 0.1, 3, 0.4), (0.5, 1, 1, 9, 0.9)])
def test_masks_are_those_of_algorithm_1(scope, rule):
    tensors = weights()
    tensors["layer2"][2, 1:5] = 0.25  # ties
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in tensors.items()}
    for step in range(4):
        expected = brute_masks(tensors, masks, scope, *rule)
        found = sap_masks(tensors, masks if step else None, scope, *rule)
        for name in tensors:
            assert torch.equal(found[name], expected[name])
            assert not bool((found[name] & ~masks[name]).any())
        masks = found
        tensors = {name: torch.where(mask, 0.9 * tensors[name] + 0.01, 0.0) for name, mask in masks.items()}


@universal
@given(
    st.lists(st.floats(-10, 10, allow_nan=False, width=32), min_size=1, max_size=30),
    st.floats(0, 5),
    st.floats(0, 10),
    st.floats(0, 1),
)
def test_counts(values, eta, gamma, beta):
    w = torch.tensor([values], dtype=torch.float64)
    size = len(values)
    count = int(sap_counts(w, 0.5, 1, eta, gamma, beta))
    assert 0 <= count <= size - 1
    assert count <= beta * size + 1e-9
    mask = without_smallest(w.abs(), torch.tensor([count]))
    assert int(mask.sum()) == size - count
    if bool((~mask).any()):
        assert float(w.abs()[~mask].max()) <= float(w.abs()[mask].min())
    assert int(sap_counts(w, 0.5, 1, eta + 1, gamma, beta)) >= count
    assert int(sap_counts(w, 0.5, 1, eta, gamma + 1, beta)) >= count


def test_the_pruned_fraction_is_the_pq_index():
    w = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
    expected = 5000 - torch.ceil(5000 * (1 - pq_index(w)))
    assert torch.equal(sap_counts(w), expected.long())
    worked = torch.tensor([[4.0, 1, 1, 0]])
    assert sap_counts(worked, 0.5, 1).tolist() == [1]
    assert sap_counts(worked, 1, 2).tolist() == [2]


def test_beta_clamps():
    half = torch.tensor([[1.0] * 50 + [0.0] * 50])  # PQ index 1/2
    assert float(pq_index(half)) == pytest.approx(0.5)
    assert sap_counts(half, gamma=1).tolist() == [50]
    assert sap_counts(half, gamma=3).tolist() == [90]
    one_hot = torch.eye(1, 10)
    assert sap_counts(one_hot, gamma=5, beta=1).tolist() == [9]  # never the last weight
    assert sap_counts(torch.ones(2, 1), eta=100).tolist() == [0, 0]


def test_ties_keep_the_lowest_index_and_the_count():
    magnitude = torch.tensor([[1.0, 0, 0, 0, 2, 0], [3, 3, 3, 3, 3, 3], [5, 4, 3, 2, 1, 0]])
    live = torch.tensor([[1, 1, 0, 1, 1, 1], [1, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]]).bool()
    mask = without_smallest(magnitude, torch.tensor([2, 3, 0]), live)
    assert mask.int().tolist() == [[1, 1, 0, 0, 1, 0], [1, 0, 1, 0, 0, 0], [0] * 6]


@pytest.mark.parametrize("scope", ["neuron", "layer"])
@pytest.mark.parametrize("rule", [(0.5, 1, 5, 9, 1), (1, 2, 0, 3, 0.9)])
def test_no_unit_is_emptied(scope, rule):
    tensors, masks = weights(3), None
    for _ in range(12):
        masks = sap_masks(tensors, masks, scope, *rule)
        tensors = {name: w * masks[name] for name, w in tensors.items()}
    for mask in masks.values():
        assert bool(mask.flatten(1).any(1).all() if scope == "neuron" else mask.any())


def test_float32_and_float64_give_the_same_masks():
    tensors = weights(4)
    double = sap_masks({name: w.double() for name, w in tensors.items()})
    for name, mask in sap_masks(tensors).items():
        assert torch.equal(mask, double[name])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"p": 1, "q": 1}, "0 < p < q"),
        ({"p": 0}, "0 < p < q"),
        ({"gamma": -1}, "gamma"),
        ({"eta": -0.5}, "eta"),
        ({"beta": 1.5}, "beta"),
        ({"scope": "row"}, "neuron, layer, global"),
    ],
)
def test_bad_input(options, word):
    with pytest.raises(BadInput, match=word):
        sap_masks(weights(), None, **{"scope": "global", **options})
    with pytest.raises(BadInput, match=word):
        SAP(**options)


def test_weights_that_are_not_finite_are_a_collapse():
    with pytest.raises(Collapsed):
        sap_masks({"a": torch.tensor([[1.0, math.nan]])})


def keep(pruned):
    return sum(int(mask.sum()) for mask in pruned.masks.values())


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("network", ["chain", "batch_norm"])
def test_the_pruner_follows_the_rule_step_by_step_and_rewinds(scope, network):
    model, initial = make(network), make(network, seed=9)
    seen, states = [], []

    def train(current, masks, step):
        seen.append({name: mask.clone() for name, mask in masks.items()})
        fresh = dict(initial.named_parameters())
        for name, parameter in current.named_parameters():
            expected = fresh[name] * masks[name] if name in masks else fresh[name]
            assert torch.equal(parameter, expected)
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for name, mask in masks.items():
                parameter = current.get_parameter(name)
                parameter.copy_(torch.randn(parameter.shape, generator=generator) ** 3 * mask)
        states.append({name: current.get_parameter(name).detach().clone() for name in masks})

    pruner = Pruner(MagnitudeSelection("edge"), SAP(scope), schedule=UntilBudget(steps=3))
    pruned = pruner.prune(model, calibration(), Budget("keep", 1e-3), train=train, rewind=initial)
    assert len(pruned.steps) == 3
    assert len(seen) == 2
    assert "rule" in pruned.note
    source, masks = {name: model.get_parameter(name).detach() for name in seen[0]}, None
    for after, state in zip([*seen, pruned.masks], [*states, None], strict=True):
        masks = sap_masks(source, masks, scope)
        for name in masks:
            assert torch.equal(masks[name], after[name])
        source = state


def test_remaining_weights_are_the_product_of_flatness_and_the_last_step_ends_at_the_budget():
    model = make("chain")
    total = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    trainings = []

    def train(current, masks, step):
        trainings.append(step)
        with torch.no_grad():
            for name, mask in masks.items():
                parameter = current.get_parameter(name)
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)) ** 3 * mask)

    pruner = Pruner(MagnitudeSelection("edge"), SAP("global"), schedule=UntilBudget(steps=20))
    pruned = pruner.prune(model, calibration(), Budget("keep", 0.2), train=train, rewind=copy.deepcopy(model))
    remaining = total
    for step in pruned.steps[:-1]:
        remaining = math.ceil(remaining * (1 - step["pq_index"]) - 1e-6)
        assert step["keep"] == pytest.approx(remaining / total, abs=1e-12)
    assert pruned.achieved["keep"] == pytest.approx(0.2, rel=0.01)
    assert 1 < len(pruned.steps) < 20
    assert len(trainings) == len(pruned.steps) - 1


def test_sap_prunes_edges_only():
    with pytest.raises(BadInput, match="SAP sizes layers of edge units, but .* removes node units"):
        Pruner(MagnitudeSelection("node"), SAP()).prune(make("chain"), calibration(), Budget("keep", 0.5))
