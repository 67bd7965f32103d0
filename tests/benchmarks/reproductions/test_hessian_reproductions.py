"""The reproductions of pruning by curvature: their own parts on noise, and their quick versions."""

import os

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.data.splits import Data, Split
from benchmarks.models import MLP, ResNet
from benchmarks.reproductions import module_of
from benchmarks.reproductions.hessian import _resnet20
from benchmarks.reproductions.hessian._obs import OneShot, group_obs, kept_weights, published_weights
from benchmarks.reproductions.hessian._resnet20 import block_convolutions
from benchmarks.reproductions.hessian.obs_resnet20 import RENAMED, renamed
from methods.allocation import Global, Uniform
from methods.baselines.magnitude import MagnitudeSelection
from methods.budgets.budget import Budget
from methods.compensation import Compensation
from methods.errors import BadInput
from methods.hessian.cbs import CBSSelection
from methods.hessian.obs import OBSCompensation, OBSSelection
from methods.layers.statistics import Calibration
from methods.layers.views import edge_layers
from methods.pruner import Pruner

pytestmark = pytest.mark.slow

needs_images = pytest.mark.skipif("SECATEURS_DATA" not in os.environ, reason="needs the images: SECATEURS_DATA=FOLDER")


def perceptron():
    """A perceptron 12-10-8-3 without biases, and data for it."""
    torch.manual_seed(0)
    model = MLP([10, 8], "relu", bias=False, shape=(1, 3, 4), classes=3).eval()
    split = Split(torch.randint(256, (120, 1, 3, 4), dtype=torch.uint8), torch.randint(3, (120,)), [0.5], [0.3])
    return model, Data("noise", split, split, split, 3, (1, 3, 4))


@pytest.mark.parametrize(
    ("selection", "compensation"),
    [
        (MagnitudeSelection(unit="edge"), Compensation()),
        (OBSSelection(damping=1e-3, block="full"), OBSCompensation("sum")),
        (OBSSelection(damping=1e-3, block="layer"), OBSCompensation("group")),
        (CBSSelection(trials=4, passes=3), group_obs(1e-3)),
    ],
)
@pytest.mark.usefixtures("device")
def test_one_shot_is_what_the_pruner_does(selection, compensation):
    model, data = perceptron()
    inputs = data.train.to_inputs(torch.arange(60))
    calibration = Calibration(inputs, data.train.targets[:60], torch.arange(60))
    network = OneShot(model, edge_layers(model, inputs[:2]), calibration, seed=5)
    network.masks(selection, 100)  # what was asked before must not matter
    kept = 80
    ours = network.network(network.masks(selection, kept), compensation, selection)
    allocation = Uniform() if isinstance(selection, CBSSelection) else Global()
    pruned = Pruner(selection, allocation, compensation).prune(model, calibration, Budget("keep", kept / 224), seed=5)
    for name, weight in pruned.model.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], weight, atol=1e-6), name


def test_counts_of_the_published_tables():
    assert [kept_weights(s, 32360) for s in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)] == [
        16180, 12944, 9708, 6472, 3236, 1618, 648,
    ]  # fmt: skip


def test_published_weights_say_where_they_come_from(monkeypatch, tmp_path):
    monkeypatch.delenv("SECATEURS_CHECKPOINTS", raising=False)
    with pytest.raises(BadInput, match=r"SECATEURS_CHECKPOINTS is not set.*WoodFisher"):
        published_weights("mlpnet_mnist.safetensors", "checkpoints/x.ckpt")
    monkeypatch.setenv("SECATEURS_CHECKPOINTS", str(tmp_path))
    with pytest.raises(BadInput, match="is not there"):
        published_weights("mlpnet_mnist.safetensors", "checkpoints/x.ckpt")
    (tmp_path / "mlpnet_mnist.safetensors").touch()
    assert published_weights("mlpnet_mnist.safetensors", "checkpoints/x.ckpt").parent == tmp_path


@needs_images
def test_mlpnet(tmp_path, workplace, drawn, monkeypatch):
    if "SECATEURS_CHECKPOINTS" not in os.environ:  # any weights will do to see that it runs
        torch.manual_seed(0)
        model = MLP([40, 20], "relu", bias=False, shape=(1, 28, 28), classes=10)
        save_file(model.state_dict(), tmp_path / "mlpnet_mnist.safetensors")
        monkeypatch.setenv("SECATEURS_CHECKPOINTS", str(tmp_path))
    outcome = module_of("cbs_mlpnet").run(workplace)
    table = outcome.table
    assert {"published", "ours", "std", "n", "difference"} <= set(table.columns)
    assert set(table[table["method"] == "magnitude"]["n"]) == {1}
    drawn("cbs_mlpnet", outcome)
    if "93.97" in outcome.setting:
        assert outcome.claims[0].seen and outcome.claims[1].seen


def test_kronecker(workplace, drawn):
    outcome = module_of("kronecker_lenet300").run(workplace)
    assert len(outcome.table) == 7 and set(outcome.table["n"]) == {2}
    kept = outcome.table.set_index("method")["parameters kept"].str.rstrip(" %").astype(float)
    assert kept["EigenDamage"] == pytest.approx(kept["Kron-OBS"], rel=0.05)
    assert all("over 2 seeds" in claim.evidence for claim in outcome.claims)
    drawn("kronecker_lenet300", outcome)


