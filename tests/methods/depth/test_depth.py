"""Whole residual blocks: which are found, what leaving them out comes to, the scores, and budgets."""

import copy
import itertools
import math

import pytest
import torch
from networks import calibration, make
from torch import nn

from benchmarks.cells import cell
from benchmarks.models import build
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from methods.allocation import Global
from methods.budgets.budget import Budget
from methods.compensation import LeastSquares
from methods.depth.blocks import cost_without, left_out, residual_blocks
from methods.depth.selection import SCORES, BlockSelection
from methods.errors import BadInput, Skipped, Unreachable
from methods.layers.gradients import sample_losses
from methods.network.counting import count_macs
from methods.pruner import Pruner
from methods.schedule import Iterative

DATA = calibration(48)
PATHS = [str(number) for number in range(2, 8)]


def network(name, shape, **options):
    return build({"_target_": f"benchmarks.models.{name}", **options}, shape, 10, 0).eval()


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("ResNet", {"depth": 20}, ["stage1.0", "stage1.1", "stage1.2", "stage2.1", "stage2.2", "stage3.1", "stage3.2"]),
        ("ViT", {"depth": 2, "dim": 16, "heads": 2, "hidden": 16}, ["blocks.0", "blocks.1"]),
        ("MobileNetV2", {"width": 0.2}, [f"blocks.{n}" for n in (2, 4, 5, 7, 8, 9, 11, 12, 14, 15)]),
    ],
)
def test_blocks_are_those_with_a_shortcut_without_weights(name, options, expected):
    model, example = network(name, (3, 16, 16), **options), torch.randn(2, 3, 16, 16, generator=generator())
    before = copy.deepcopy(model.state_dict())
    assert [block.path for block in residual_blocks(model, example)] == expected
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", ["chain", "convolution"])
def test_a_network_without_blocks_is_told_apart(name):
    with pytest.raises(Skipped, match="no residual block"):
        Pruner(BlockSelection()).prune(make(name), DATA, Budget("keep", 0.5))


@pytest.mark.parametrize("number", range(1, 6))
def test_costs_are_those_of_the_network_that_is_left(number):
    model, example = make("blocks"), DATA.inputs[:2]
    found = residual_blocks(model, example)
    assert [block.path for block in found] == PATHS
    cost = cost_without(model, example, found, found[:number])
    with left_out(model, PATHS[:number]) as smaller:
        assert cost.compression == sum(parameter.numel() for parameter in smaller.parameters())
        assert cost.speedup == count_macs(smaller, example)
    assert cost.keep == 6 - number and len(residual_blocks(model, example)) == 6


def by_hand(score, model, path):
    """The score of one block in an independent calculation, sample by sample."""
    if score == "magnitude":
        block = model.get_submodule(path)
        return torch.cat([block.first.weight.flatten(), block.second.weight.flatten()]).abs().mean().item()
    place = int(path)
    with torch.no_grad():
        if score == "loss":
            rest = nn.Sequential(*(module for number, module in enumerate(model) if number != place))
            return sample_losses(rest(DATA.inputs), DATA.labels).mean().item()
        before = model[:place](DATA.inputs).double()
        behind = model[place](before.float()).double()
    if score == "angular":
        pairs = zip(before.flatten(1), behind.flatten(1), strict=True)
        angles = [math.acos(min(1.0, float(x @ y / (x.norm() * y.norm())))) / math.pi for x, y in pairs]
        return sum(angles) / len(angles)
    pixels = [each.movedim(1, -1).reshape(-1, 6) for each in (before, behind)]
    cosines = [float(x @ y / max(float(x.norm() * y.norm()), 1e-8)) for x, y in zip(*pixels, strict=True)]
    return sum(1 - cosine for cosine in cosines) / len(cosines)


@pytest.mark.verifies("depth", by="brute force")
@pytest.mark.parametrize("score", [score for score in SCORES if score != "random"])
def test_scores_follow_their_formulas(score):
    model = make("blocks")
    found = BlockSelection(score).scores_of(model, residual_blocks(model, DATA.inputs[:2]), DATA)
    assert list(found) == PATHS
    for path, value in found.items():
        assert value == pytest.approx(by_hand(score, model, path), rel=1e-4, abs=1e-7)


