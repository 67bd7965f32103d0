import itertools
import json
import math
import os
import signal
import textwrap
import time
from pathlib import Path

import pytest
import torch
import warm
from hydra import compose, initialize_config_module
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from networks import noise, uniform
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from benchmarks.data.splits import Data, Split, load
from benchmarks.models import build
from benchmarks.training.loop import warn_of_emulation
from benchmarks.training.optimisation import TrainerSettings, build_optimizer, learning_rate
from benchmarks.training.trainer import evaluate, fit
from methods.errors import BadInput
from methods.hooks import TrainingHook
from methods.seeds import stream


def make_split(count, seed, classes=6):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(0, 256, (count, 1, 4, 4), dtype=torch.uint8, generator=generator)
    targets = inputs[:, 0, :2].float().flatten(1)[:, :classes].argmax(1)
    return Split(inputs, targets, mean=0.5, std=0.3)


def make_data(train=150, validation=60):
    return Data("toy", make_split(train, 0), make_split(validation, 1), make_split(40, 2), 6, (1, 4, 4))


def make_model(seed=0, dropout=0.2):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(64, 6),
    )


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 6))


def some(**changes):
    return TrainerSettings(**({"epochs": 3, "batch_size": 32, "learning_rate": 0.05, "schedule": "cosine"} | changes))


def same_bits(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


# ---------------------------------------------------------------------------------------------------------- evaluate


@hypothesis_settings(deadline=None, max_examples=20)
@given(count=st.integers(1, 70), batch=st.integers(1, 80))
def test_evaluate_counts_every_sample_once_whatever_the_batch_size(count, batch):
    split, model = make_split(count, 3), make_model()
    model.eval()
    with torch.no_grad():
        outputs = model(split.to_inputs(slice(None)))
    model.train()
    score = evaluate(model, split, batch)
    order = outputs.argsort(dim=1, descending=True)
    assert score.accuracy == (order[:, 0] == split.targets).double().mean().item()
    assert score.top5 == (order[:, :5] == split.targets[:, None]).any(1).double().mean().item()
    assert score.loss == pytest.approx(functional.cross_entropy(outputs, split.targets).item(), rel=1e-5)


def test_evaluate_changes_nothing_and_restores_each_modules_mode():
    model = make_model()
    model[1].eval()  # a frozen batch norm inside a network in train mode
    before = snapshot(model)
    evaluate(model, make_split(40, 3))
    assert model.training and not model[1].training and model[4].training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_top5_is_absent_below_six_classes_and_accuracy_for_regression():
    split = make_split(30, 0, classes=5)
    assert evaluate(nn.Sequential(nn.Flatten(), nn.Linear(16, 5)), split).top5 is None
    rows = Split(noise(20, 3), noise(20, 2, seed=1), levels=1.0)
    model = nn.Linear(3, 2)
    score = evaluate(model, rows, batch_size=7)
    assert score.accuracy is None and score.top5 is None
    assert score.loss == pytest.approx((model(rows.inputs) - rows.targets).square().mean().item(), rel=1e-5)


def test_an_empty_split_has_no_score():
    with pytest.raises(ValueError, match="empty"):
        evaluate(make_model(), make_split(0, 0))


# --------------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("changes", "scheduler", "per_epoch"),
    [
        ({"schedule": "cosine"}, lambda o, n: torch.optim.lr_scheduler.CosineAnnealingLR(o, n), False),
        ({"schedule": "onecycle"}, lambda o, n: torch.optim.lr_scheduler.OneCycleLR(o, 0.05, n), False),
        ({"schedule": "constant"}, lambda o, n: torch.optim.lr_scheduler.ConstantLR(o, 1.0), False),
        (
            {"schedule": "step", "milestones": (2, 5), "gamma": 0.3},
            lambda o, n: torch.optim.lr_scheduler.MultiStepLR(o, [2, 5], 0.3),
            True,
        ),
        (
            {"schedule": "step", "step_size": 3, "gamma": 0.5},
            lambda o, n: torch.optim.lr_scheduler.StepLR(o, 3, 0.5),
            True,
        ),
    ],
)
def test_schedules_are_those_of_pytorch(changes, scheduler, per_epoch):
    settings, steps = some(epochs=8, **changes), 5
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.05)
    theirs = scheduler(optimizer, settings.epochs * steps)
    for step in range(settings.epochs * steps):
        assert learning_rate(settings, step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if not per_epoch or (step + 1) % steps == 0:
            theirs.step()


def test_warmup_rises_to_the_peak_and_cosine_spans_the_rest():
    settings = some(epochs=4, warmup_epochs=1)
    rates = [learning_rate(settings, step, 10) for step in range(40)]
    assert rates[:10] == pytest.approx([0.05 * (i + 1) / 10 for i in range(10)])
    assert rates[10] == 0.05 and rates[25] == pytest.approx(0.025) and 0 < rates[39] < 2e-4


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_training_is_that_of_a_bare_pytorch_loop(optimizer):
    data, settings = (
        make_data(train=100, validation=0),
        some(optimizer=optimizer, weight_decay=0.01, learning_rate=0.01),
    )
    # No batch norm: the bias before one has gradient zero up to rounding, which Adam's scaling would blow up.
    ours, theirs = perceptron(), perceptron()
    fit(ours, data, settings, 7)
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    extra = {"momentum": 0.9} if optimizer == "sgd" else {}
    bare = kinds[optimizer](theirs.parameters(), lr=0.01, weight_decay=0.01, **extra)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(bare, 3 * 4)
    for epoch in range(3):
        for x, y in data.train.batches(32, generator=stream(7, "train", epoch), augment=True):
            bare.zero_grad()
            functional.cross_entropy(theirs(x), y).backward()
            bare.step()
            scheduler.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=name)


