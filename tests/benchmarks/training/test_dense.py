import json
import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.data.splits import Data, Split
from benchmarks.training import dense as dense_module
from benchmarks.training.dense import dense_network, load_weights
from benchmarks.training.optimisation import TrainerSettings
from benchmarks.training.trainer import evaluate, fit
from methods.errors import BadInput

SETTINGS = TrainerSettings(epochs=3, batch_size=32)
CONFIG = {"name": "toy_mlp"}


def make_data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (180, 1, 4, 4), dtype=torch.uint8, generator=generator)
    targets = inputs[:, 0, 0].argmax(1)
    splits = [Split(inputs[i::3], targets[i::3], mean=0.5, std=0.3) for i in range(3)]
    return Data("toy", *splits, 4, (1, 4, 4))


def build(model_cfg, shape, classes, seed, tokens=None):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


@pytest.fixture(autouse=True)
def toy_models(monkeypatch):
    monkeypatch.setitem(sys.modules, "benchmarks.models", SimpleNamespace(build=build))


@pytest.fixture
def trainings(monkeypatch):
    """How often the trainer was called."""
    calls = []

    def counted(*args, **kwargs):
        calls.append(kwargs)
        return fit(*args, **kwargs)

    monkeypatch.setattr(dense_module, "fit", counted)
    return calls


def get(cache, seed=0, key="abc", **more):
    return dense_network(CONFIG, make_data(), SETTINGS, seed, cache, key, **more)


def same_bits(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_trained_once_then_loaded_bit_for_bit(tmp_path, trainings):
    first, second = get(tmp_path), get(tmp_path)
    assert len(trainings) == 1 and first.trained and not second.trained
    assert same_bits(first.model, second.model)
    assert not first.model.training and not second.model.training
    assert first.history == second.history and len(second.history.epochs) == 3
    assert first.seconds == second.seconds == first.history.seconds > 0
    assert first.path == second.path and first.path.parent == tmp_path / "dense" / "abc"
    assert {path.suffix for path in first.path.parent.iterdir()} == {".safetensors", ".json"}
    assert len(list(first.path.parent.iterdir())) == 2
    assert evaluate(first.model, make_data().test) == evaluate(second.model, make_data().test)


def test_a_network_that_came_with_the_project_goes_before_the_cache_and_is_never_written(tmp_path, trainings):
    there = get(tmp_path / "elsewhere")
    reviewed = (tmp_path / "elsewhere/dense").rename(tmp_path / "reviewed")
    files = {path: path.read_bytes() for path in sorted(reviewed.glob("*/*"))}
    found = get(tmp_path / "cache", reviewed=reviewed)
    assert len(trainings) == 1 and same_bits(there.model, found.model) and found.path.parent == reviewed / "abc"
    assert not (tmp_path / "cache").exists()
    history = json.loads((reviewed / "abc/dense.json").read_text())
    for epoch in history["history"]["epochs"]:  # what it scores now is not what its history says
        epoch |= {"validation_loss": 50.0, "validation_accuracy": 0.0}
    (reviewed / "abc/dense.json").write_text(json.dumps(history))
    changed = (reviewed / "abc/dense.json").read_bytes()
    dense_module.SCORED.clear()
    assert get(tmp_path / "cache", reviewed=reviewed).trained and len(trainings) == 2
    assert {path: path.read_bytes() for path in sorted(reviewed.glob("*/*"))} == files | {
        reviewed / "abc/dense.json": changed
    }


def test_another_key_is_another_network(tmp_path, trainings):
    a, b = get(tmp_path, key="a"), get(tmp_path, key="b", seed=1)
    assert len(trainings) == 2 and not same_bits(a.model, b.model)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "json"])
def test_a_corrupt_network_is_said_and_trained_again(tmp_path, damage, trainings, caplog):
    first = get(tmp_path)
    content = bytearray(first.path.read_bytes())
    if damage == "flip":
        content[-3] ^= 4
        first.path.write_bytes(content)
    elif damage == "truncate":
        first.path.write_bytes(content[:50])
    elif damage == "delete":
        first.path.unlink()
    else:
        (first.path.parent / "dense.json").write_text("{")
    again = get(tmp_path)
    assert len(trainings) == 2 and again.trained
    assert len([said for said in caplog.messages if "damaged" in said]) == 1
    assert same_bits(first.model, again.model)
    assert not get(tmp_path).trained


def test_a_foreign_network_under_the_same_key_is_not_used(tmp_path, trainings, caplog, monkeypatch):
    get(tmp_path)
    monkeypatch.setattr(
        sys.modules["benchmarks.models"], "build", lambda *_: nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    )
    assert get(tmp_path).trained and len(trainings) == 2 and "another network" in caplog.text