def test_the_least_block_goes_first_and_scores_are_taken_anew():
    """Greedy by the loss, against every network without one block more, step by step."""
    model = make("blocks")
    gone = []
    for _ in range(3):
        losses = {path: by_hand("loss", nn.Sequential(*model), path) for path in PATHS if path not in gone}
        gone.append(min(losses, key=losses.get))
        model[int(gone[-1])] = nn.Identity()
    found = Pruner(BlockSelection("loss")).prune(make("blocks"), DATA, Budget("keep", 0.5))
    assert set(found.layers[0]["removed"]) == set(gone)
    with torch.no_grad():
        assert torch.equal(found.model(DATA.inputs), model(DATA.inputs))


@pytest.mark.slow
@pytest.mark.parametrize("score", SCORES)
def test_budgets_are_met_as_nearly_as_whole_blocks_can(score):
    for kind, value in (("keep", 0.5), ("compression", 2.0), ("speedup", 3.0)):
        dense = make("blocks")
        before = copy.deepcopy(dense.state_dict())
        found = Pruner(BlockSelection(score)).prune(dense, DATA, Budget(kind, value))
        [row] = found.layers
        assert row["units"] == 6 and row["kept"] == 6 - len(row["removed"]) and found.unit == "node"
        assert all(torch.equal(before[key], each) for key, each in dense.state_dict().items())
        example, blocks = DATA.inputs[:2], residual_blocks(dense, DATA.inputs[:2])
        limit = Budget(kind, value).remaining * cost_without(dense, example, blocks, []).of(kind) * 1.01
        removed = [block for block in blocks if block.path in row["removed"]]
        assert cost_without(dense, example, blocks, removed).of(kind) <= limit
        for block in removed:  # none of them went in vain
            others = [other for other in removed if other is not block]
            assert cost_without(dense, example, blocks, others).of(kind) > limit
        off = abs(found.achieved[kind] / value - 1) > 0.01
        assert (found.note is not None) == off


def test_steps_and_seeds():
    found = Pruner(BlockSelection(), schedule=Iterative(2, "linear")).prune(make("blocks"), DATA, Budget("keep", 1 / 3))
    assert [step["keep"] for step in found.steps] == [pytest.approx(4 / 6), pytest.approx(2 / 6)]
    assert found.layers[0]["units"] == 6
    choices = {
        tuple(
            Pruner(BlockSelection("random"))
            .prune(make("blocks"), type(DATA)(DATA.inputs, DATA.labels, seed=seed), Budget("keep", 0.5))
            .layers[0]["removed"]
        )
        for seed in range(6)
    }
    assert len(choices) > 1


def test_what_cannot_be_is_refused():
    with pytest.raises(Unreachable, match="without all 6 blocks"):
        Pruner(BlockSelection()).prune(make("blocks"), DATA, Budget("compression", 100.0))
    with pytest.raises(BadInput, match="compensation=none"):
        Pruner(BlockSelection(), compensation=LeastSquares())
    with pytest.raises(BadInput, match="ranks the blocks by itself"):
        Pruner(BlockSelection(), allocation=Global())
    with pytest.raises(BadInput, match="score=depth"):
        BlockSelection("depth")


@pytest.mark.slow
def test_a_cell_on_a_residual_network(tmp_path):
    words = [
        "dataset=digits", "dataset.limit=100", "model=resnet20", "model.depth=14", "model.width=0.25", "trainer=tiny",
        "calibration.samples=50", "track=none", "measure=none", "method=depth", "budget.speedup=1.3", "save=true",
        f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache",
    ]  # fmt: skip
    found = cell.run(Composer(CONF).cell(words))
    assert found.status == "done" and found.unit == "node"
    assert found.budget.achieved.speedup >= 1.3 * 0.99
    assert found.metrics.tuned.parameters < found.metrics.dense.parameters
    assert list(itertools.chain(*(layer.removed for layer in found.layers)))
    assert (tmp_path / "results" / "networks" / found.key / "weights.safetensors").is_file()
