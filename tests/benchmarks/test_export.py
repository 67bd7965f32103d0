"""Kept networks load again as they were, and files for deployment compute what the network computes."""

import copy
import json
import subprocess
import sys

import networks
import numpy as np
import pytest
import torch
from networks import calibration, make, noise
from PIL import Image
from torch import nn

from benchmarks import export as exporting
from benchmarks.cells.cell import run
from benchmarks.data.splits import load
from benchmarks.export import export, find_network, load_network, main, parse
from benchmarks.measure.lock import one_at_a_time
from benchmarks.measure.runtimes import RUNTIMES
from benchmarks.models import build
from benchmarks.models.saved import DESCRIPTION, WEIGHTS, lacks_network, network_folder, save_network
from benchmarks.settings.home import CONF
from benchmarks.storage.paths import REPOSITORY, Paths
from benchmarks.sweeps.composition import Composer
from methods.allocation import Uniform
from methods.baselines.random import RandomSelection
from methods.budgets.budget import Budget
from methods.errors import BadInput
from methods.pruner import Pruner

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("accelerator")]

SHAPE = (1, 8, 8)


class Separable(nn.Module):
    """Depthwise and pointwise convolutions, a layer norm, and a hidden layer without bias."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.pointwise = nn.Conv2d(8, 12, 1)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(12, 6, bias=False)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.relu(self.pointwise(self.relu(self.norm(self.depthwise(self.stem(x))))))
        return self.head(self.relu(self.hidden(self.flatten(self.pool(x)))))


class Tied(nn.Module):
    """An encoder whose weight is also the decoder's."""

    def __init__(self):
        super().__init__()
        self.flatten = nn.Flatten()
        self.first = nn.Linear(64, 10)
        self.second = nn.Linear(64, 10)
        self.second.weight = self.first.weight
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        x = self.flatten(x)
        return self.head(self.first(x) + self.second(-x))


@pytest.fixture(autouse=True)
def extra_networks(monkeypatch):
    monkeypatch.setattr(networks, "Separable", Separable, raising=False)
    monkeypatch.setattr(networks, "Tied", Tied, raising=False)


def original(name, seed=0):
    """The configuration of a network, and the network with random weights and batch-norm statistics."""
    if name in networks.NETWORKS:
        return {"_target_": f"secateurs.examples.{networks.NETWORKS[name].__name__}"}, make(name, seed)
    config = {"_target_": f"networks.{name}"}
    return config, build(config, SHAPE, 4, seed).eval()


def pruned(model, keep=0.5, unit="node"):
    pruner = Pruner(RandomSelection(unit=unit), Uniform(), prune_residual=True)
    return pruner.prune(model, calibration(), Budget("keep", keep)).model.eval()


def same(first, second):
    x = noise(5, *SHAPE)
    with torch.no_grad():
        return torch.equal(first(x), second(x))


@pytest.mark.parametrize("name", [*networks.NETWORKS, "Separable"])
def test_a_smaller_network_loads_as_it_was(name, tmp_path):
    config, model = original(name)
    smaller = pruned(model)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    save_network(tmp_path, smaller, config, SHAPE, 4)
    loaded = load_network(tmp_path)
    assert same(loaded, smaller) and not loaded.training
    assert loaded.state_dict().keys() == smaller.state_dict().keys()
    for (path, before), after in zip(smaller.named_modules(), loaded.modules(), strict=True):
        assert repr(before) == repr(after), path


def test_a_masked_network_keeps_its_zeros(tmp_path):
    config, model = original("convolution")
    masked = pruned(model, unit="edge")
    save_network(tmp_path, masked, config, SHAPE, 4)
    loaded = load_network(tmp_path)
    assert same(loaded, masked)
    assert torch.equal(loaded[0].weight == 0, masked[0].weight == 0) and bool((loaded[0].weight == 0).any())


def test_shared_weights_stay_shared(tmp_path):
    config, model = original("Tied")
    model.first.weight.data = noise(*model.first.weight.shape)
    save_network(tmp_path, model, config, SHAPE, 4)
    loaded = load_network(tmp_path)
    assert loaded.first.weight is loaded.second.weight
    assert same(loaded, model)


def test_replaced_layers_and_biases_that_came_or_went(tmp_path):
    config, model = original("chain")
    model[1] = nn.Sequential(nn.Linear(64, 3, bias=False), nn.Linear(3, 20))
    model[3] = nn.Linear(20, 16, bias=False)
    save_network(tmp_path, model, config, SHAPE, 4)
    loaded = load_network(tmp_path)
    assert same(loaded, model) and loaded[3].bias is None

    config, model = original("Separable")
    model.hidden = nn.Linear(12, 6)
    save_network(tmp_path, model, config, SHAPE, 4)
    assert same(load_network(tmp_path), model)