# --------------------------------------------------------------------------------------------------------------- fit


def test_it_learns_and_reports_each_epoch():
    data, model, rows = make_data(train=600), make_model(dropout=0.0), []
    start = evaluate(model, data.validation)
    history = fit(model, data, some(epochs=12, optimizer="adamw", learning_rate=0.01), 0, on_epoch=rows.append)
    assert evaluate(model, data.validation).accuracy > start.accuracy + 0.3
    assert history.epochs == rows and [row["epoch"] for row in rows] == list(range(1, 13))
    assert {"lr", "train_loss", "validation_accuracy", "validation_loss", "seconds"} <= rows[0].keys()
    assert history.seconds == pytest.approx(sum(row["seconds"] for row in rows))
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_the_best_weights_are_copies_of_the_best_epoch():
    data, seen = make_data(validation=30), []
    model = make_model()
    history = fit(model, data, some(epochs=8), 0, on_epoch=lambda row: seen.append(snapshot(model)))
    ranks = [(row["validation_accuracy"], -row["validation_loss"], row["epoch"]) for row in history.epochs]
    assert history.best_epoch == max(ranks)[2]
    assert all(torch.equal(value, seen[history.best_epoch - 1][name]) for name, value in model.state_dict().items())
    worse = next(i for i in range(8) if i != history.best_epoch - 1)
    assert not all(torch.equal(value, seen[worse][name]) for name, value in model.state_dict().items())


def test_the_test_split_is_never_read():
    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError("the test split was read")

        def __len__(self):
            raise AssertionError("the test split was read")

    data = make_data()
    data.test = Untouchable()
    history = fit(make_model(), data, some(epochs=1), 0)
    assert history.best_epoch == 1 and isinstance(data.test, Untouchable)
    with pytest.raises(AssertionError, match="was read"):
        len(data.test)