def test_an_interrupted_training_is_continued(tmp_path, trainings, monkeypatch):
    whole = get(tmp_path / "whole")

    class Stop(Exception):
        pass

    def interrupted(*args, **kwargs):
        def stop(row):
            if row["epoch"] == 2:
                raise Stop

        return fit(*args, **kwargs, on_epoch=stop)

    with monkeypatch.context() as patch:
        patch.setattr(dense_module, "fit", interrupted)
        with pytest.raises(Stop):
            get(tmp_path / "parts")
    epochs = []
    monkeypatch.setattr(
        dense_module, "fit", lambda *a, **k: fit(*a, **k, on_epoch=lambda row: epochs.append(row["epoch"]))
    )
    parts = get(tmp_path / "parts")
    assert epochs == [3] and same_bits(whole.model, parts.model)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(BadInput, match="paths.cache"):
        get(tmp_path)


def test_a_cache_path_that_is_a_file_is_named(tmp_path):
    (tmp_path / "dense").write_text("")
    with pytest.raises(BadInput, match="paths.cache"):
        get(tmp_path)


# --------------------------------------------------------------------------------------------------- given checkpoint


def saved(path, tensors):
    save_file(tensors, path)
    return path


def test_a_checkpoint_is_loaded_instead_of_training(tmp_path, trainings):
    source = build(CONFIG, None, 4, 7)
    path = saved(tmp_path / "given.safetensors", source.state_dict())
    found = get(tmp_path, checkpoint=str(path))
    assert trainings == [] and not found.trained and same_bits(found.model, source) and found.path == path
    assert not found.model.training and not (tmp_path / "dense").exists()


def test_other_names_are_understood_where_each_shape_is_unique(tmp_path, caplog):
    source, model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3)), nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    names = {"0.weight": "zz.w", "0.bias": "a.w", "1.weight": "b", "1.bias": "c"}  # neither order nor endings agree
    path = saved(tmp_path / "x.safetensors", {names[name]: value for name, value in source.state_dict().items()})
    load_weights(model, path)
    assert same_bits(source, model) and "zz.w as 0.weight" in caplog.text


def test_other_names_are_understood_by_position_where_shapes_repeat(tmp_path):
    source, model = (nn.Sequential(*[nn.Linear(4, 4) for _ in range(12)]) for _ in range(2))
    # Layer 10 comes after layer 2 although its name sorts before it.
    path = saved(tmp_path / "x.safetensors", {f"net.fc{name}": value for name, value in source.state_dict().items()})
    load_weights(model, path)
    assert same_bits(source, model)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t | {"4.bias": torch.zeros(9)}, ["4.bias", "(9,)", "(4,)"]),
        (lambda t: {k: v for k, v in t.items() if k != "4.bias"}, ["lacks '4.bias'"]),
        (lambda t: t | {"5.scale": torch.zeros(2)}, ["has '5.scale'"]),
        (
            lambda t: {f"x{k}" if k[0] == "2" else k: v for k, v in t.items()} | {"x": torch.ones(1)},
            ["lacks", "and has"],
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named_and_the_model_untouched(tmp_path, change, words):
    path = saved(tmp_path / "x.safetensors", change(build(CONFIG, None, 4, 7).state_dict()))
    model, twin = build(CONFIG, None, 4, 0), build(CONFIG, None, 4, 0)
    with pytest.raises(BadInput) as caught:
        load_weights(model, path)
    message = str(caught.value)
    assert all(word in message for word in [str(path), "dense.checkpoint", *words]) and len(message.splitlines()) <= 2
    assert same_bits(model, twin)


def test_a_file_that_is_missing_or_something_else_is_named(tmp_path):
    (tmp_path / "text").write_text("not weights")
    for path, words in ((tmp_path / "nothing", "no such file"), (tmp_path / "text", "not a safetensors file")):
        with pytest.raises(BadInput, match=words):
            load_weights(build(CONFIG, None, 4, 0), path)


def test_the_first_process_of_a_parallel_training_alone_saves(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(dense_module, "fit", lambda *a, **k: fit(*a, **(k | {"checkpoint": None})))
    with monkeypatch.context() as patch:
        patch.setattr(dense_module, "first_come", lambda *a, **k: pytest.fail("took the lease"))
        get(tmp_path)
    assert not list((tmp_path / "dense" / "abc").iterdir())


@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_torch_save_wrote_is_read(tmp_path, nested, prefix):
    source, model = build(CONFIG, None, 4, 7), build(CONFIG, None, 4, 0)
    state = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    torch.save({nested: state, "epoch": 3} if nested else state, tmp_path / "x.pt")
    load_weights(model, tmp_path / "x.pt")
    assert same_bits(source, model)


def test_a_whole_network_of_torch_save_is_refused_without_running_its_code(tmp_path):
    torch.save(build(CONFIG, None, 4, 7), tmp_path / "x.pt")
    with pytest.raises(BadInput, match=r"weights_only=True.*\n.*model.state_dict\(\)"):
        load_weights(build(CONFIG, None, 4, 0), tmp_path / "x.pt")


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="no such file"):
        load_weights(build(CONFIG, None, 4, 0), tmp_path / "pipe")


def edited(model_cfg, shape, classes, seed, tokens):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Sigmoid(), nn.Linear(8, classes))