def test_what_cannot_be_described_is_refused(tmp_path):
    class Odd(nn.Linear):
        def forward(self, x):
            return super().forward(x).square()

    config, model = original("chain")
    model[1] = Odd(64, 20)
    with pytest.raises(BadInput, match="'1' is a Odd"):
        save_network(tmp_path, model, config, SHAPE, 4)

    config, model = original("chain")
    model.register_forward_hook(lambda _m, _x, y: y + 1)
    with pytest.raises(BadInput, match="something else"):
        save_network(tmp_path, model, config, SHAPE, 4)
    assert not list(tmp_path.iterdir())


def test_damage_is_noticed(tmp_path):
    config, model = original("chain")
    with pytest.raises(BadInput, match=f"{DESCRIPTION} is not there"):
        load_network(tmp_path)
    save_network(tmp_path, model, config, SHAPE, 4)
    weights = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(weights[:-4] + b"\0\1\2\3")
    with pytest.raises(BadInput, match="damaged"):
        load_network(tmp_path)
    description = json.loads((tmp_path / DESCRIPTION).read_text())
    (tmp_path / DESCRIPTION).write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(BadInput, match="format 99"):
        load_network(tmp_path)
    (tmp_path / DESCRIPTION).write_text("{")
    with pytest.raises(BadInput, match="not a network's description"):
        load_network(tmp_path)


def test_loading_needs_nothing_of_training_or_pruning(tmp_path):
    config = {"_target_": "benchmarks.models.ResNet", "depth": 8, "width": 0.5}
    save_network(tmp_path, build(config, SHAPE, 4, 0), config, SHAPE, 4)
    code = (
        "import sys\n"
        "from benchmarks.models.saved import load_network\n"
        "load_network(sys.argv[1])\n"
        "print(*(m for m in ('benchmarks.training.trainer', 'benchmarks.cells.cell', 'methods.pruner', 'lightning',"
        " 'wandb', 'torch_pruning') if m in sys.modules))\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert child.stdout.strip() == ""


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """A finished cell on digits with its network kept."""
    root = tmp_path_factory.mktemp("cell")
    words = ["method=magnitude", "compensation=none", "budget.keep=0.4", "trainer=tiny", "measure=none", "track=none"]
    words += [f"paths.results={root}/results", f"paths.cache={root}/cache", "save=true"]
    config = Composer(REPOSITORY / "conf").cell(words)
    return config, run(config)


def test_a_cell_keeps_its_network_and_is_run_again_where_it_was_not_kept(cell):
    config, record = cell
    assert record.status == "done"
    assert record.size.pruned.bytes < record.size.dense.bytes
    paths = Paths.of(config["paths"])
    folder = network_folder(paths.results, record.key)
    loaded = load_network(folder)
    assert sum(parameter.numel() for parameter in loaded.parameters()) == record.metrics.tuned.parameters
    stamp = (folder / WEIGHTS).stat().st_mtime_ns
    assert run(config).created == record.created and (folder / WEIGHTS).stat().st_mtime_ns == stamp
    before = (folder / WEIGHTS).read_bytes()
    (folder / DESCRIPTION).unlink()
    assert lacks_network(record, paths.results)
    assert run(config | {"save": None}).created == record.created
    assert lacks_network(record, paths.results)
    run(config)
    assert (folder / WEIGHTS).read_bytes() == before
    assert not lacks_network(record, paths.results)


@pytest.mark.parametrize("kind", ["onnx", "torch_export", "safetensors"])
def test_a_file_gives_the_same_classes_on_the_test_split(cell, kind, tmp_path):
    if kind == "onnx" and RUNTIMES["onnxruntime"].missing():
        pytest.skip("onnxruntime is not installed")
    config, record = cell
    paths = Paths.of(config["paths"])
    folder = find_network(paths.results, record.key[:6])
    exported = export(folder, kind, tmp_path / "network")
    assert exported.path.exists() and exported.difference <= 1e-4
    files = [exported.path] if exported.path.is_file() else list(exported.path.iterdir())
    assert exported.bytes == sum(path.stat().st_size for path in files)
    network, test = load_network(folder), load(config["dataset"], config["seed"], paths.cache).test
    right = 0
    for x, y in test.batches(100):
        with torch.no_grad():
            classes = network(x).argmax(1)
        assert torch.equal(exported.predict(x).argmax(1), classes)
        right += int((classes == y).sum())
    assert right / len(test) == pytest.approx(record.metrics.tuned.accuracy, abs=1e-6)


def test_what_is_written_can_be_read_by_the_formats_own_software(cell, tmp_path):
    config, record = cell
    folder = network_folder(Paths.of(config["paths"]).results, record.key)
    x = noise(3, *SHAPE)
    with torch.no_grad():
        expected = load_network(folder)(x)
    program = torch.export.load(export(folder, "torch_export", tmp_path / "a").path)
    assert torch.allclose(program.module()(x), expected, atol=1e-5)
    assert torch.equal(load_network(export(folder, "safetensors", tmp_path / "b").path)(x), expected)
    if not RUNTIMES["onnxruntime"].missing():
        import onnxruntime

        session = onnxruntime.InferenceSession(export(folder, "onnx", tmp_path / "c").path)
        [found] = session.run(None, {"input": x.numpy()})
        assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)