def test_flat_minimum(workplace, drawn):
    outcome = module_of("flat_minimum_mnist").run(workplace)
    table = outcome.table.set_index("method")
    live = table.loc[["magnitude", "mu = 0", "mu = 0.1, K-FAC"], "live neurons"]
    assert live.nunique() == 1 and live.iloc[0] > 0
    for column in ("radius before pruning", "radius after pruning", "radius at the end"):
        assert (table.drop("unpruned")[column] > 0).all()
    assert table.loc["unpruned", "accuracy"] > 50
    assert any("flatter than mu = 0" in claim.text for claim in outcome.claims)
    drawn("flat_minimum_mnist", outcome)


def test_the_papers_prune_eighteen_convolutions():
    model = ResNet(20, shape=(3, 32, 32), classes=10).eval()
    names = block_convolutions(model, torch.zeros(2, 3, 32, 32))
    assert len(names) == 18
    weights = 9 * (6 * 16 * 16 + 16 * 32 + 5 * 32 * 32 + 32 * 64 + 5 * 64 * 64)
    assert sum(model.get_submodule(name).weight.numel() for name in names) == weights
    assert {renamed(name) for name in theirs(model)} == set(model.state_dict())


def theirs(model):
    """The state dict under the names of the published file."""
    state = {}
    for name, value in model.state_dict().items():
        for published, ours in RENAMED.items():
            name = name.replace(ours, published) if ours else name
        state["module." + name] = value
    return state


@needs_images
def test_published_weights_are_pruned_where_they_are_at_hand(tmp_path, workplace, drawn, monkeypatch):
    torch.manual_seed(0)
    network, module = ResNet(20, shape=(3, 32, 32), classes=10), module_of("obs_resnet20")
    save_file(theirs(network), tmp_path / "resnet20_cifar10.safetensors")
    monkeypatch.setenv("SECATEURS_CHECKPOINTS", str(tmp_path))
    (as_is, data, model), (after, _, other) = module.dense_networks(workplace)
    assert not model.training and not other.training and len(data.test) == 60
    for name, value in network.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert not torch.equal(other.state_dict()["classifier.weight"], network.classifier.weight)
    monkeypatch.setattr(
        _resnet20, "methods", lambda _: {"magnitude": (MagnitudeSelection(unit="edge"), Global(), Compensation())}
    )
    outcome = module.run(workplace)
    assert "published weights" in outcome.setting and list(outcome.table["method"]) == ["magnitude"] * 2
    assert list(outcome.table["network"]) == [as_is, after] and not outcome.claims
    level = outcome.level(f"dense, {after}")
    assert outcome.level("dense") == level
    row = outcome.table.iloc[1]
    assert row["our change"] == pytest.approx(row["ours"] - level)
    assert row["difference"] == pytest.approx(row["our change"] - (78.79 - 91.36))
    drawn("obs_resnet20", outcome)
    monkeypatch.setattr(_resnet20, "accuracy", lambda *_: pytest.fail("all accuracies are known"))
    pd.testing.assert_frame_equal(module.run(workplace).table, outcome.table)


def test_known_accuracies_are_those_of_their_setting(tmp_path):
    path = tmp_path / "known.json"
    first = _resnet20.Measured(path, "500 gradients")
    assert first.of("CBS 0.5", lambda: 80.0) == 80.0
    assert _resnet20.Measured(path, "500 gradients").of("CBS 0.5", lambda: 70.0) == 80.0
    assert _resnet20.Measured(path, "1000 gradients").of("CBS 0.5", lambda: 70.0) == 70.0


@needs_images
def test_resnet(workplace, drawn):
    outcome = module_of("obs_resnet20_trained").run(workplace)
    table = outcome.table.set_index(["schedule", "method"])
    assert set(table.loc["one shot"].index) == {"magnitude", "WoodFisher", "WoodFisher set + group update", "CBS"}
    assert table.loc["one shot", "published"].notna().sum() == 3 and table.loc["gradual", "published"].isna().all()
    assert table["ours"].between(0, 100).all()
    assert "published weights" not in outcome.setting and set(outcome.table["network"]) == {"common trainer"}
    drawn("obs_resnet20_trained", outcome)


@pytest.mark.parametrize(
    ("name", "setting"), [("cbs_mlpnet", "MNIST, MLPNet"), ("obs_resnet20", "CIFAR-10, ResNet-20")]
)
def test_published_numbers_are_those_of_the_collection(name, setting):
    import csv
    from pathlib import Path

    root = Path(__file__).resolve().parents[3] / "results" / "published"
    with (root / "yu2022_cbs.csv").open(newline="") as file:
        known = {row["setting"]: float(row["value"]) for row in csv.DictReader(file)}
    for method, values in module_of(name).PUBLISHED.items():
        for sparsity, value in values.items():
            assert known[f"{setting}, {method}, sparsity {sparsity:g}"] == value
