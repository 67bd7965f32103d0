"""The plainest methods, as their presets have them, followed by hand over small networks."""

import itertools
import math

import pytest
import torch
from torch import nn

from methods.baselines.random import RandomSelection
from methods.budgets.budget import Budget
from methods.layers.statistics import Calibration
from methods.layers.views import edge_views, node_views
from methods.lq.selection import lasso_path
from methods.network.graph import NetworkGraph
from methods.selection import largest_mask
from secateurs.presets import pruner_of

pytestmark = pytest.mark.cpu("followed by hand in tensors of the CPU")
DATA = Calibration(torch.zeros(4, 8), torch.zeros(4, dtype=torch.long))
PLACES = (0, 2)
SIZE = 6 * 8 + 5 * 6


def network(seed):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return model


def trained(weights, step):
    """As if it had been trained: the same change for the same step, which changes the order of magnitudes."""
    generator = torch.Generator().manual_seed(100 + step)
    return [w * (0.5 + torch.rand(w.shape, generator=generator)) for w in weights]


def weights_of(model):
    return [model[place].weight.detach().clone() for place in PLACES]


def largest(weights, masks, count):
    """The ``count`` largest weights of the whole network among those that ``masks`` have left."""
    flat = torch.cat([(w.abs() * m).flatten() for w, m in zip(weights, masks, strict=True)])
    kept = torch.zeros(len(flat), dtype=torch.bool)
    kept[flat.argsort(descending=True)[:count]] = True
    return [part.view_as(w) for part, w in zip(kept.split([w.numel() for w in weights]), weights, strict=True)]


def followed(keeps, weights, rewound=None):
    """The masks and the weights after each step of a schedule that leaves ``keeps`` of the weights."""
    masks = [torch.ones_like(w, dtype=torch.bool) for w in weights]
    for step, keep in enumerate(keeps):
        masks = largest(weights, masks, round(keep * SIZE))
        weights = [w * m for w, m in zip(rewound or weights, masks, strict=True)]
        if step < len(keeps) - 1:
            weights = trained(weights, step)
    return weights


def pruned(method, keep, rewind=None):
    """The weights that a preset leaves, with training between its steps that is :func:`trained`."""
    steps = itertools.count()

    def train(model, masks, step):
        for place, weight in zip(PLACES, trained(weights_of(model), next(steps)), strict=True):
            model[place].weight.data = weight

    done = pruner_of(method).prune(network(0), DATA, Budget("keep", keep), train=train, rewind=rewind)
    return weights_of(done.model), next(steps)


@pytest.mark.verifies("magnitude_edge", by="brute force")
@pytest.mark.parametrize("keep", [0.25, 0.5])
def test_the_largest_weights_of_the_whole_network_stay(keep):
    found, trainings = pruned("magnitude_edge", keep)
    for own, wanted in zip(found, followed([keep], weights_of(network(0))), strict=True):
        assert torch.equal(own, wanted)
    assert trainings == 0


@pytest.mark.verifies("gradual_magnitude", by="brute force")
def test_gradual_pruning_follows_the_cubic_curve_with_training_between():
    """What is left after step t of T = 10 is b + (1 - b)(1 - t / T)^3 of the weights (Zhu & Gupta, equation 1)."""
    keep = 0.25
    found, trainings = pruned("gradual_magnitude", keep)
    curve = [keep + (1 - keep) * (1 - t / 10) ** 3 for t in range(1, 11)]
    for own, wanted in zip(found, followed(curve, weights_of(network(0))), strict=True):
        assert torch.allclose(own, wanted, rtol=1e-5)
    assert trainings == 9


@pytest.mark.verifies("lottery_ticket", by="brute force")
def test_tickets_lose_the_same_share_in_each_step_and_go_back_to_their_first_values():
    keep, first = 0.2, network(7)
    found, _ = pruned("lottery_ticket", keep, rewind=first)
    curve = [keep ** (t / 5) for t in range(1, 6)]
    for own, wanted in zip(found, followed(curve, weights_of(network(0)), weights_of(first)), strict=True):
        assert torch.equal(own, wanted)


@pytest.mark.verifies("one_shot", by="brute force")
def test_one_shot_takes_the_trained_networks_magnitudes_and_the_first_values():
    keep, first = 0.2, network(7)
    found, _ = pruned("one_shot", keep, rewind=first)
    for own, wanted in zip(found, followed([keep], weights_of(network(0)), weights_of(first)), strict=True):
        assert torch.equal(own, wanted)


@pytest.mark.verifies("random", "random_edge", by="closed form")
@pytest.mark.parametrize("unit", ["node", "edge"])
def test_each_set_of_two_is_drawn_as_often_as_any_other(unit):
    """Within 4.5 standard deviations of draws / sets."""
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    data = Calibration(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long))
    if unit == "node":
        [layer] = node_views(model, NetworkGraph(model, data.inputs[:2]).groups, data, "test")
    else:
        layer = edge_views(model, ["2"], {}, data, "test")[0]  # of four weights
    draws, counts = 3000, {}
    for _ in range(draws):
        drawn = largest_mask(RandomSelection(unit).scores(layer).flatten(), 2)
        members = tuple(drawn.nonzero().flatten().tolist())
        counts[members] = counts.get(members, 0) + 1
    assert sorted(counts) == list(itertools.combinations(range(4), 2))
    assert all(abs(count - draws / 6) < 4.5 * math.sqrt(draws * 5 / 36) for count in counts.values())


def last_on_the_path(target, second, k):
    """The support, of at most k, of the lasso's solution with the smallest penalty, by trying every signed support.

    For support S with signs s the solution is w_S = G_SS^-1 (t_S - penalty s); it is one where its signs are s and no
    other input is more correlated with what is missing than the penalty: linear inequalities in the penalty.
    """
    scale = second.diagonal().sqrt()
    gram, right = second / torch.outer(scale, scale), target / scale
    best = (float(right.abs().max()), ())
    for size in range(1, k + 1):
        for support in itertools.combinations(range(len(target)), size):
            own, others = list(support), [j for j in range(len(target)) if j not in support]
            inverse = torch.linalg.inv(gram[own][:, own])
            for signs in itertools.product((-1.0, 1.0), repeat=size):
                s = torch.tensor(signs, dtype=torch.float64)
                level, slope = inverse @ right[own], inverse @ s  # w = level - penalty slope
                missing, grown = right[others] - gram[others][:, own] @ level, gram[others][:, own] @ slope
                rows = [(s * level, s * slope), (-missing, grown - 1), (missing, -grown - 1)]  # a >= penalty b
                a, b = (torch.cat([row[part] for row in rows]) for part in range(2))
                low = max([0.0, *(a[b < -1e-12] / b[b < -1e-12]).tolist()])
                high = min([math.inf, *(a[b > 1e-12] / b[b > 1e-12]).tolist()])
                if low < high and low < best[0] - 1e-12 and bool((a[b.abs() <= 1e-12] >= -1e-12).all()):
                    best = (low, support)
    return list(best[1])


@pytest.mark.verifies("lq_lasso", by="brute force")
@pytest.mark.parametrize("seed", range(4))
def test_the_lasso_picks_the_support_with_the_smallest_penalty(seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(50, 5, generator=generator, dtype=torch.float64)
    features = features @ torch.randn(5, 5, generator=generator, dtype=torch.float64)
    second = features.T @ features / len(features)
    target = second @ torch.randn(5, generator=generator, dtype=torch.float64)
    for k in range(1, 5):
        assert sorted(lasso_path(target, second, k).tolist()) == last_on_the_path(target, second, k)
