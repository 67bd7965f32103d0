"""save, load and to_onnx: networks as files, without pickle, that compute the same when they are read again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from networks import NETWORKS, calibration, make
from torch import nn

import secateurs

pytestmark = pytest.mark.usefixtures("device")

DATA = calibration(64)
ROOT = Path(__file__).parents[2]


def outputs(model, *inputs):
    """Where the inputs are; what is loaded is on the CPU."""
    inputs = inputs or (DATA.inputs,)
    with torch.no_grad():
        return model.eval().to(inputs[0].device)(*inputs)


@pytest.mark.parametrize("method", ["spectral", "magnitude_edge"])
@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_loaded_is_what_was_saved(network, method, tmp_path):
    pruned = secateurs.prune(make(network), DATA.inputs, DATA.labels, method, keep=0.5)
    pruned.save(tmp_path / "net")
    again = secateurs.load(tmp_path / "net")
    assert type(again.model) is type(pruned.model)
    assert torch.equal(outputs(again.model), outputs(pruned.model))
    assert again.achieved == pruned.achieved and again.left_alone == pruned.left_alone
    assert again.masks.keys() == pruned.masks.keys()
    assert all(torch.equal(again.masks[name], mask.cpu()) for name, mask in pruned.masks.items())
    assert [layer["kept"] for layer in again.layers] == [layer["kept"] for layer in pruned.layers]
    assert {p.suffix for p in (tmp_path / "net").iterdir()} == {".json", ".safetensors"}
    again.finetune(DATA.inputs, DATA.labels, epochs=1)
    again.save(tmp_path / "again")


@pytest.mark.slow
def test_another_program_loads_it_without_this_one(tmp_path):
    pruned = secateurs.prune(make("convolution"), DATA.inputs, DATA.labels, "spectral", keep=0.5)
    pruned.save(tmp_path)
    code = (
        "import sys, torch, secateurs; found = secateurs.load(sys.argv[1]); "
        "print(found.model(torch.ones(1, 1, 8, 8)).sum().item())"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert float(said) == pytest.approx(outputs(pruned.model, torch.ones(1, 1, 8, 8)).sum().item(), rel=1e-5)


def local_network():
    class Local(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 3)
            self.act = lambda x: x.clamp_min(0)

        def forward(self, x):
            return self.second(self.act(self.first(x)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return Local()


def test_a_class_without_a_name_needs_the_original(tmp_path):
    inputs = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    model = local_network()
    pruned = secateurs.prune(model, inputs, torch.arange(40) % 3, "magnitude", keep=0.5)
    pruned.save(tmp_path)
    with pytest.raises(secateurs.BadInput, match=r"Local.*no name outside(.|\n)*secateurs.load\(folder, model=...\)"):
        secateurs.load(tmp_path)
    again = secateurs.load(tmp_path, model=model)
    assert torch.equal(outputs(again.model, inputs), outputs(pruned.model, inputs))
    assert model.first.out_features == 12  # left as it is
    with pytest.raises(secateurs.BadInput, match="model is a Sequential, but the file has a Local there"):
        secateurs.load(tmp_path, model=make("chain"))


def test_shared_parts_stay_shared(tmp_path):
    layer = nn.Linear(6, 6)
    model = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    model[4].bias = layer.bias
    inputs = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    pruned = secateurs.prune(model, inputs, torch.arange(40) % 3, "magnitude_edge", keep=0.5)
    pruned.save(tmp_path)
    again = secateurs.load(tmp_path).model
    assert again[0] is again[2] and again[4].bias is again[0].bias
    assert torch.equal(outputs(again, inputs), outputs(pruned.model, inputs))


def test_hooks_are_refused_and_nothing_is_written(tmp_path):
    pruned = secateurs.prune(make("chain"), DATA.inputs, DATA.labels, "magnitude", keep=0.5)
    pruned.model.register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(secateurs.BadInput, match="has hooks, which a file cannot hold"):
        pruned.save(tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_what_is_no_network_is_said(tmp_path):
    with pytest.raises(secateurs.BadInput, match=r"no network in .*pruned.json is not there"):
        secateurs.load(tmp_path)
    secateurs.prune(make("chain"), DATA.inputs, DATA.labels, "magnitude", keep=0.5).save(tmp_path)
    weights = tmp_path / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(secateurs.BadInput, match="is damaged"):
        secateurs.load(tmp_path)
    weights.write_bytes(content)
    description = json.loads((tmp_path / "pruned.json").read_text())
    (tmp_path / "pruned.json").write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(secateurs.BadInput, match="has format 99; this version reads 1"):
        secateurs.load(tmp_path)
    description["tree"]["class"] = "subprocess:Popen"
    (tmp_path / "pruned.json").write_text(json.dumps(description))
    with pytest.raises(secateurs.BadInput, match="Popen is no class of networks"):
        secateurs.load(tmp_path)


@pytest.mark.slow
def test_onnx_takes_any_number_of_samples(tmp_path):
    import onnxruntime

    pruned = secateurs.prune(make("convolution"), DATA.inputs, DATA.labels, "spectral", keep=0.5)
    session = onnxruntime.InferenceSession(pruned.to_onnx(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    for count in (1, 7):
        found = session.run(None, {given.name: DATA.inputs[:count].numpy()})[0]
        assert torch.allclose(torch.from_numpy(found), outputs(pruned.model, DATA.inputs[:count]), atol=1e-5)


class AsksForItsLength(nn.Module):
    """A number of samples that PyTorch's exporter takes for a constant."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 3)
        self.token = nn.Parameter(torch.zeros(1, 8))

    def forward(self, x):
        return self.two(self.one(x).relu() + self.token.expand(len(x), -1))


