"""Networks that behave otherwise while they are trained: refused before any work, or run."""

import pytest
import torch.nn.functional as F
from torch import nn

from benchmarks.records.store import Store
from benchmarks.storage.paths import Paths
from benchmarks.sweeps.run_command import main

TINY = ["trainer=tiny", "dataset.limit=300", "measure=none", "track=none", "calibration.samples=64"]


class Auxiliary(nn.Module):
    """GoogLeNet and Inception: a tuple in training mode only."""

    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU())
        self.head, self.aux = nn.Linear(24, classes), nn.Linear(24, classes)

    def forward(self, x):
        hidden = self.body(x)
        return (self.head(hidden), self.aux(hidden)) if self.training else self.head(hidden)


class NeedsABatch(nn.Module):
    """Batch normalisation without running statistics takes no single sample."""

    def __init__(self, classes):
        super().__init__()
        self.first, self.norm = nn.Linear(64, 24), nn.BatchNorm1d(24, track_running_stats=False)
        self.last = nn.Linear(24, classes)

    def forward(self, x):
        return self.last(self.norm(self.first(x.flatten(1))).relu())


class OverRows(nn.Module):
    """Conv1d, called by keyword."""

    def __init__(self, classes):
        super().__init__()
        self.first, self.second = nn.Conv1d(8, 24, 3, padding=1), nn.Conv1d(24, 24, 3, padding=1)
        self.last = nn.Linear(24, classes)

    def forward(self, x):
        hidden = self.second(input=F.relu(self.first(input=x[:, 0])))
        return self.last(input=F.relu(hidden).mean(2))


def frozen(classes):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, classes))
    return model.requires_grad_(False)


@pytest.fixture
def run(tmp_path, capsys):
    """Runs a cell of a network of this file; exit code, what was said, and its records."""
    folders = {"results": f"{tmp_path}/results", "cache": f"{tmp_path}/cache"}

    def one(name, *words):
        own = [f"model._target_={__name__}.{name}"]
        code = main([*own, "method=magnitude", *TINY, *words, *(f"paths.{k}={v}" for k, v in folders.items())])
        captured = capsys.readouterr()
        return code, captured.out + captured.err, Store.of(Paths.of(folders)).load()[0]

    return one


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["--dry-run"], ["-m", "seed=0,1,2"]], ids=["run", "planned", "swept"])
@pytest.mark.parametrize(
    "name,said",
    [
        ("Auxiliary", "gives a tuple in training mode and a tensor otherwise"),
        ("frozen", "nothing is left to train"),
    ],
)
def test_what_cannot_be_trained_is_refused_once_before_any_cell(run, name, said, words):
    code, text, records = run(name, *words)
    assert (code, records) == (2, [])
    assert text.count(said) == 1 and len(text.strip().splitlines()) == 2


def test_a_frozen_network_is_pruned_where_nothing_is_trained(run):
    code, text, [record] = run("frozen", "trainer.train.epochs=0", "trainer.finetune.epochs=0")
    assert (code, record.status) == (0, "done"), text


@pytest.mark.parametrize("name", ["NeedsABatch", "OverRows"])
def test_batches_of_one_keywords_and_rows_are_no_hindrance(run, name):
    code, text, [record] = run(name, "budget.keep=0.75")  # one epoch trains so little that less is chance
    assert (code, record.status) == (0, "done"), text
    assert record.metrics.tuned.macs < record.metrics.dense.macs
