"""secateurs.testing: each broken promise is noticed, sound methods pass, and the command says so."""

import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import secateurs
from methods.compensation import LeastSquares
from methods.pruner import Pruner
from methods.seeds import stream
from methods.selection import largest
from secateurs import promises
from secateurs.testing import BrokenPromise, Check, Report, check_method, check_one

pytestmark = pytest.mark.usefixtures("device")

ROOT = Path(__file__).parents[2]


class Sound(secateurs.Selection[secateurs.NodeLayer]):
    def scores(self, layer):
        return layer.incoming.abs().sum(1)


class NotFinite(Sound):
    def scores(self, layer):
        return super().scores(layer).index_fill(0, torch.tensor([0], device=layer.incoming.device), torch.nan)


class WrongShape(Sound):
    def scores(self, layer):
        return layer.incoming


class OneTooFew(Sound):
    def select(self, layer, k):
        return largest(self.scores(layer), max(1, k - 1))


class Unsorted(Sound):
    def select(self, layer, k):
        return largest(self.scores(layer), k).flip(0)


class GlobalNoise(Sound):
    def scores(self, layer):
        return torch.rand(layer.size)


class OwnSeed(Sound):
    def scores(self, layer):
        return torch.rand(layer.size, generator=stream(0, layer.name))


class Drawing(Sound):
    def scores(self, layer):
        return torch.rand(layer.size, generator=layer.generator)


class Remembering(Sound):
    calls = 0

    def scores(self, layer):
        self.calls += 1
        return torch.rand(layer.size, generator=stream(self.calls, layer.name))


class Spoiling(Sound):
    def scores(self, layer):
        layer.calibration.inputs.mul_(0.5)
        return super().scores(layer)


class Failing(Sound):
    def scores(self, layer):
        raise ZeroDivisionError("no width")


class Refusing(Sound):
    def scores(self, layer):
        raise secateurs.Skipped(f"{layer.name} is too narrow")


