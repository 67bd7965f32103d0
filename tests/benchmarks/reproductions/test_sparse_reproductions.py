"""The reproductions of sparse-lq pruning: their rules on a small network, and the quick versions."""

import os
from itertools import pairwise

import pytest
import torch

from benchmarks.boards.theory import Correlation
from benchmarks.reproductions import Workplace, module_of
from benchmarks.reproductions.lq import _sap, compressibility, theory_lq
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """All runs of a small network on the embedded digits, two prunings and one epoch per training."""
    folder = tmp_path_factory.mktemp("sap")
    words = ["dataset=digits", "model=mlp", "model.widths=[16]", "trainer.train.epochs=1", "dataset.limit=300"]
    config = Composer(CONF).cell(words)
    begin = _sap.start(config, Workplace(folder, folder, folder))
    runs = (*_sap.GLOBAL_RUNS, *_sap.NEURON_RUNS)
    return folder, {(run.name, run.scope): _sap.follow(run, begin, 2) for run in runs}


def test_remaining_weights_follow_the_rules(states):
    _, runs = states
    total = 64 * 16 + 16 * 10
    for name in ("lottery ticket", "one-shot"):
        assert [row["left"] for row in runs[name, "global"]] == [total, round(0.8 * total), round(0.64 * total)]
    for name in ("SAP(.5,1)", "SAP(1,2)"):
        rows = runs[name, "global"]
        for before, after in pairwise(rows):
            assert after["left"] == before["next"] < before["left"]
    first = runs["SAP(.5,1)", "global"]
    assert first[1]["left"] == pytest.approx(total * (1 - first[0]["pq_index"]), abs=1)
    assert all(row["left"] < total for (_, scope), rows in runs.items() for row in rows[1:] if scope == "neuron")


def test_all_runs_start_alike_and_are_reported(states, drawn):
    _, runs = states
    rows = [row for own in runs.values() for row in own]
    assert len({(row["accuracy"], row["pq_index"], row["gini"]) for row in rows if row["t"] == 0}) == 1
    outcome = _sap.outcome(rows, {("global", "one-shot", 1): 80.0}, "here")
    exact = [claim for claim in outcome.claims if "to the weight" in claim.text]
    assert len(exact) == 4 and all(claim.seen for claim in exact), exact
    assert {"published", "ours", "std", "n", "difference", "accuracy", "pq_index", "gini"} <= set(outcome.table.columns)
    line = outcome.table[(outcome.table["method"] == "one-shot") & (outcome.table["t"] == 1)].iloc[0]
    assert line["difference"] == pytest.approx(0, abs=0.1)
    drawn("sap_mnist", outcome)


def test_a_broken_rule_is_not_seen(states):
    _, runs = states
    rows = [dict(row) for own in runs.values() for row in own]
    for row in rows:
        row["left"] -= 5 * row["t"]
    outcome = _sap.outcome(rows, {}, "here")
    exact = [claim for claim in outcome.claims if "to the weight" in claim.text]
    assert len(exact) == 4 and not any(claim.seen for claim in exact), exact


def test_cnn_has_the_papers_number_of_weights():
    model = _sap.PlainCNN([64, 128, 256, 512], shape=(3, 32, 32), classes=10)
    assert sum(value.numel() for value in model.parameters() if value.ndim > 1) == 1_555_136
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_bounds_hold_and_a_violation_would_show():
    chain = theory_lq.random_chain("t3", theory_lq.LAWS["t3"], 0)
    rows = [row for share in theory_lq.SHARES for row in theory_lq.examine(chain, share)]
    assert all(row["violations"] == 0 for row in rows)
    assert all(claim.seen is not False for claim in theory_lq.claims_of(rows)[:2])
    errors = [row["error"] for row in rows if row["layer"] == "outputs"]
    assert errors == sorted(errors, reverse=True)  # shares ascend
    for row in rows:
        if row["layer"] != "outputs":
            assert row["tail"] <= row["tail bound"] and row["error"] <= row["bound"]
            assert row["refit"] <= row["error"] * (1 + 1e-9)
        else:
            assert row["error"] <= row["recursion, exact"] <= row["closed form"] * (1 + 1e-9)
    rows[0]["violations"] = 1
    assert theory_lq.claims_of(rows)[0].seen is False


def test_regression_as_cells(workplace, drawn):
    outcome = module_of("lq_regression").run(workplace)
    table = outcome.table
    assert set(table["allocation"]) == {"lq-adaptive", "uniform per neuron", "global magnitude"}
    assert set(table["repair"]) == {"none", "refit"}
    assert (table["n"] == 2).all()
    assert table["achieved"].between(0.59, 0.61).all()
    assert (table["error"] < table["bound"]).all()
    refitted = next(claim for claim in outcome.claims if "refitting" in claim.text)
    assert refitted.seen, refitted.evidence
    drawn("lq_regression", outcome)


def test_compressibility_puts_every_theory_beside_the_drops_of_the_same_networks(workplace, drawn):
    outcome = module_of("compressibility").run(workplace)
    table = outcome.table
    assert set(table["method"]) == {"magnitude", "ℓq"} and set(table["theory"]) == set(
        compressibility.THEORIES.values()
    )
    assert (table["n"] == 4).all(), "two trainings of two seeds"
    assert table["spearman"].dropna().between(-1, 1).all()
    for _, own in table.groupby("method"):  # the outcome is that of the network, whichever theory it stands beside
        assert own["smallest drop"].nunique() == 1 and own["largest drop"].nunique() == 1
    drawn("compressibility", outcome)


@pytest.mark.parametrize(
    ("intervals", "seen"),
    [([(0.2, 0.9), (0.1, 0.8)], True), ([(0.2, 0.9), (-0.1, 0.8)], None), ([(-0.9, -0.2), (-0.8, -0.1)], False)],
)
def test_a_theory_is_seen_to_rank_networks_where_both_intervals_lie_above_zero(intervals, seen):
    found = [
        compressibility.Beside("digits", name, "PQ index", [], Correlation((low + high) / 2, low, high, 9))
        for name, (low, high) in zip(("magnitude", "ℓq"), intervals, strict=True)
    ]
    [claim] = compressibility.claims(found)
    assert claim.seen is seen and "PQ index" in claim.text


@pytest.mark.skipif("SECATEURS_DATA" not in os.environ, reason="needs the images: SECATEURS_DATA=FOLDER")
@pytest.mark.parametrize("name", ["sap_mnist", "sap_cifar10"])
def test_quick_versions(name, workplace):
    outcome = module_of(name).run(workplace)
    assert all(claim.seen for claim in outcome.claims if "to the weight" in claim.text)