def test_zero_epochs_leave_everything_as_it_is():
    model = make_model().eval()
    before = snapshot(model)
    history = fit(model, make_data(), some(epochs=0), 0)
    assert history.epochs == [] and history.best_epoch is None and not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_seed_decides_everything_and_the_global_stream_is_left_alone():
    def run(seed):
        model = make_model()
        torch.manual_seed(torch.initial_seed() + 1 + len(runs))
        expected = torch.get_rng_state()
        fit(model, make_data(), some(epochs=2), seed)
        assert torch.equal(torch.get_rng_state(), expected)
        return model

    runs = []
    for seed in (1, 1, 2):
        runs.append(run(seed))
    assert same_bits(runs[0], runs[1])
    assert not same_bits(runs[0], runs[2])


@pytest.mark.parametrize("reason", [StopIteration, KeyboardInterrupt])
def test_a_callback_may_end_the_training_and_finds_the_weights_of_that_epoch(reason):
    model, seen = make_model(), []

    def stop(row):
        seen.append(snapshot(model))
        if row["epoch"] == 2:
            raise reason

    with pytest.raises(reason):
        fit(model, make_data(), some(epochs=4), 0, on_epoch=stop)
    assert len(seen) == 2 and model.training
    assert all(torch.equal(value, seen[1][name]) for name, value in model.state_dict().items())


def test_train_and_eval_modes_are_restored():
    model = make_model()
    model[1].eval()
    fit(model, make_data(), some(epochs=1), 0)
    assert model.training and not model[1].training


def test_a_last_batch_of_one_sample_does_not_stop_batch_norm():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6))
    assert fit(model, make_data(train=65), some(), 0).collapsed is None


def test_a_loss_that_is_not_finite_ends_as_collapsed():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.Linear(32, 6))
    history = fit(model, make_data(), some(epochs=30, learning_rate=1e20, schedule="constant"), 0)
    assert "not finite" in history.collapsed and len(history.epochs) < 30


def test_after_a_collapse_the_best_weights_remain():
    data, model, saved = make_data(), make_model(), {}

    class Poison(TrainingHook):
        def on_step_loss(self, model, x, y, loss, step):
            return loss * math.nan if step >= 10 else loss

    history = fit(
        model,
        data,
        some(epochs=9),
        0,
        hooks=[Poison()],
        on_epoch=lambda row: saved.__setitem__(row["epoch"], snapshot(model)),
    )
    assert history.collapsed and len(history.epochs) == 2
    assert all(torch.equal(value, saved[history.best_epoch][name]) for name, value in model.state_dict().items())