@pytest.mark.slow
def test_onnx_of_one_number_of_samples_is_not_written_and_the_place_is_named(tmp_path):
    inputs, labels = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    pruned = secateurs.prune(AsksForItsLength(), inputs, labels, "magnitude", keep=0.5)
    with pytest.raises(secateurs.BadInput, match=r"number of samples of x for the constant \d.*; x.shape\[0\] works"):
        pruned.to_onnx(tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def test_an_exporters_error_is_told_by_what_it_goes_back_to(tmp_path, monkeypatch):
    def fails(*_args):
        try:
            raise ValueError("cannot view a tensor")
        except ValueError as error:
            raise RuntimeError("Failed to export. Next steps:\n- debug it") from error

    monkeypatch.setattr("benchmarks.measure.runtimes.onnx.OnnxRuntime.missing", classmethod(lambda cls: []))
    monkeypatch.setattr("benchmarks.measure.runtimes.onnx.exported", fails)
    pruned = secateurs.prune(make("chain"), DATA.inputs, DATA.labels, "magnitude", keep=0.5)
    with pytest.raises(secateurs.BadInput, match="cannot be exported to ONNX: cannot view a tensor"):
        pruned.to_onnx(tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def test_without_onnx_its_package_is_named(tmp_path, monkeypatch):
    from benchmarks.measure.runtimes.onnx import OnnxRuntime

    monkeypatch.setattr(OnnxRuntime, "missing", classmethod(lambda cls: ["onnx", "onnxscript"]))
    pruned = secateurs.prune(make("chain"), DATA.inputs, DATA.labels, "magnitude", keep=0.5)
    with pytest.raises(secateurs.BadInput, match=r'needs onnx, onnxscript.*pip install "secateurs\[onnx\]"'):
        pruned.to_onnx(tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


class TwoInputs(nn.Module):
    """Two inputs, and the logits where a library may have them; every layer between is pruned."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.words, self.inner = nn.Embedding(30, 8), nn.Linear(8, 12)
        self.mixed, self.head = nn.Linear(18, 16), nn.Linear(16, 3)

    def forward(self, values, words):
        hidden = torch.relu(self.mixed(torch.cat([values, torch.relu(self.inner(self.words(words)))], 1)))
        logits = self.head(hidden)
        found = {"mapping": {"loss": None, "logits": logits}, "tuple": (logits, hidden), "list": [logits]}
        return found.get(self.kind, {"scores": logits, "hidden": hidden})


FORMS = [("tuple", "mapping"), ("mapping", "mapping"), ("tuple", "tuple"), ("mapping", "list"), ("tuple", "first")]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spectral", "magnitude_edge"])
@pytest.mark.parametrize("form,kind", FORMS)
def test_several_inputs_and_other_outputs_go_the_whole_way(form, kind, method, tmp_path):
    """prune, finetune, save, load and to_onnx, with the network called in its own way throughout."""
    import onnxruntime

    draw = torch.Generator().manual_seed(1)
    values, words = torch.randn(80, 6, generator=draw), torch.randint(0, 30, (80,), generator=draw)
    labels = (values[:, 0] > 0).long() + (words > 14).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = TwoInputs(kind)
    inputs = (values, words) if form == "tuple" else {"words": words, "values": values}

    def logits(network, count=80):
        with torch.no_grad():
            called = network.eval()(values[:count], words=words[:count])
        if isinstance(called, dict):
            return called.get("logits", called.get("scores"))
        return called[0]

    pruned = secateurs.prune(model, inputs, labels, method, keep=0.5)
    assert type(pruned.model) is TwoInputs and pruned.achieved["keep"] == pytest.approx(0.5, abs=0.03)
    history = pruned.finetune(inputs, labels, epochs=8, learning_rate=0.1, batch_size=16)
    assert type(pruned.model) is TwoInputs and history.best_epoch
    assert (logits(pruned.model).argmax(1) == labels).float().mean() > 0.6
    pruned.save(tmp_path / "net")
    again = secateurs.load(tmp_path / "net")
    assert type(again.model) is TwoInputs and torch.equal(logits(again.model), logits(pruned.model))
    for name, mask in again.masks.items():
        assert not again.model.get_parameter(name)[~mask].any()
    for number, network in enumerate((pruned, again)):
        session = onnxruntime.InferenceSession(
            network.to_onnx(tmp_path / f"{number}.onnx"), providers=["CPUExecutionProvider"]
        )
        assert {given.name for given in session.get_inputs()} == {"values", "words"}
        for count in (1, 7):
            given = {"values": values[:count].numpy(), "words": words[:count].numpy()}
            outputs_of = session.run(None, given)
            expected = logits(pruned.model, count)
            assert any(
                found.shape == expected.shape and torch.allclose(torch.from_numpy(found), expected, atol=1e-5)
                for found in outputs_of
            )
    again.finetune(inputs, labels, epochs=1)