def test_a_file_that_computes_something_else_is_not_written(cell, tmp_path, monkeypatch):
    config, record = cell
    folder = network_folder(Paths.of(config["paths"]).results, record.key)
    monkeypatch.setitem(exporting.FORMATS, "onnx", lambda _f, network, _x: ({".onnx": b"?"}, lambda x: network(x) * 2))
    with pytest.raises(BadInput, match="nothing was written"):
        export(folder, "onnx", tmp_path / "network")
    assert not list(tmp_path.iterdir())


def test_the_command(cell, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exporting, "one_at_a_time", lambda: one_at_a_time(tmp_path))
    config, record = cell
    places = [f"{name}={value}" for name, value in (("paths.results", config["paths"]["results"]),)]
    places.append(f"paths.cache={config['paths']['cache']}")
    words = [f"key={record.key[:5]}", "format=safetensors", f"output={tmp_path}", "test=true", "batch=4"]
    assert main([*words, *places]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "bytes" in text and "batch 4, one thread" in text
    assert f"{len(load(config['dataset'], 0, Paths.of(config['paths']).cache).test)} of 3" in text
    assert same(load_network(tmp_path / record.key), load_network(find_network(Paths.of(config["paths"]).results, "")))


def test_images_of_ones_own_are_tested_where_they_lie_now(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exporting, "one_at_a_time", lambda: one_at_a_time(tmp_path))
    for place, name in enumerate(("ants", "bees")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(20):
            grey = np.full((8, 8, 3), 100 * place + number, dtype=np.uint8)
            Image.fromarray(grey).save(tmp_path / "images" / name / f"{number}.png")
    places = [f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"]
    words = ["dataset=imagefolder", "dataset.name=insects", "dataset.shape=[1,8,8]", "dataset.mean=[0.5]"]
    words += [
        "dataset.std=[0.25]",
        "dataset.augment=null",
        "trainer=tiny",
        "method=random",
        "measure=none",
        "track=none",
    ]
    made = Composer(CONF).cell([*words, f"dataset.source={tmp_path}/images", "save=true", *places])
    record = run(made)
    assert record.status == "done", record.reason
    (tmp_path / "images").rename(tmp_path / "moved")
    asked = [f"key={record.key}", "format=safetensors", f"output={tmp_path}/out", "test=true", *places]
    with pytest.raises(BadInput, match="test=true needs the images of insects\ntype dataset.source=FOLDER"):
        main(asked)
    assert main([*asked, f"dataset.source={tmp_path}/moved"]) == 0
    assert "8 of 8 test samples of insects get the same class" in capsys.readouterr().out
    (tmp_path / "moved/ants/0.png").unlink()
    with pytest.raises(BadInput, match="does not hold what the cell"):
        main([*asked, f"dataset.source={tmp_path}/moved"])


def test_keys_and_words_that_do_not_fit(cell, tmp_path):
    config, record = cell
    results = Paths.of(config["paths"]).results
    with pytest.raises(BadInput, match=f"networks kept.*{record.key}"):
        find_network(results, "nosuchkey")
    other = copy.deepcopy(record).model_copy(update={"key": "0" * 16})
    (results / "runs" / "digits" / "mlp" / f"{other.key}.json").write_text(other.text())
    with pytest.raises(BadInput, match=r"was not kept.*\n.*save=true"):
        find_network(results, "0000")
    for folder in ("ab1", "ab2"):
        (tmp_path / "networks" / folder).mkdir(parents=True)
        (tmp_path / "networks" / folder / DESCRIPTION).write_text('{"format": 1, "refused": "too odd"}')
    with pytest.raises(BadInput, match="give more of it"):
        find_network(tmp_path, "ab")
    with pytest.raises(BadInput, match="too odd"):
        export(find_network(tmp_path, "ab1"), "onnx", tmp_path)
    with pytest.raises(BadInput, match="format=zip is unknown; choose from onnx"):
        export(tmp_path, "zip", tmp_path)
    for words, message in (
        (["key=1"], "format is missing"),
        (["format=onnx"], "key is missing"),
        (["key=1", "format=onnx", "--fast"], "expected KEY=VALUE"),
        (["key=1", "format=onnx", "batch=0"], "at least 1"),
    ):
        with pytest.raises(BadInput, match=message):
            parse(words)