def test_regression_trains_on_the_squared_error():
    torch.manual_seed(0)
    x = torch.randn(300, 5)
    y = x @ torch.randn(5, 1)
    splits = [Split(x[i::3], y[i::3], levels=1.0) for i in range(3)]
    data = Data("line", *splits, 1, (5,), task="regression")
    model = nn.Linear(5, 1)
    history = fit(model, data, some(epochs=40, learning_rate=0.05), 0)
    assert evaluate(model, data.validation).loss < 1e-3
    assert history.best_epoch == min(history.epochs, key=lambda row: (row["validation_loss"], -row["epoch"]))["epoch"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_masked_weights_stay_exactly_zero(optimizer):
    data, model = make_data(), make_model()
    fit(model, data, some(epochs=1), 0)
    masks = {"0.weight": uniform(4, 1, 3, 3) < 0.5, "5.weight": uniform(6, 64) < 0.3}
    settings = some(optimizer=optimizer, weight_decay=0.1, nesterov=optimizer == "sgd", clip_norm=1.0)
    fit(model, data, settings, 0, masks=masks)
    for name, mask in masks.items():
        weight = model.get_parameter(name).detach()
        assert (weight[~mask] == 0).all() and (weight[mask] != 0).all()


def test_masks_must_fit():
    for masks in ({"nothing": torch.ones(1, dtype=torch.bool)}, {"5.weight": torch.ones(6, dtype=torch.bool)}):
        with pytest.raises(BadInput, match="mask"):
            fit(make_model(), make_data(), some(), 0, masks=masks)


def test_clipping_bounds_the_step():
    data, model = make_data(train=32), make_model()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    fit(model, data, some(epochs=1, momentum=0.0, learning_rate=1.0, schedule="constant", clip_norm=1e-3), 0)
    moved = math.sqrt(sum((value - before[name]).square().sum().item() for name, value in model.named_parameters()))
    assert moved == pytest.approx(1e-3, rel=1e-2)


def test_label_smoothing_changes_the_loss_trained_on_but_not_the_score():
    data = make_data(train=32)
    plain, smooth = (fit(make_model(), data, some(epochs=1, label_smoothing=s), 0) for s in (0.0, 0.3))
    assert smooth.epochs[0]["train_loss"] != plain.epochs[0]["train_loss"]
    assert evaluate(make_model(), data.train).loss == evaluate(make_model(), data.train).loss


def test_bf16_and_channels_last_train_and_leave_a_plain_fp32_network():
    model = make_model()
    history = fit(model, make_data(train=600), some(epochs=10, precision="bf16", channels_last=True), 0)
    assert history.epochs[-1]["train_loss"] < 0.8 * history.epochs[0]["train_loss"]
    assert model[0].weight.dtype == torch.float32
    assert model[0].weight.is_contiguous()
    assert not same_bits(model, fitted(make_model(), some(epochs=10)))


@pytest.mark.parametrize(("capability", "machine", "warned"), [
    ("AVX2", "x86_64", 1), ("DEFAULT", "AMD64", 1), ("AVX512", "x86_64", 0), ("DEFAULT", "arm64", 0),
])  # fmt: skip
def test_bf16_on_a_processor_that_emulates_it_is_said_once(monkeypatch, caplog, capability, machine, warned):
    warn_of_emulation.cache_clear()
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.setattr("platform.machine", lambda: machine)
    for precision in ("fp32", "bf16", "bf16"):
        fit(make_model(), make_data(train=32), some(epochs=1, precision=precision), 0)
        assert precision == "bf16" or not caplog.records
    assert caplog.text.count("type trainer.train.precision=fp32") == warned
    warn_of_emulation.cache_clear()


def fitted(model, settings):
    fit(model, make_data(train=600), settings, 0)
    return model


def test_hardware_that_is_not_there_is_said_plainly():
    with pytest.raises(BadInput, match="accelerator=warp"):
        fit(make_model(), make_data(), some(accelerator="warp"), 0)


# ------------------------------------------------------------------------------------------------------- checkpoints


TESTS = Path(__file__).parent


class Stop(Exception):
    pass


def stop_after(epoch):
    def callback(row):
        if row["epoch"] == epoch:
            raise Stop

    return callback


@pytest.mark.parametrize(
    "changes",
    [
        {"nesterov": True, "weight_decay": 1e-3},
        {"momentum": 0.0, "schedule": "step", "milestones": (2,)},
        {"optimizer": "adamw", "schedule": "onecycle", "learning_rate": 0.01},
        {"channels_last": True, "clip_norm": 0.5},
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_a_resumed_training_ends_with_the_bits_of_an_unbroken_one(tmp_path, changes, masked):
    settings = some(epochs=5, **changes)
    masks = {"5.weight": torch.rand(6, 64, generator=torch.Generator().manual_seed(5)) < 0.5} if masked else None
    unbroken, resumed = make_model(), make_model()
    expected = fit(unbroken, make_data(), settings, 3, masks=masks)
    for epoch in (1, 3):
        resumed = make_model()  # as in a new process: the initial weights again
        with pytest.raises(Stop):
            fit(resumed, make_data(), settings, 3, masks=masks, checkpoint=tmp_path, on_epoch=stop_after(epoch))
    resumed, rows = make_model(), []
    history = fit(resumed, make_data(), settings, 3, masks=masks, checkpoint=tmp_path, on_epoch=rows.append)
    assert [row["epoch"] for row in rows] == [4, 5]
    assert same_bits(unbroken, resumed)
    without_time = [[{k: v for k, v in row.items() if k != "seconds"} for row in h.epochs] for h in (expected, history)]
    assert without_time[0] == without_time[1] and history.best_epoch == expected.best_epoch
    again = make_model()
    assert fit(again, make_data(), settings, 3, masks=masks, checkpoint=tmp_path, on_epoch=rows.append) == history
    assert len(rows) == 2 and same_bits(again, resumed)


@pytest.mark.parametrize("damage", ["tensors", "json", "gone", "truncated"])
def test_a_damaged_checkpoint_is_said_and_training_starts_afresh(tmp_path, damage, caplog):
    with pytest.raises(Stop):
        fit(make_model(), make_data(), some(), 3, checkpoint=tmp_path, on_epoch=stop_after(2))
    tensors, description = next(tmp_path.glob("*.safetensors")), tmp_path / "training.json"
    if damage == "tensors":
        content = bytearray(tensors.read_bytes())
        content[-1] ^= 1
        tensors.write_bytes(content)
    elif damage == "json":
        description.write_text(description.read_text()[:-20])
    elif damage == "gone":
        tensors.unlink()
    else:
        tensors.write_bytes(tensors.read_bytes()[:100])
    resumed, unbroken, rows = make_model(), make_model(), []
    fit(resumed, make_data(), some(), 3, checkpoint=tmp_path, on_epoch=rows.append)
    fit(unbroken, make_data(), some(), 3)
    assert "damaged" in caplog.text and len(rows) == 3 and same_bits(resumed, unbroken)


@pytest.mark.parametrize("other", ["settings", "seed", "weights", "masks"])
def test_a_checkpoint_of_another_training_is_not_continued(tmp_path, other, caplog):
    with pytest.raises(Stop):
        fit(make_model(), make_data(), some(), 3, checkpoint=tmp_path, on_epoch=stop_after(2))
    model = make_model(seed=9 if other == "weights" else 0)
    settings = some(learning_rate=0.02) if other == "settings" else some()
    masks = {"5.weight": torch.ones(6, 64, dtype=torch.bool)} if other == "masks" else None
    rows = []
    fit(
        model,
        make_data(),
        settings,
        4 if other == "seed" else 3,
        masks=masks,
        checkpoint=tmp_path,
        on_epoch=rows.append,
    )
    assert len(rows) == 3 and "another training" in caplog.text


def test_a_checkpoint_is_safetensors_and_json_of_one_epoch_only(tmp_path):
    fit(make_model(), make_data(), some(), 3, checkpoint=tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2 and names[0].endswith(".safetensors") and names[1] == "training.json"
    assert len(json.loads((tmp_path / names[1]).read_text())["history"]["epochs"]) == 3


def test_a_collapse_is_remembered(tmp_path):
    settings = some(epochs=5, learning_rate=1e20, schedule="constant")
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.Linear(32, 6))
        runs.append(fit(model, make_data(), settings, 0, checkpoint=tmp_path))
    assert runs[0].collapsed and runs[0] == runs[1]


def train(folder, result, pause):
    torch.set_num_threads(1)
    model = make_model()
    fit(model, make_data(), some(epochs=60), 3, checkpoint=folder, on_epoch=lambda row: time.sleep(pause))
    save_file(model.state_dict(), result)


@pytest.mark.slow
def test_kill_9_at_any_moment_changes_nothing(tmp_path):
    def start(folder, result, pause):
        return warm.process(train, tmp_path / folder, tmp_path / result, pause)

    def ended(process, seconds):
        process.join(seconds)
        return process.exitcode

    assert ended(start("unbroken", "a.safetensors", 0), 120) == 0
    reached, description = 0, tmp_path / "killed" / "training.json"
    for kill in range(2):
        process = start("killed", "b.safetensors", 0.02)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.is_alive():
            epochs = len(json.loads(description.read_text())["history"]["epochs"]) if description.exists() else 0
            if epochs >= reached + 5 + kill:
                break
            time.sleep(0.005)  # two cores, and this one has nothing to compute
        process.kill()
        assert ended(process, 30) == -signal.SIGKILL
        reached = len(json.loads(description.read_text())["history"]["epochs"])
    assert 5 <= reached < 60
    assert ended(start("killed", "b.safetensors", 0), 120) == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


PARALLEL = """
    import sys
    from pathlib import Path
    sys.path[:0] = [{root!r}, {tests!r}, {above!r}]
    import torch
    from torch import nn
    from test_trainer import make_data, some
    from benchmarks.training.trainer import fit
    from safetensors.torch import save_file
    if __name__ == "__main__":  # the processes of the training import this file
        torch.set_num_threads(1)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 6))
        settings = some(accelerator="cpu", devices=int(sys.argv[2]), strategy="ddp" if sys.argv[2] == "2" else "auto")
        rows = []
        history = fit(model, make_data(train=151), settings, 3, checkpoint=Path(sys.argv[3]), on_epoch=rows.append)
        assert rows == history.epochs and len(rows) == settings.epochs
        save_file(model.state_dict(), sys.argv[1])
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    script = tmp_path / "train.py"
    folders = {"root": str(TESTS.parents[2]), "tests": str(TESTS), "above": str(TESTS.parents[1])}
    script.write_text(textwrap.dedent(PARALLEL).format(**folders))
    words = {n: [f"{tmp_path}/{n}.safetensors", n, f"{tmp_path}/state{n}"] for n in ("1", "2")}
    alone = warm.run(str(script), words["1"], dict(os.environ), tmp_path)
    assert alone.returncode == 0, alone.stderr
    both = warm.run(str(script), words["2"], dict(os.environ), tmp_path, timeout=240)  # starts the second itself
    assert both.returncode == 0, both.stderr
    one, two = (load_file(tmp_path / f"{devices}.safetensors") for devices in ("1", "2"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------- hooks


class Shrink(TrainingHook):
    """Removes the last hidden unit after every second epoch, as a method that prunes during training would."""

    def on_epoch(self, model, optimizer, epoch):
        if epoch % 2 == 0:
            return False
        self.resize(model, model[1].out_features - 1)
        return True

    @staticmethod
    def resize(model, size):
        with torch.no_grad():
            model[1].weight, model[1].bias = nn.Parameter(model[1].weight[:size]), nn.Parameter(model[1].bias[:size])
            model[3].weight = nn.Parameter(model[3].weight[:, :size])
        model[1].out_features = model[3].in_features = size
        # A slice shares the memory of the whole; the parameters must own theirs.
        for module in (model[1], model[3]):
            module.weight.data = module.weight.data.clone()

    def state(self):
        return {"size": self.model[1].out_features} if hasattr(self, "model") else {}

    def after_step(self, model, optimizer, step):
        self.model = model

    def restore(self, model, state):
        self.resize(model, state["size"])


def test_a_hook_may_make_the_network_smaller_while_it_trains(tmp_path):
    settings, data = some(epochs=5), make_data()
    unbroken, resumed = perceptron(), perceptron()
    history = fit(unbroken, data, settings, 0, hooks=[Shrink()])
    assert unbroken[1].weight.shape == (8, 16)
    assert history.best_epoch >= 4  # earlier weights belong to a larger network
    assert history.epochs[-1]["train_loss"] < history.epochs[0]["train_loss"]
    with pytest.raises(Stop):
        fit(resumed, data, settings, 0, hooks=[Shrink()], checkpoint=tmp_path, on_epoch=stop_after(3))
    resumed = perceptron()
    fit(resumed, data, settings, 0, hooks=[Shrink()], checkpoint=tmp_path)
    assert same_bits(unbroken, resumed)


def test_a_hooks_penalty_is_what_is_minimised():
    class Lasso(TrainingHook):
        steps = ()

        def on_step_loss(self, model, x, y, loss, step):
            return loss + 10.0 * model[5].weight.abs().sum()

        def after_step(self, model, optimizer, step):
            self.steps += (step,)

    hook, model, free = Lasso(), make_model(), make_model()
    fit(model, make_data(), some(learning_rate=1e-3), 0, hooks=[hook])
    fit(free, make_data(), some(learning_rate=1e-3), 0)
    assert model[5].weight.abs().sum() < 0.5 * free[5].weight.abs().sum()
    assert hook.steps == tuple(range(3 * 5))


# ---------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "sdg"}, "sgd, adam, adamw"),
        ({"schedule": "linear"}, "constant, step, cosine, onecycle"),
        ({"precision": "fp8"}, "fp32, bf16"),
        ({"learning_rate": -1}, "trainer.train.learning_rate=-1"),
        ({"learning_rate": float("nan")}, "trainer.train.learning_rate"),
        ({"epochs": -1}, "trainer.train.epochs=-1"),
        ({"epochs": "many"}, "trainer.train.epochs=many"),
        ({"batch_size": 0}, "trainer.train.batch_size=0"),
        ({"momentum": 1.0}, "trainer.train.momentum=1.0"),
        ({"clip_norm": -2}, "trainer.train.clip_norm=-2"),
        ({"lr": 0.1}, "unknown key 'trainer.train.lr'"),
        ({"nesterov": True, "momentum": 0}, "nesterov=true needs"),
        ({"schedule": "step"}, "milestones"),
        ({"warmup_epochs": 3}, "warmup_epochs"),
    ],
)
def test_nonsense_is_named_with_what_to_type_instead(changes, message):
    with pytest.raises(BadInput) as caught:
        TrainerSettings.from_config({"epochs": 3} | changes)
    assert message in str(caught.value) and len(str(caught.value).splitlines()) <= 2


def test_a_missing_number_of_epochs_is_named():
    with pytest.raises(BadInput, match=r"trainer\.finetune\.epochs is missing"):
        TrainerSettings.from_config({}, "trainer.finetune")


@pytest.mark.parametrize("name", [path.stem for path in (TESTS.parents[2] / "conf" / "trainer").glob("*.yaml")])
def test_every_preset_is_valid(name):
    with initialize_config_module("conf", version_base=None):
        trainer = compose(overrides=[f"+trainer={name}"]).trainer
    sections = {where: TrainerSettings.from_config(trainer[where], where) for where in ("train", "finetune")}
    assert set(trainer.finetune) == set(TrainerSettings.model_fields)
    assert set(trainer.train) == set(TrainerSettings.model_fields) - {"distil"}  # the teacher has no teacher
    assert (sections["finetune"].epochs == 0) == (name == "none")
    assert sections["train"].epochs > 0


def test_another_optimizer_needs_no_other_change():
    assert TrainerSettings.from_config({"epochs": 1, "optimizer": "adamw", "nesterov": True}).optimizer == "adamw"


def test_what_is_computed_does_not_include_the_hardware():
    assert some(devices=2, accelerator="cpu").training_facts() == some().training_facts()
    for changes in ({"epochs": 9}, {"precision": "bf16"}, {"batch_size": 7}):
        assert some(**changes).training_facts() != some().training_facts()


def test_frozen_parameters_get_no_optimizer():
    model = make_model()
    model[0].weight.requires_grad_(False)
    optimizer = build_optimizer(model.parameters(), some())
    held = set(itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups))
    assert model[0].weight not in held and model[5].weight in held


@pytest.mark.slow
def test_the_digits_preset_trains_the_demos_network(tmp_path):
    with initialize_config_module("conf", version_base=None):
        cfg = compose(overrides=["+trainer=digits", "+dataset=digits", "+model=mlp_digits"])
    data = load(cfg.dataset, 0, tmp_path)
    model = build(cfg.model, data.shape, data.classes, 0)
    fit(model, data, TrainerSettings.from_config(cfg.trainer.train), 0)
    assert evaluate(model, data.test).accuracy >= 0.975
