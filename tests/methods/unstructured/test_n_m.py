"""n:m patterns for every method of single weights: by brute force, authors' numbers, sweeps written out."""

import json
from pathlib import Path

import pytest
import torch
from networks import calibration, make, noise
from omegaconf import OmegaConf
from torch import nn

from methods.baselines.magnitude import MagnitudeSelection
from methods.baselines.random import RandomSelection
from methods.budgets.budget import Budget
from methods.compensation import LeastSquares
from methods.errors import BadInput
from methods.hessian.cbs import CBSSelection
from methods.hessian.exact_obs import ExactOBSSelection
from methods.layers.statistics import Calibration
from methods.layers.views import edge_views
from methods.lq.selection import RegressionSelection
from methods.pruner import Pruner
from methods.schedule import Iterative
from methods.sparse_training import Length
from methods.unstructured.n_m import NM, Pattern
from methods.unstructured.rigl import RigL
from methods.unstructured.sparsegpt import SparseGPTSelection, SparseGPTUpdate
from methods.unstructured.wanda import WandaSelection
from secateurs.presets import pruner_of

CONF = Path(__file__).parents[3] / "conf"
GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "authors.json").read_text(encoding="utf-8"))
DATA = calibration(64)
HALF = Budget("keep", 0.5)


def network(seed=0):
    """A convolution of 3 channels, which no group of four fits, one of 8, and a linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5)
        )


def data(n=30):
    return Calibration(noise(n, 3, 8, 8), torch.arange(n) % 5, batch_size=16)


def layers(model=None, samples=None):
    return edge_views(model or network(), ["0", "2", "5"], {}, samples or data(), "test")


def in_groups(mask, shape, m):
    """(out, kernel positions, groups, m) of a mask (out, d): groups of input channels at one position."""
    out, channels = shape[0], shape[1]
    return mask.view(out, channels, -1).transpose(1, 2).reshape(out, -1, channels // m, m)


def brute(scores, shape, n, m):
    """The n largest of each group, by loops."""
    found = torch.zeros_like(scores, dtype=torch.bool)
    channels, positions = shape[1], scores.shape[1] // shape[1]
    for row in range(len(scores)):
        for position in range(positions):
            for start in range(0, channels, m):
                places = [channel * positions + position for channel in range(start, start + m)]
                found[row, sorted(places, key=lambda place: -float(scores[row, place]))[:n]] = True
    return found


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (3, 4), (1, 8)])
@pytest.mark.parametrize("selection", [MagnitudeSelection("edge"), WandaSelection()])
def test_the_largest_scores_of_each_group_stay(selection, n, m):
    [first, second, last] = layers()
    imposed = NM(n, m).imposed_on(selection)
    counts = NM(n, m).family([first, second, last], imposed)(0.3)
    assert counts == {"0": 216, "2": 432 * n // m, "5": 480 * n // m}
    for layer in (second, last):
        mask = imposed.select(layer, counts[layer.name])
        assert torch.equal(mask, brute(selection.scores(layer), layer.shape, n, m))
    assert imposed.select(first, 216).all()  # three channels: it stays as it is


def test_what_earlier_steps_have_pruned_does_not_come_back():
    [_, _, last] = layers()
    last.live[:, :3] = False
    last.live[2] = False
    imposed = NM(2, 4).imposed_on(MagnitudeSelection("edge"))
    mask = imposed.select(last, 0)
    assert not mask[~last.live].any() and int(mask.sum()) == Pattern(2, 4).counts(last)
    assert mask.view(5, -1, 4).sum(2).max() == 2 and mask[0, 3]


SCORED = [
    "alps", "exact_obs", "gradual_magnitude", "grasp", "lamp", "lottery_ticket", "lq", "magnitude_edge", "mfac",
    "movement", "obd", "obs", "one_shot", "random_edge", "rigl", "sap", "set", "sipp", "snip", "sparsegpt", "synflow",
    "wanda", "wood_taylor",
]  # fmt: skip
SETS = {"cbs", "chita", "dpp_edge", "lq_greedy", "lq_lasso", "surp"}  # choose sets, by no score per weight


@pytest.mark.slow
def test_every_method_of_single_weights_is_in_one_of_the_lists():
    methods = [path.stem for path in (CONF / "method").glob("*.yaml")]
    edges = {method for method in methods if pruner_of(method).selection.unit == "edge"}
    assert edges == {*SCORED, *SETS}


@pytest.mark.slow
@pytest.mark.parametrize("method", SCORED)
def test_every_method_with_scores_keeps_two_of_four_everywhere(method):
    """With its own repair and schedule; the network's first convolution reads one channel and stays as it is."""
    pruner = pruner_of(method, allocation="n_m")
    model = make("convolution")
    rewind = make("convolution", seed=1)
    pruned = pruner.prune(model, DATA, HALF, 0, rewind=None if pruner.schedule.rewind == "none" else rewind)
    assert pruned.note.startswith("the allocation fixes the sizes")
    for name, mask in pruned.masks.items():
        weight = pruned.model.get_parameter(name)
        assert not weight[~mask].any()
        if weight.shape[1] % 4 == 0:
            groups = in_groups(mask.flatten(1), weight.shape, 4)
            assert (groups.sum(3) == 2).all(), name
        elif weight.shape[1] == 1:
            assert mask.all()