FAULTS = {
    NotFinite: ("scores are sound", "NotFinite.scores of 1 has 1 of 20 scores that are NaN or infinite"),
    WrongShape: ("scores are sound", "WrongShape.scores of 1 has shape (20, 64); expected (20,)"),
    OneTooFew: ("scores are sound", "OneTooFew.select of 1 keeps 9 nodes; expected 10"),
    Unsorted: ("scores are sound", "Unsorted.select of 1 gives indices that are not sorted and distinct"),
    GlobalNoise: ("seed decides", "draws from PyTorch's global random state"),
    Remembering: ("seed decides", "two runs with one seed give two networks"),
    Spoiling: ("original is untouched", "samples changed"),
    Failing: ("budget is met", "ZeroDivisionError: no width (test_testing.py, line "),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_broken_promise_is_noticed(fault):
    name, message = FAULTS[fault]
    trial = promises.Trial(Pruner(Sound()), "chain")
    [promise] = [promise for promise in promises.PROMISES if promise.name == name and promise.concerns(trial)]
    sound = check_one(promise, trial)
    assert sound.status == "kept", sound
    found = check_one(promise, promises.Trial(Pruner(fault()), "chain"))
    assert found.status == "broken" and message in found.message, found


@pytest.mark.slow
def test_a_missed_budget_is_noticed_and_raises():
    with pytest.raises(BrokenPromise, match=r"(?s)✗ budget is met.*keeps 9 of 20 units.*checks failed."):
        check_method(OneTooFew())


@pytest.mark.slow
def test_sound_methods_pass_as_selection_pruner_and_preset():
    report = check_method(Sound(), stochastic=False)
    assert report.passed and {check.status for check in report.checks} == {"kept"}
    assert check_method(Pruner(Sound(), compensation=LeastSquares())).passed
    assert check_method("magnitude_edge", stochastic=False).passed


@pytest.mark.parametrize(
    "method,stochastic,status",
    [(OwnSeed, True, "broken"), (OwnSeed, False, "kept"), (Drawing, True, "kept"), (Drawing, False, "broken")],
)
def test_a_stochastic_method_that_ignores_its_seed_is_noticed(method, stochastic, status):
    [promise] = [promise for promise in promises.PROMISES if promise.needs_to_know]
    trial = promises.Trial(Pruner(method()), "chain", stochastic)
    assert promise.concerns(trial) and check_one(promise, trial).status == status
    assert not promise.concerns(promises.Trial(Pruner(method()), "chain"))  # nobody has said what it should be


def test_removal_that_does_not_equal_closing_off_is_noticed(monkeypatch):
    @contextmanager
    def open_to_all(model, groups, kept):
        yield

    trial = promises.Trial(Pruner(Sound()), "chain")
    promises.removed_equals_closed_off(trial)
    monkeypatch.setattr(promises, "gated", open_to_all)
    with pytest.raises(AssertionError, match="outputs differ by up to"):
        promises.removed_equals_closed_off(trial)


def test_a_note_alone_excuses_no_missed_budget():
    """Until now any note did."""
    pruner = Pruner(Sound())

    def pruned(achieved, note):
        found = promises.Trial(pruner, "chain").prune()
        found.achieved, found.note = {"keep": achieved}, note
        return found

    near, far = pruned(0.52, "nearest reachable size"), pruned(0.56, "nearest reachable size")
    for result, kept in ((pruned(0.504, None), True), (near, True), (far, False), (pruned(0.52, None), False)):
        if kept:
            promises.require_met(pruner, result, "keep", 0.5)
        else:
            with pytest.raises(AssertionError):
                promises.require_met(pruner, result, "keep", 0.5)


@pytest.mark.slow
def test_a_method_that_refuses_every_network_has_shown_nothing():
    report = check_method(Refusing(), on_fail="report")
    assert not report.passed and not report.broken
    assert "The method refuses every network" in str(report) and "1 is too narrow" in str(report)


def test_the_report_reads_well():
    report = Report(
        "mine: MySelection",
        [
            Check("budget is met", "chain", "kept"),
            Check("budget is met", "residual", "refused", "no residual networks"),
            Check("seed decides", "chain", "broken", "two runs differ"),
        ],
    )
    assert str(report).splitlines() == [
        "mine: MySelection",
        "",
        f"{'chain':>26}{'residual':>13}",
        f"budget is met{'✓':>13}{'–':>13}",
        f"seed decides{'✗':>14}",
        "",
        "✗ seed decides (chain):",
        "    two runs differ",
        "– refused (residual):",
        "    no residual networks",
        "1 refused: the method says that it does not apply to these networks.",
        "1 of 3 checks failed.",
    ]


MINE = """
from methods.selection import Selection

class Mine(Selection):
    def scores(self, layer):
        return layer.covariance.diagonal() * {sign}
"""


def command(folder, *words):
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{folder}", "SECATEURS_CONF": str(folder / "conf")}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.conformance", *words],
        capture_output=True, text=True, cwd=folder, env=environment, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_the_command_checks_a_method_outside_of_the_clone(tmp_path):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    preset = "# @package _global_\nmethod: {name: mine}\nselection: {_target_: my_method.Mine}\n"
    (tmp_path / "conf/method/mine.yaml").write_text(preset)
    (tmp_path / "my_method.py").write_text(MINE.format(sign="1"))
    code, said, _ = command(tmp_path, "method=mine", "stochastic=false")
    assert code == 0 and said.startswith("mine: Mine, Uniform, Compensation, Schedule\n")
    assert said.endswith("checks passed.\n") and "✗" not in said
    (tmp_path / "my_method.py").write_text(MINE.format(sign="float('nan')"))
    code, said, _ = command(tmp_path, "method=mine")
    assert code == 1 and "that are NaN or infinite" in said
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["conf", "my_method.py"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words,message",
    [
        (["method=spectrall"], "unknown method 'spectrall'; choose from"),
        (["method=spectral,dpp"], "expected one method"),
        (["spectral"], "cannot read 'spectral'; expected method=NAME"),
        (["method=random", "stochastic=perhaps"], "cannot read 'stochastic=perhaps'"),
    ],
)
def test_the_command_says_what_is_wrong(words, message, tmp_path):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    code, said, wrong = command(tmp_path, *words)
    assert code == 2 and said == "" and message in wrong and len(wrong.splitlines()) <= 2
