"""Networks that users bring: their own factories, and those of packages that may be missing or broken."""

import os
import subprocess
import sys

import pytest

from benchmarks.cells.parts import check
from benchmarks.models import build
from benchmarks.models.build import factory_of
from benchmarks.records.store import Store
from benchmarks.storage.paths import REPOSITORY, Paths
from benchmarks.sweeps.composition import Composer
from benchmarks.sweeps.run_command import parse
from methods.errors import BadInput

pytestmark = pytest.mark.slow

SOURCE = """
from torch import nn

def factory(hidden=12, *, shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, classes))

def foreign(*, weights=None, **settings):
    assert set(settings) == {"num_classes"}, settings
    return factory(shape=None, classes=settings["num_classes"])
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes a package of a given name that Python finds, and forgets it afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def written(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        sys.modules.pop(name, None)

    yield written
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("brought", "torchvision", "timm"):
            del sys.modules[name]


def test_a_target_alone_is_a_network_without_the_arguments_of_the_usual_one(package):
    package("brought", SOURCE)
    request = parse(["model._target_=brought.factory", "+model.hidden=9", "seed=1"])
    config = Composer(REPOSITORY / "conf").cell(request.words)
    assert config["model"] == {"name": None, "_target_": "brought.factory", "hidden": 9}
    check(config)
    model = build(config["model"], (1, 8, 8), 5, 0)
    assert (model[1].out_features, model[3].out_features) == (9, 5)
    assert parse(["model=mlp", "model._target_=brought.factory"]).words[0] == "model=mlp"


@pytest.mark.parametrize("target", ["torchvision.models.resnet18", "timm.create_model"])
def test_a_missing_package_is_named_with_what_to_type(target, monkeypatch):
    monkeypatch.setitem(sys.modules, target.partition(".")[0], None)  # import raises ModuleNotFoundError
    with pytest.raises(BadInput) as caught:
        factory_of({"_target_": target})
    first, second = str(caught.value).splitlines()
    assert target.partition(".")[0] in first and "not installed" in first
    assert "secateurs[vision]" in second


def test_a_torchvision_that_does_not_fit_torch_says_so_in_two_lines(package):
    package("torchvision", "raise RuntimeError('operator torchvision::nms does not exist')")
    with pytest.raises(BadInput) as caught:
        factory_of({"_target_": "torchvision.models.resnet18"})
    first, second = str(caught.value).splitlines()
    assert "does not fit torch" in first and "torchvision::nms" in first
    assert "secateurs[vision]" in second


def test_factories_of_torchvision_get_the_number_of_classes_by_its_name(package):
    package("torchvision", SOURCE)
    assert build({"_target_": "torchvision.foreign", "name": "x"}, (1, 8, 8), 7, 0)[-1].out_features == 7


@pytest.mark.parametrize(
    ("target", "expected"),
    [("???", "has no _target_"), ("no_such_package.f", "no_such_package"), ("benchmarks.models.Nothing", "Nothing")],
)
def test_what_cannot_be_imported_is_refused_before_anything_runs(target, expected):
    config = Composer(REPOSITORY / "conf").cell(["model=own", f"model._target_='{target}'"])
    with pytest.raises(BadInput) as caught:
        check(config)
    assert expected in str(caught.value) and len(str(caught.value).splitlines()) <= 2


def test_a_network_that_cannot_be_copied_is_refused_when_it_is_built(package):
    package(
        "brought",
        SOURCE
        + """
import torch.nn.utils.prune

def masked(*, shape, classes):
    model = factory(shape=shape, classes=classes)
    nn.utils.prune.l1_unstructured(model[1], "weight", 0.5)
    return model
""",
    )
    with pytest.raises(BadInput, match=r"the weight of 1 is computed anew[^$]*torch\.nn\.utils\.prune\.remove\(1, "):
        build({"_target_": "brought.masked", "name": None}, (1, 8, 8), 5, 0)


CALLING = """
import torch
from torch import nn
from own_helpers import activation


class Calling(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.first, self.second = nn.Linear(64, 20), nn.Linear(20, classes)

    def forward(self, x):
        return self.second(activation(self.first(x.flatten(1))))
"""


@pytest.mark.slow
def test_a_dense_network_is_not_used_by_an_edited_factory(tmp_path):
    """ReLU -> Sigmoid in a function of another file: the same class, shapes and key, but another network."""
    words = ["model._target_=own_network.Calling", "trainer=tiny", "trainer.train.epochs=6", "dataset.limit=900"]
    words += ["measure=none", "track=none", f"paths.cache={tmp_path}/cache"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "SECATEURS_DATA": "", "COLUMNS": "300"}
    (tmp_path / "own_network.py").write_text(CALLING)
    accuracies = []
    for number, function in enumerate(("torch.relu(x)", "torch.relu(x)", "torch.sigmoid(6 * x - 3)")):
        (tmp_path / "own_helpers.py").write_text(f"import torch\n\n\ndef activation(x):\n    return {function}\n")
        command = [sys.executable, "run.py", *words, f"paths.results={tmp_path}/results{number}", "method=random"]
        result = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        said = " ".join((result.stdout + result.stderr).split())
        assert ("it was trained by other code; training it afresh" in said) == (number == 2)
        [record] = Store.of(Paths(tmp_path / f"results{number}")).load()[0]
        accuracies.append(record.metrics.dense.accuracy)
        validation = max(row["validation_accuracy"] for row in record.history["train"])
        assert abs(record.metrics.dense.accuracy - validation) < 0.15
    assert accuracies[0] == accuracies[1] != accuracies[2]