def numbers(*shape, step, phase=0.1):
    """What the authors' program was given, as in test_authors."""
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(step * i * i + phase + 0.5 * i).reshape(shape).float()


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_exact_obs_ends_with_the_authors_masks_and_weights(kind):
    """Numbers of TrueOBS, as in test_authors, by way of the allocation."""
    if kind == "linear":
        layer, inputs = nn.Linear(8, 4, bias=False), numbers(40, 8, step=0.11, phase=0.3)
        layer.weight = nn.Parameter(numbers(4, 8, step=0.37))
    else:
        layer, inputs = nn.Conv2d(4, 3, 3, padding=1, bias=False), numbers(20, 4, 5, 5, step=0.07, phase=0.9)
        layer.weight = nn.Parameter(numbers(3, 4, 3, 3, step=0.23))
    samples = Calibration(inputs, torch.zeros(len(inputs), dtype=torch.long))
    allocation = NM(2, 4)
    pruner = Pruner(
        allocation.imposed_on(ExactOBSSelection(damping=0.0)), allocation, LeastSquares(ridge=0.0, refit=False)
    )
    found = pruner.prune(nn.Sequential(layer, nn.Identity()), samples, HALF).model[0].weight.detach().flatten(1)
    expected = torch.tensor(GOLDEN["trueobs"][f"2:4 {kind}"])
    assert torch.equal(found != 0, expected != 0)
    assert torch.allclose(found, expected, atol=2e-3)


def swept(weight, system, n, m):
    """SparseGPT's n:m sweep by explicit inverses: the mask of m columns is chosen when the sweep reaches them."""
    weight, mask = weight.clone(), torch.ones_like(weight, dtype=torch.bool)
    for column in range(weight.shape[1]):
        inverse = torch.linalg.inv(system[column:, column:])
        if column % m == 0:
            # 1 / U_jj^2 of a later column is the inverse of the first entry of its own inverse
            scale = [torch.linalg.inv(system[j:, j:])[0, 0] for j in range(column, column + m)]
            scores = weight[:, column : column + m].square() / torch.stack(scale)
            gone = scores.argsort(1)[:, : m - n]
            mask[:, column : column + m].scatter_(1, gone, False)
        for row in range(len(weight)):
            if not mask[row, column]:
                weight[row, column:] -= weight[row, column].clone() / inverse[0, 0] * inverse[0]
    return weight * mask, mask


def test_sparsegpt_chooses_each_group_when_its_sweep_reaches_it_and_updates_the_rest():
    [_, second, last] = layers()
    allocation = NM(2, 4)
    imposed = allocation.imposed_on(SparseGPTSelection(damping=0.01))
    for layer in (second, last):
        columns = Pattern(2, 4).columns(layer)
        moments = layer.moments.second[columns][:, columns]
        system = moments + 0.01 * moments.diagonal().mean() * torch.eye(len(moments), dtype=torch.float64)
        wanted, mask = swept(layer.weight[:, columns], system, 2, 4)
        found = imposed.select(layer, layer.size // 2)
        assert torch.equal(found[:, columns], mask)
        updated = SparseGPTUpdate(0.01).edge_weights([layer], {layer.name: found}, imposed)[layer.name]
        assert not updated[~found].any()
        if layer is last:  # whose columns the update goes through in the same order
            assert torch.allclose(updated, wanted, atol=1e-8)


def test_a_repair_shares_the_settings_of_the_inner_selection():
    imposed = NM(2, 4).imposed_on(SparseGPTSelection(damping=0.5))
    assert imposed.damping == 0.5 and NM(1, 4).imposed_on(imposed).inner is imposed.inner
    with pytest.raises(AttributeError):
        _ = imposed.nothing_of_the_kind


def test_steps_keep_the_pattern():
    pruner = pruner_of("magnitude_edge", allocation="n_m", schedule=Iterative(3))
    pruned = pruner.prune(make("chain"), DATA, HALF)
    assert all((in_groups(mask, mask.shape, 4).sum(3) == 2).all() for mask in pruned.masks.values())


def test_the_command_line_words_give_the_pattern():
    pruner = pruner_of("wanda", allocation="n_m", overrides=["allocation.n=1", "allocation.m=2"])
    pruned = pruner.prune(make("chain"), DATA, HALF)
    assert all((in_groups(mask, mask.shape, 2).sum(3) == 1).all() for mask in pruned.masks.values())
    assert OmegaConf.load(CONF / "allocation" / "n_m.yaml").m == 4


@pytest.mark.parametrize(
    ("selection", "said"),
    [(MagnitudeSelection(), "removes node units"), (CBSSelection(), "for the whole network at once")],
)
def test_selections_of_nodes_or_of_whole_networks_have_no_groups(selection, said):
    with pytest.raises(BadInput, match=said):
        NM().imposed_on(selection)


def test_sets_that_follow_no_score_are_refused():
    with pytest.raises(BadInput, match="no score per unit"):
        NM().imposed_on(RegressionSelection())


def test_sizes_alone_make_no_pattern():
    with pytest.raises(BadInput, match="imposed_on"):
        Pruner(WandaSelection(), NM(2, 4))
    with pytest.raises(BadInput, match="imposed_on"):
        Pruner(NM(1, 4).imposed_on(WandaSelection()), NM(2, 4))


def test_masks_that_change_in_training_keep_no_pattern():
    schedule = RigL()
    pruner = Pruner(NM().imposed_on(RandomSelection("edge")), NM(), schedule=schedule)
    with pytest.raises(BadInput, match="allocation=erdos_renyi"):
        schedule.prepare(pruner, make("chain"), DATA, HALF, Length(1, 5), 0)


@pytest.mark.parametrize(("n", "m"), [(0, 4), (4, 4), (5, 4)])
def test_patterns_that_are_none_are_refused(n, m):
    with pytest.raises(BadInput, match="type allocation.n=2"):
        NM(n, m)