def test_a_network_whose_code_was_edited_is_trained_afresh(tmp_path, trainings, caplog, monkeypatch):
    get(tmp_path)
    monkeypatch.setattr(sys.modules["benchmarks.models"], "build", edited)  # ReLU -> Sigmoid, the same shapes
    assert get(tmp_path).trained and len(trainings) == 2 and "by other code" in caplog.text
    assert not get(tmp_path).trained


def test_a_network_cached_without_its_code_is_scored_again(tmp_path, trainings, caplog, monkeypatch):
    first = get(tmp_path)
    file = first.path.parent / "dense.json"
    facts = json.loads(file.read_text())
    del facts["code"]
    file.write_text(json.dumps(facts))
    dense_module.SCORED.clear()  # as in another process
    assert not get(tmp_path).trained
    dense_module.SCORED.clear()
    row = facts["history"]["epochs"][first.history.best_epoch - 1]
    row["validation_accuracy"] = row["validation_accuracy"] + 0.2
    file.write_text(json.dumps(facts))
    assert get(tmp_path).trained and len(trainings) == 2 and "validation accuracy" in caplog.text


def test_a_network_without_validation_samples_has_no_score_to_differ_from(tmp_path, trainings):
    data = make_data()
    none = Split(data.validation.inputs[:0], data.validation.targets[:0], mean=0.5, std=0.3)
    for _ in range(2):
        dense_network(CONFIG, replace(data, validation=none), SETTINGS, 0, tmp_path, "abc")
        dense_module.SCORED.clear()  # as in another process
        (file,) = tmp_path.rglob("dense.json")
        facts = json.loads(file.read_text())
        file.write_text(json.dumps({name: value for name, value in facts.items() if name != "code"}))
    assert len(trainings) == 1


def activation(x):
    """What the network calls, outside of its class."""
    return torch.relu(x)


class Calling(nn.Module):
    """A network whose class does not show what it computes."""

    def __init__(self, classes):
        super().__init__()
        self.first, self.second = nn.Linear(16, 8), nn.Linear(8, classes)

    def forward(self, x):
        return self.second(activation(self.first(x.flatten(1))))


@pytest.mark.parametrize("targets", ["classes", "numbers"])
def test_a_network_whose_helper_was_edited_is_trained_afresh(tmp_path, trainings, caplog, monkeypatch, targets):
    """ReLU -> Sigmoid in a function that the class calls: same class, same shapes, another network."""

    def made(model_cfg, shape, classes, seed, tokens):
        torch.manual_seed(seed)
        return Calling(classes)

    def found():
        dense_module.SCORED.clear()  # as in another process
        data = make_data()
        if targets == "numbers":
            splits = [replace(split, targets=split.targets.float()[:, None]) for split in (data.train, data.validation)]
            data = replace(data, train=splits[0], validation=splits[1], classes=1)
        return dense_network(CONFIG, data, TrainerSettings(epochs=5, batch_size=16), 0, tmp_path, "abc")

    monkeypatch.setattr(sys.modules["benchmarks.models"], "build", made)
    first = found()
    assert first.trained and not found().trained
    monkeypatch.setattr(sys.modules[__name__], "activation", lambda x: torch.sigmoid(x) - 2)
    again = found()
    assert again.trained and len(trainings) == 2 and "as at the end of its training" in caplog.text
    assert not same_bits(first.model, again.model) and not found().trained


def test_who_was_stopped_for_longer_than_its_lease_does_not_write_over_the_network(tmp_path, trainings, monkeypatch):
    """Another one trains it meanwhile; what the first made is thrown away."""
    theirs = get(tmp_path / "theirs")
    folder = tmp_path / "ours/dense/abc"

    def stopped(*arguments, **options):
        history = fit(*arguments, **options)
        if not list(folder.glob("dense-*")):
            for path in folder.glob("lease.*"):
                path.unlink()
            for path in theirs.path.parent.iterdir():
                (folder / path.name).write_bytes(path.read_bytes())
        return history

    monkeypatch.setattr(dense_module, "fit", stopped)
    found = get(tmp_path / "ours")
    assert not found.trained and same_bits(found.model, theirs.model)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in theirs.path.parent.iterdir())
    assert (folder / "dense.json").read_bytes() == (theirs.path.parent / "dense.json").read_bytes()
