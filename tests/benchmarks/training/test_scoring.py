"""How networks are scored: in eval mode, by accuracy among one and among five, and each module's mode put back."""

import pytest
import torch
from torch import nn

from benchmarks.data.splits import Split
from benchmarks.settings.trainer import TrainerSettings
from benchmarks.training.loop import History
from benchmarks.training.optimisation import build_optimizer, refuse_hardware
from benchmarks.training.scoring import evaluate
from benchmarks.training.weights import load_weights
from methods.errors import BadInput


def split(classes, count=40):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, 8, generator=generator)
    return Split(inputs, torch.randint(0, classes, (count,), generator=generator))


def test_a_network_in_training_is_scored_without_dropout_and_with_its_own_statistics_and_goes_on_training():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.9), nn.Linear(8, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model[1].eval()
    data = split(3)
    first, again = evaluate(model, data), evaluate(model, data)
    assert first == again
    assert [module.training for module in model.modules()] == [True, True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    assert evaluate(model, data) == first
    with torch.no_grad():
        right = (model(data.inputs).argmax(1) == data.targets).double().mean()
    assert first.accuracy == pytest.approx(float(right))


@pytest.mark.parametrize("classes", [5, 6, 9])
def test_top_five_is_scored_from_six_classes_on(classes):
    torch.manual_seed(1)
    model, data = nn.Linear(8, classes), split(classes)
    found = evaluate(model, data)
    if classes == 5:
        assert found.top5 is None
        return
    with torch.no_grad():
        order = model(data.inputs).argsort(1, descending=True)[:, :5]
    inside = sum(int(target) in row.tolist() for target, row in zip(data.targets, order, strict=True))
    assert found.top5 == pytest.approx(inside / len(data)) and found.top5 >= found.accuracy


@pytest.mark.parametrize("name,first,last,noted", [
    ("validation_accuracy", 0.9, 0.8, True), ("validation_accuracy", 0.8, 0.9, False),
    ("validation_accuracy", 0.8, 0.8, False), ("validation_loss", 0.2, 0.3, True), ("validation_loss", 0.3, 0.2, False),
])  # fmt: skip
def test_a_training_that_made_things_worse_says_so(name, first, last, noted):
    history = History(epochs=[{"epoch": 1, name: 0.5}, {"epoch": 2, name: last}], best_epoch=0, start={name: first})
    assert (history.setback is not None) == noted


@pytest.mark.parametrize("devices,fits", [(1, True), (-1, True), (0, False), (-2, False), (4, True), (10**6, False)])
def test_devices_are_one_to_what_there_is_or_minus_one_for_all(devices, fits):
    settings = TrainerSettings(epochs=1, accelerator="cpu", devices=devices)
    if fits:
        refuse_hardware(settings, "trainer.train")
    else:
        with pytest.raises(BadInput, match=f"trainer.train.devices={devices}"):
            refuse_hardware(settings, "trainer.train")


def test_a_gpu_that_is_not_there_is_refused_and_one_that_is_there_is_not(monkeypatch):
    settings = TrainerSettings(epochs=1, accelerator="cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(BadInput, match="no GPU that PyTorch can use"):
        refuse_hardware(settings, "trainer.train")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    refuse_hardware(settings, "trainer.train")


def test_a_prefix_is_taken_off_only_where_all_names_have_it(tmp_path):
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(3, 2)
            self.last = nn.Linear(2, 2)

    source, target = Net(), Net()
    torch.save(source.state_dict(), tmp_path / "own.pt")
    load_weights(target, tmp_path / "own.pt")
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())
    wrapped = {f"module.{name}": value for name, value in source.state_dict().items()}
    torch.save(wrapped, tmp_path / "wrapped.pt")
    load_weights(other := Net(), tmp_path / "wrapped.pt")
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("place,fused", [("cpu", True), ("meta", None)])
def test_the_fused_optimizer_is_taken_only_on_devices_that_have_one(optimizer, place, fused):
    weight = nn.Parameter(torch.empty(3, device=place))
    built = build_optimizer([weight], TrainerSettings(epochs=1, optimizer=optimizer))
    assert built.defaults["fused"] is fused
