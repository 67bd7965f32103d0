import csv
import io
import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sample_records import made

from benchmarks.boards import board, labels, overall
from benchmarks.boards.frame import load, rows_of
from benchmarks.boards.layout import csv_of, table_of
from benchmarks.boards.naming import with_names
from benchmarks.boards.rendering import render
from benchmarks.boards.stats import spread
from benchmarks.boards.tables import Table, csv_text, plus_minus
from benchmarks.leaderboard import main, outdated
from benchmarks.records.schema import Record
from benchmarks.records.store import Store
from benchmarks.report.__main__ import main as report
from benchmarks.storage.paths import REPOSITORY, Paths
from methods.errors import BadInput

pytestmark = pytest.mark.slow

PRESETS = {
    "config.yaml": "defaults:\n  - allocation: uniform\n  - compensation@compensation: none\n  - _self_\n",
    "allocation/uniform.yaml": "_target_: methods.allocation.Uniform\n",
    "compensation/none.yaml": "_target_: methods.compensation.NoCompensation\n",
    "compensation/least_squares.yaml": "_target_: methods.compensation.LeastSquares\nridge: null\nrefit: false\n",
    "method/spectral.yaml": (
        "# @package _global_\ndefaults:\n  - override /compensation@_global_.compensation: least_squares\n"
        "selection: {_target_: methods.spectral.selection.SpectralSelection, theta: 0.5, seed: '${seed}'}\n"
    ),
    "method/magnitude.yaml": "selection: {_target_: methods.baselines.magnitude.Magnitude, norm: 1}\n",
}
LEAST_SQUARES = {"_target_": "methods.compensation.LeastSquares", "ridge": None, "refit": False}


def boards(records, **question):
    return board.boards(rows_of(records), board.Question(**question))


NONE = {"_target_": "methods.compensation.NoCompensation"}
SPECTRAL = {"_target_": "methods.spectral.selection.SpectralSelection", "theta": 0.5, "seed": 3}


@pytest.fixture
def conf(tmp_path, monkeypatch):
    for name, text in PRESETS.items():
        path = tmp_path / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(labels, "CONF", tmp_path / "conf")
    return tmp_path / "conf"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results" / "runs", tmp_path / "results" / "cells")


def scored(seed, before, after, **fields):
    metrics = {
        "dense": {"accuracy": 0.98, "parameters": 1000, "macs": 900},
        "pruned": {"accuracy": before, "parameters": 250, "macs": 200},
        "tuned": {"accuracy": after, "parameters": 250, "macs": 200},
    }
    return made(seed=seed, metrics=metrics, **fields)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"selection": SPECTRAL, "compensation": LEAST_SQUARES}, "spectral"),
        ({"selection": SPECTRAL, "compensation": NONE}, "spectral (no compensation)"),
        ({"selection": SPECTRAL | {"theta": 0.25}, "compensation": LEAST_SQUARES}, "spectral (theta 0.25)"),
        ({"compensation": LEAST_SQUARES | {"ridge": 0.1}}, "spectral (ridge 0.1)"),
        ({"compensation": LEAST_SQUARES, "allocation": {"_target_": "methods.x.Other"}}, "spectral (Other)"),
        ({"compensation": LEAST_SQUARES | {"new": None}}, "spectral"),
        ({"method": {"selection": SPECTRAL | {"theta": 1}}}, "spectral (theta 1)"),
        ({}, "spectral"),
    ],
)
def test_label_names_the_parts_that_are_not_the_presets(conf, parts, expected):
    assert labels.label(made(settings=parts), conf) == expected


def test_label_of_a_part_the_preset_leaves_to_the_root(conf):
    record = made(method="magnitude", settings={"compensation": LEAST_SQUARES | {"refit": True}})
    assert labels.label(record, conf) == "magnitude (least_squares, refit True)"
    assert labels.label(made(method="magnitude", settings={"compensation": NONE}), conf) == "magnitude"
    assert labels.label(made(method="unheard_of"), conf) == "unheard_of"


def test_rows_average_over_seeds_and_over_nothing_else(conf):
    accuracies = [0.90, 0.92, 0.97]
    records = [scored(seed, 0.5, accuracy) for seed, accuracy in enumerate(accuracies)]
    records.append(scored(0, 0.5, 0.1, settings={"calibration": {"samples": 9}}))
    [found] = boards(records)
    rows = {row.full: row for row in found.rows}
    assert set(rows) == {"dense", "spectral", "spectral [calibration.samples 9]"}
    averaged = rows["spectral"]
    assert averaged.n == 3
    assert averaged.values["tuned_accuracy"].mean == pytest.approx(sum(accuracies) / 3)
    assert averaged.values["tuned_accuracy"].std == pytest.approx(statistics.stdev(accuracies))
    assert rows["dense"].n == 3, "one dense network per seed"
    assert found.footnotes == {"a": "spectral [calibration.samples 9]"}
    assert "[a] spectral [calibration.samples 9]" in table_of(found).notes
    assert "spectral [a]" in {row[1] for row in table_of(found).rows}


def test_what_was_measured_does_not_make_another_setting(conf):
    latency = [{"runtime": "eager", "batch": 1, "ratio": 2.0}]
    records = [scored(0, 0.5, 0.9), scored(0, 0.5, 0.9, settings={"measure": {"latency": 1}}, latency=latency)]
    records += [scored(1, 0.5, 0.8)]
    [found] = boards(records)
    [row] = [row for row in found.rows if not row.control]
    assert (row.name, row.n) == ("spectral", 2) and row.values["latency_eager_b1"].n == 1
    assert found.keys == {record.key for record in records}


def test_dense_network_is_counted_once_however_many_methods_prune_it(conf):
    records = [
        scored(0, 0.5, 0.6, method=method, settings={"method": {"name": method}}) for method in ("spectral", "dpp")
    ]
    assert [(row.name, row.n) for row in boards(records)[0].rows if row.name == "dense"] == [("dense", 1)]


def test_order_is_dense_then_tuned_then_pruned_then_what_did_not_work(conf):
    def cell(method, before, after, **fields):
        return scored(0, before, after, method=method, settings={"method": {"name": method}}, **fields)

    records = [
        cell("a", 0.3, 0.8),
        cell("b", 0.9, None),
        cell("c", 0.4, 0.8),
        cell("d", 0.1, 0.95),
        cell("e", None, None, status="failed", reason="it broke\nin two lines"),
        cell("f", 0.1, 0.1, status="collapsed", reason="chance accuracy"),
    ]
    for order in (records, records[::-1]):
        board = boards(order)[0]
        assert [row.name for row in board.rows] == ["dense", "d", "c", "a", "b", "f", "e"]
    table = table_of(board)
    assert table.columns[-1] == "status"
    assert [row[-1] for row in table.rows[-2:]] == ["collapsed", "failed"]
    assert table.notes[-2:] == ["f collapsed (n = 1): chance accuracy", "e failed (n = 1): it broke"]


def test_seeds_that_failed_are_a_row_beside_those_that_did_not(conf):
    records = [scored(0, 0.5, 0.9), scored(1, 0.5, 0.9), scored(2, None, None, status="failed")]
    assert [(row.name, row.status, row.n) for row in boards(records)[0].rows] == [
        ("dense", "done", 3),
        ("spectral", "done", 2),
        ("spectral", "failed", 1),
    ]


def test_table_says_rule_split_and_spread(conf):
    table = table_of(boards([scored(0, 0.5, 0.91234)])[0])
    assert table.title == (
        "digits · mlp · keep 0.2: accuracy (%) on the test split; weights chosen by validation accuracy"
    )
    row = dict(zip(table.columns, table.rows[1], strict=True))
    assert row["after fine-tuning"] == "91.23 ± –" and row["n"] == "1"
    assert row["parameters"] == "250" and row["MACs"] == "200"
    assert "FLOPs" not in table.markdown()


def test_latency_and_masks_have_their_columns_and_notes(conf):
    latency = [{"runtime": "eager", "batch": 1, "ratio": 1.931}]
    records = [scored(0, 0.5, 0.9, latency=latency)]
    records.append(scored(0, 0.5, 0.9, unit="edge", method="m", settings={"method": 1}, latency=latency))
    table = table_of(boards(records)[0])
    assert [row[table.columns.index("latency eager b1")] for row in table.rows] == ["–", "1.93×", "1.93×"]
    assert "nonzero" in table.columns
    assert any("bring no speed" in note for note in table.notes)
    assert not any("left out" in note for note in table.notes)


def test_latencies_of_differing_fingerprints_are_not_ranked_against_each_other(conf):
    def timed(seed, method, ratio, **machine):
        latency = [{"runtime": "eager", "batch": 1, "ratio": ratio}]
        return scored(
            seed, 0.5, 0.9, method=method, settings={"method": method}, latency=latency,
            fingerprint={"cpu": "A", "threads": 1} | machine,
        )  # fmt: skip

    here = [timed(seed, method, 2.0) for seed in (0, 1) for method in ("slow", "slower")]
    there = [timed(seed, "fast", 5.0, threads=2) for seed in (0, 1)]
    board = boards([*here, *there], metric="latency_eager_b1")[0]
    table = table_of(board)
    rows = {row[table.columns.index("method")]: row for row in table.rows}
    column = table.columns.index("latency eager b1")
    assert (rows["fast"][0], rows["fast"][column]) == ("–", "–")
    assert set(board.verdicts["node"].names) == {"slow", "slower"}
    assert rows["slow"][column].startswith("2.00×")
    [note] = [note for note in table.notes if "left out" in note]
    assert "2 records" in note and note.endswith("threads 2, not 1")
    assert boards(there, metric="latency_eager_b1")[0].rows[1].values["latency_eager_b1"].mean == 5.0


def test_tasks_timed_on_different_machines_each_keep_their_latencies(conf):
    def timed(keep, threads):
        latency = [{"runtime": "eager", "batch": 1, "ratio": 2.0}]
        budget = {"requested": {"keep": keep}, "achieved": {}}
        settings = {"budget": {"keep": keep}}
        return made(settings=settings, budget=budget, latency=latency, fingerprint={"cpu": "A", "threads": threads})

    own, reviewed = timed(0.2, 2), timed(0.5, 1)
    found = boards([own, reviewed])
    assert [board.latencies for board in found] == [["latency_eager_b1"]] * 2
    assert not any("left out" in note for board in found for note in table_of(board).notes)
    [both] = boards([own, reviewed], group_by=("dataset", "model"))
    assert any("left out" in note for note in table_of(both).notes)


def test_regression_is_ranked_by_loss(conf):
    def cell(method, loss):
        metrics = {"pruned": {"loss": 1.0}, "tuned": {"loss": loss}}
        return made(method=method, settings={"method": method}, metrics=metrics)

    board = boards([cell("bad", 0.9), cell("good", 0.1)])[0]
    assert [row.name for row in board.rows] == ["good", "bad"]
    table = table_of(board)
    assert "loss on the test split" in table.title and table.rows[0][6] == "0.1000 ± –"


def test_budgets_have_boards_of_their_own_in_numerical_order(conf):
    records = [
        made(settings={"budget": {"speedup": value}}, budget={"requested": {"speedup": value}}) for value in (16, 2, 4)
    ]
    assert [board.group["value"] for board in boards(records)] == [2, 4, 16]


def test_files_are_the_same_bytes_for_the_same_records(conf, store, tmp_path):
    records = [
        scored(seed, 0.1 * seed, 0.3 + 0.1 * seed, method=m, settings={"m": m}) for seed in range(3) for m in "ab"
    ]
    for record in records:
        store.write(record)
    assert render(store, tmp_path / "one") == 1
    other = Store(tmp_path / "other" / "runs", tmp_path / "other" / "cells")
    for record in reversed(records):
        other.write(record)
    formats = ("md", "csv", "tex", "html")
    render(other, tmp_path / "two", formats=formats)
    assert (other.runs / ".boards.parquet").exists()
    render(other, tmp_path / "cached", formats=formats)
    render(store, tmp_path / "one", formats=formats)
    for name in formats:
        files = [tmp_path / folder / f"leaderboard.{name}" for folder in ("one", "two", "cached")]
        assert len({file.read_bytes() for file in files}) == 1, name


def test_csv_holds_the_unrounded_numbers(conf):
    lines = list(csv.DictReader(io.StringIO(csv_of(boards([scored(0, 0.5, 0.9123456), scored(1, 0.5, 0.9)])))))
    assert [line["method"] for line in lines] == ["dense", "spectral"]
    assert float(lines[1]["tuned_accuracy_mean"]) == pytest.approx((0.9123456 + 0.9) / 2, rel=1e-12)
    assert lines[1]["n"] == "2" and lines[1]["prune_seconds_mean"] == ""


def test_texts_of_records_are_not_markup(conf, store, tmp_path):
    hostile = {"compensation": LEAST_SQUARES | {"x": "a|b<script>[red]x[/nope]"}}
    store.write(scored(0, 0.5, 0.9, settings=hostile, status="failed", reason="*bold* | `code`\n<b>"))
    console = Console(record=True, width=200, file=io.StringIO())
    render(store, tmp_path / "out", console)
    assert "a|b<script>[red]x[/nope]" in console.export_text()
    markdown = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "<script>" not in markdown.replace("\\<", "") and "a\\|b" in markdown
    assert {line.replace("\\|", "").count("|") for line in markdown.splitlines() if line.startswith("|")} == {6, 12}


@given(st.text(max_size=30))
def test_any_text_stays_one_markdown_cell(text):
    line = Table("t", ["a"], [[text]]).markdown().splitlines()[4]
    assert line.replace("\\\\", "").replace("\\|", "").count("|") == 2


def test_only_prints_the_boards_of_a_sweep_but_writes_all(conf, store, tmp_path):
    first, second = made(), made(seed=1, dataset="mnist")
    for record in (first, second):
        store.write(record)
    console = Console(record=True, width=200, file=io.StringIO())
    assert render(store, tmp_path / "out", console, only=frozenset({second.key})) == 2
    assert "mnist" in (said := console.export_text()) and "digits" not in said
    assert "digits" in (tmp_path / "out" / "leaderboard.md").read_text()


def test_corrupt_record_is_named_and_the_rest_is_shown(conf, store, capsys):
    path = store.write(made())
    path.with_name(f"{'e' * 16}.json").write_text("{")
    assert main(["--results", str(store.runs.parent)]) == 0
    said = capsys.readouterr().out
    assert "left out: " in said and "corrupt: not JSON" in said and "spectral" in said


def test_where_filters_and_formats_choose(conf, store, capsys):
    for seed in range(3):
        store.write(scored(seed, 0.5, 0.9))
    arguments = ["--results", str(store.runs.parent), "--where", "seed < 2", "--format", "csv"]
    assert main(arguments) == 0
    out = store.runs.parent / "boards"
    assert [path.name for path in out.iterdir()] == ["leaderboard.csv"]
    assert {line["n"] for line in csv.DictReader((out / "leaderboard.csv").open())} == {"2"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "pdf"], "Unknown format pdf; expected some of terminal, md, csv"),
        (["--where", "colour == 1"], "Cannot apply the query 'colour == 1'.*\nExpected a condition such as"),
        (["--where", "seed +"], "Cannot apply the query"),
        (["--where", "seed + 1"], "Cannot apply the query"),
        (["--where", "seed > 100"], "No records that match 'seed > 100'"),
    ],
)
def test_bad_input_says_what_to_type(conf, store, arguments, message):
    store.write(made())
    with pytest.raises(BadInput, match=message) as raised:
        main(["--results", str(store.runs.parent), *arguments])
    assert len(str(raised.value).splitlines()) <= 2
    assert not (store.runs.parent / "boards").exists()


def test_empty_store_says_how_to_begin(store):
    with pytest.raises(BadInput, match=r"No records in .*\n.*python run.py -m method="):
        main(["--results", str(store.runs.parent)])


@given(st.lists(st.floats(-1e6, 1e6) | st.none(), max_size=8))
def test_spread_against_the_definition(values):
    known = [value for value in values if value is not None]
    result = spread(values)
    assert result.n == len(known)
    if known:
        mean = sum(known) / len(known)
        assert result.mean == pytest.approx(mean, abs=1e-6)
    if len(known) > 1:
        variance = sum((value - mean) ** 2 for value in known) / (len(known) - 1)
        assert result.std == pytest.approx(variance**0.5, abs=1e-6)
    else:
        assert result.std is None and plus_minus(result).endswith("–")


def test_ten_thousand_records(conf, store, tmp_path):
    for seed in range(10_000):
        path = store.path_of(record := scored(seed, 0.5, 0.9))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(record.text())
    assert render(store, tmp_path / "out") == 1
    first = (tmp_path / "out" / "leaderboard.md").read_bytes()
    assert b"10000" in first
    assert render(store, tmp_path / "out") == 1
    assert (tmp_path / "out" / "leaderboard.md").read_bytes() == first


@pytest.mark.parametrize("method", sorted(path.stem for path in (REPOSITORY / "conf" / "method").glob("*.yaml")))
def test_the_suites_own_presets_are_named_plainly(method):
    """Composed as for a cell, each method's own parts must not look like a departure from them."""
    from omegaconf import OmegaConf

    from benchmarks.sweeps.composition import Composer

    conf = REPOSITORY / "conf"
    none = OmegaConf.to_container(OmegaConf.load(conf / "compensation" / "none.yaml"))
    usual = Composer(conf).cell([f"method={method}"])
    assert labels.label(made(method=method, settings=usual), conf) == method
    if usual["compensation"] != none:
        bare = Composer(conf).cell([f"method={method}", "compensation=none"])
        assert labels.label(made(method=method, settings=bare), conf) == f"{method} (no compensation)"


def grid(methods=("a", "b", "c"), seeds=range(4), values=(0.1, 0.2), datasets=("digits",)):
    """Sound cells in which a method's accuracy falls with its position, by far more than it scatters."""
    for data in datasets:
        for value in values:
            for position, method in enumerate(methods):
                for seed in seeds:
                    accuracy = 0.95 - 0.1 * position - 0.01 * value + 0.001 * ((seed * (7 + position) + position) % 5)
                    yield scored(
                        seed,
                        accuracy - 0.05,
                        accuracy,
                        dataset=data,
                        method=method,
                        settings={"method": {"name": method}, "budget": {"keep": value}, "dataset": {"name": data}},
                        budget={"requested": {"keep": value}, "achieved": {"compression": 4.0, "speedup": 5.0}},
                    )


def test_ranks_and_baseline_are_on_the_board(conf):
    table = table_of(boards(list(grid()), baseline="b")[0])
    lines = {line[1]: dict(zip(table.columns, line, strict=True)) for line in table.rows}
    assert [lines[name]["rank"] for name in ("dense", "a", "b", "c")] == ["–", "1", "2", "3"]
    assert lines["a"]["vs baseline"].startswith("+10.") and lines["c"]["vs baseline"].startswith("-")
    assert lines["a"]["verdict"] == "better, p <0.001" and lines["b"]["verdict"] == "–"
    assert lines["c"]["verdict"].startswith("worse")


def test_grouping_over_budgets_averages_over_tasks(conf):
    [whole] = boards(list(grid()), group_by=("dataset", "model"))
    assert whole.tasks == 2 and {row.n for row in whole.rows if not row.control} == {8}
    assert "mean of 2 tasks" in table_of(whole).title
    rows = {row.name: row for row in whole.rows}
    each = [{row.name: row for row in board.rows} for board in boards(list(grid()))]
    mean = sum(board["a"].values["tuned_accuracy"].mean for board in each) / 2
    assert rows["a"].values["tuned_accuracy"].mean == pytest.approx(mean)


def test_metric_chooses_what_ranks_and_in_which_direction(conf):
    cells = [
        made(seed, method=m, settings={"method": {"name": m}}, cost={"prune_seconds": seconds + 0.01 * seed})
        for m, seconds in (("slow", 9.0), ("fast", 1.0))
        for seed in range(3)
    ]
    assert [row.name for row in boards(cells, metric="prune_seconds")[0].rows] == ["dense", "fast", "slow"]
    table = table_of(boards(cells, metric="prune_seconds")[0])
    assert "prune seconds" in table.columns


def test_overall_names_its_test_and_speaks_in_the_three_words(conf, store, tmp_path):
    data = [f"data{number}" for number in range(9)]
    cells = [*grid(values=(0.1, 0.2), datasets=data), *grid(methods=("once",), values=(0.1,), datasets=data[:1])]
    for record in cells:
        store.write(record)
    console = Console(record=True, width=120, file=io.StringIO())
    render(store, tmp_path, console, question=board.Question(baseline="c"))
    said = console.export_text()
    assert "node: 3 methods over 9 networks" in said and "Skillings-Mack chi-square = 18.00" in said
    assert "3 pairs: 1 better, 2 undecided" in said and "which no test over networks can use: once" in said
    text = " ".join((tmp_path / "leaderboard.md").read_text().split())
    assert "| 1–2 | a | – | 9 | 1.00 | 1 | 0 | 1 | better | \\<0.001 |" in text
    assert "| 2–3 | c | – | 9 | 3.00 | 0 | 1 | 1 | – | – |" in text
    assert max(map(len, said.splitlines())) <= 120


def test_budgets_of_one_network_are_one_observation(conf):
    assert overall.comparisons(rows_of(list(grid(values=(0.1, 0.2, 0.3, 0.4, 0.5))))) == []
    few = rows_of(list(grid(values=(0.1,), datasets=("digits", "mnist"))))
    many = rows_of(list(grid(values=(0.1, 0.2, 0.3, 0.4), datasets=("digits", "mnist"))))
    [one], [four] = overall.comparisons(few), overall.comparisons(many)
    assert (one.ranks.statistic, one.ranks.blocks) == (four.ranks.statistic, four.ranks.blocks)
    assert four.networks == {("digits", "mlp"): (4, 4), ("mnist", "mlp"): (4, 4)}


def test_networks_trained_otherwise_are_not_another_observation(conf):
    records = list(grid(values=(0.1,), datasets=("digits", "mnist")))
    other = {"trainer": {"train": {"epochs": 9}}, "budget": {"keep": 0.1}, "dataset": {"name": "digits"}}
    records += [scored(0, 0.5, 0.6, method=m, settings={**other, "method": {"name": m}}) for m in "abc"]
    [found] = overall.comparisons(rows_of(records))
    assert set(found.networks) == {("digits", "mlp"), ("mnist", "mlp")} and found.networks["digits", "mlp"][0] == 2


def test_a_method_without_results_on_a_network_is_missing_there_and_nothing_else_is(conf):
    data = ("digits", "mnist", "cifar10", "flowers")
    records = [*grid(datasets=data), *grid(methods=("a", "x"), datasets=data[:2])]
    records = list({record.key: record for record in records}.values())
    [found] = overall.comparisons(rows_of(records))
    assert len(found.networks) == 4 and set(found.ranks.names) == {"a", "b", "c", "x"}
    assert found.ranks.found_in == {"a": 4, "b": 4, "c": 4, "x": 2}
    assert {row[1]: row[3] for row in overall.table_of(found).rows} == {"a": "4", "b": "4", "c": "4", "x": "2"}


def test_one_seed_counts_too_and_so_do_collapsed_ones(conf):
    records = [record for record in grid(values=(0.1,), datasets=("digits", "mnist")) if record.seed == 0]
    [found] = overall.comparisons(rows_of(records))
    assert found.networks["digits", "mlp"] == (1, 1) and found.ranks.names == ("a", "b", "c")
    worst = [record.model_copy(update={"status": "collapsed", "reason": "chance"}) for record in records]
    worst = [r.model_copy(update={"metrics": scored(0, 0.1, 0.1).metrics}) if r.method == "a" else r for r in worst]
    [found] = overall.comparisons(rows_of(worst))
    assert found.ranks.names[-1] == "a"


def test_nodes_edges_and_variants_have_comparisons_of_their_own(conf):
    data = ("digits", "mnist")
    nodes = rows_of(list(grid(datasets=data)))
    edges = [row | {"unit": "edge", "method": f"{row['method']}e", "label": f"{row['label']}e"} for row in nodes]
    variants = [row | {"label": f"{row['label']} (x)", "variant": "x" + row["variant"]} for row in nodes]
    controls = [row | {"label": "random (layers of a)", "variant": "y", "control_of": "a"} for row in nodes]
    found = overall.comparisons([*nodes, *edges, *variants, *controls])
    assert [(each.unit, each.usual, len(each.ranks.names)) for each in found] == [
        ("node", True, 3),
        ("node", False, 6),
        ("edge", True, 3),
    ]
    assert "node: 6 settings of methods" in overall.table_of(found[1]).title
    assert [each.usual for each in overall.comparisons(variants)] == [False]


def unequal(means, seeds, unit="node", scatter=0.001):
    """A method per mean, whose seeds scatter around it."""
    return [
        scored(
            seed,
            0.5,
            mean + scatter * (((seed + 1) * (number + 2)) % 7 - 3),
            method=f"{unit}{number}",
            unit=unit,
            settings={"method": {"name": f"{unit}{number}"}},
        )
        for number, mean in enumerate(means)
        for seed in range(seeds)
    ]


def test_nodes_and_edges_are_ranked_apart(conf):
    records = unequal([0.9, 0.8, 0.7], 4) + unequal([0.95, 0.6], 4, "edge")
    [found] = boards(records)
    assert [row.name for row in found.rows[1:]] == ["node0", "node1", "node2", "edge0", "edge1"]
    places = {row.name: row.standing.first for row in found.rows[1:]}
    assert places == {"node0": 1, "node1": 2, "node2": 3, "edge0": 1, "edge1": 2}
    assert {unit: len(said.pairs) for unit, said in found.verdicts.items()} == {"node": 3, "edge": 1}


def test_one_seed_gives_an_order_and_no_rank(conf):
    table = table_of(boards(unequal([0.9, 0.8, 0.7], 1))[0])
    assert {line[0] for line in table.rows} == {"–"} and [line[1] for line in table.rows[1:]] == [
        f"node{n}" for n in "012"
    ]
    assert any("node: not ranked, no pair is decided (3 order only)" in note for note in table.notes)


def test_few_seeds_are_not_ranked_and_the_number_that_would_decide_is_named(conf):
    table = table_of(boards(unequal([0.9, 0.89], 2, scatter=0.003))[0])
    [note] = [note for note in table.notes if "not ranked" in note]
    assert "1 undecided" in note and "seeds would decide" in note


def test_boards_of_one_network_lend_each_other_their_spread(conf):
    """Two methods of two seeds decide nothing alone; beside a board of many methods with small spread they do."""

    def at(value, records):
        budget = {"requested": {"keep": value}, "achieved": {}}
        keys = [f"{number:016x}" for number in range(100)]
        start = 0 if value == 0.2 else 50
        return [
            Record(**(record.model_dump() | {"budget": budget, "key": keys[start + number]}))
            for number, record in enumerate(records)
        ]

    two = at(0.5, unequal([0.9, 0.8], 2))
    many = at(0.2, unequal([0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55], 2))
    [alone] = boards(two)
    assert alone.verdicts["node"].counts["better"] == 0
    both = {board.group["value"]: board for board in boards([*two, *many])}
    assert both[0.5].verdicts["node"].counts["better"] == 1


def test_a_collapsed_seed_counts_against_its_method(conf):
    records = unequal([0.9, 0.8], 5)
    assert boards(records)[0].verdicts["node"].of("node0", "node1").word == "better"
    fallen = [
        Record(**(record.model_dump() | {"status": "collapsed", "reason": "chance"} | {"metrics": low(record)}))
        if (record.method, record.seed) == ("node0", 4)
        else record
        for record in records
    ]
    found = boards(fallen)[0].verdicts["node"].of("node0", "node1")
    assert (found.n, found.word) == (5, "undecided")


def test_records_of_other_data_share_no_board(conf):
    own = [scored(seed, 0.5, 0.9, fingerprint={"data": "a" * 64}) for seed in range(3)]
    other = [scored(0, 0.5, 0.8, method="dpp", settings={"m": 1}, fingerprint={"data": "b" * 64})]
    unknown = [scored(1, 0.5, 0.8, method="random", settings={"m": 2})]
    models = {board.group["model"]: len(board.cells) for board in boards([*own, *other, *unknown])}
    assert models == {"mlp": 4, "mlp [data bbbbbbbb]": 1}


def test_what_was_run_and_left_alone_and_remarked_is_on_the_board(conf):
    settings = {"dataset": {"name": "digits", "limit": 9000, "validation": 0.1}, "trainer": {"train": {"epochs": 7}}}
    record = scored(
        4,
        0.5,
        0.9,
        settings=settings,
        fingerprint={"data": "bc3589f9236446fac95eee7249e815f3831078e034b99d1def36a0244fb629a3"},
        budget={"requested": {"keep": 0.2}, "achieved": {}, "note": "one layer stayed"},
        left_alone=[{"layer": "conv1", "reason": "residual stream"}],
    )
    notes = table_of(boards([record])[0]).notes
    assert notes[0] == (
        "run: 9,000 training images, 10% of them for validation; 7 epochs; "
        "data CIFAR-10 (JPEG copies) (checksum bc3589f9); dense 98.00 %, published: none known; seed 4"
    )
    assert {"spectral, seed 4: left alone: conv1: residual stream", "spectral, seed 4: one layer stayed"} <= set(notes)


@pytest.mark.parametrize("text", ["=1+1", "+a", "-b", "@c", "\t=1"])
def test_no_text_is_a_formula_in_a_csv(text):
    [_head, line] = csv.reader(io.StringIO(csv_text(["a", "b", "c"], [[text, -1.5, "plain"]])))
    assert line == [f"'{text}", "-1.5", "plain"]


@pytest.mark.parametrize(
    "method", ["flat_minimum", "lq", "spectral", "spectral_rnn", "spectral_domain", "thinet", "dpp"]
)
def test_what_is_a_reconstruction_is_marked_on_the_board(method):
    records = [scored(0, 0.5, 0.9, method=method), scored(0, 0.5, 0.8, method="obd", settings={"m": 1})]
    marked = [note for note in table_of(boards(records)[0]).notes if "reconstruction" in note]
    assert len(marked) == 1 and marked[0].startswith(f"† {method}: reconstruction, not the paper's own: ")


def low(record):
    metrics = record.metrics.model_dump()
    return metrics | {"tuned": metrics["tuned"] | {"accuracy": 0.1}}


def test_verdicts_are_the_same_wherever_the_rows_lie(conf):
    below = {"best": [0, 0, 0, 0], "x": [0, 0, 0, 64], "y": [16, 15, 16, 17]}
    tuned = {name: [(120 + seed - own[seed]) / 128 for seed in range(4)] for name, own in below.items()}  # exact
    records = [scored(seed, 0.5, value, method=name) for name, own in tuned.items() for seed, value in enumerate(own)]
    texts = {csv_of(boards(list(order))) for order in (records, records[::-1], records[5:] + records[:5])}
    assert len(texts) == 1


def test_terminal_drops_columns_rather_than_breaking_lines(conf):
    latency = [{"runtime": f"runtime{n}", "batch": 1, "ratio": 1.5} for n in range(6)]
    name = "a_method_with_a_name_that_goes_on_and_on_for_far_too_long"
    table = table_of(boards([scored(0, 0.5, 0.9, latency=latency, method=name)])[0], compact=True)
    console = Console(record=True, width=100, file=io.StringIO())
    table.show(console)
    said = console.export_text()
    assert max(len(line.rstrip()) for line in said.splitlines()) <= 100
    assert (
        "no room here for: latency runtime5 b1; latency runtime4 b1" in said and "unit" in said.partition("no room")[0]
    )
    assert "latency runtime0 b1" not in said.partition("no room")[2] and f"[a] {name}" in said
    assert len([line for line in said.splitlines() if "a_method_with" in line and "[a]" in line]) == 2


def test_committed_boards_are_checked(conf, store, tmp_path, capsys):
    results = ["--results", str(store.runs.parent)]
    boards_folder = store.runs.parent / "boards" / "reviewed"
    assert main([*results, "--check"]) == 0, "nothing committed, nothing to check"
    for record in grid():
        store.write(record, store.cells)
    store.write(scored(9, 0.1, 0.1, method="own_run"))
    assert main([*results, "--check"]) == 1
    assert main([*results, "--committed", "--format", "md,csv,tex,html"]) == 0
    assert outdated(store, boards_folder) == ["report.html"]
    assert report([*results, "--committed", "--no-figures"]) == 0
    assert main([*results, "--check"]) == 0
    late = store.write(scored(8, 0.1, 0.1, method="late"), store.cells)
    assert "report.html" in outdated(store, boards_folder)
    late.unlink()
    assert "own_run" not in (boards_folder / "leaderboard.md").read_text()
    (boards_folder / "leaderboard.csv").write_text("by hand")
    assert outdated(store, boards_folder) == ["leaderboard.csv"]
    capsys.readouterr()
    assert main([*results, "--check"]) == 1
    assert "--committed" in capsys.readouterr().out


def test_a_corrupt_a_foreign_and_a_future_record_are_notes_beside_the_board(conf, store, capsys):
    for record in grid():
        store.write(record, store.cells)
    folder = store.path_of(record, store.cells).parent
    (folder / f"{'a' * 16}.json").write_text("{")
    (folder / f"{'b' * 16}.json").write_text('{"name": "package"}')
    (folder / f"{'c' * 16}.json").write_text('{"key": "c", "version": 99}')
    for _ in range(2):  # the second time the others come from the cache
        assert main(["--results", str(store.runs.parent)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "corrupt: not JSON" in said and "foreign: not a record" in said and "a later version (schema 99" in said
        assert "keep 0.1" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "beauty"], "No record has a number 'beauty'.\nExpected one of: .*tuned_accuracy"),
        (["--metric", "method"], "No record has a number 'method'"),
        (["--baseline", "nobody"], "No method 'nobody' in these records; expected one of: spectral"),
        (["--group-by", "dataset,colour"], "Unknown column colour; expected some of .*budget"),
    ],
)
def test_bad_questions_say_what_to_type(conf, store, arguments, message):
    store.write(scored(0, 0.5, 0.9))
    with pytest.raises(BadInput, match=message):
        main(["--results", str(store.runs.parent), *arguments])


def test_cache_follows_the_files_and_the_presets(conf, store):
    path = store.write(scored(0, 0.5, 0.9))
    store.write(scored(1, 0.5, 0.8))
    assert [row["tuned_accuracy"] for row in sorted(load(store)[0], key=lambda row: row["seed"])] == [0.9, 0.8]
    path.write_text(scored(0, 0.5, 0.7).text() + " ")
    assert {row["tuned_accuracy"] for row in load(store)[0]} == {0.7, 0.8}
    path.unlink()
    assert [row["seed"] for row in load(store)[0]] == [1]
    (store.runs / ".boards.parquet").write_bytes(b"not parquet")
    assert [row["seed"] for row in load(store)[0]] == [1]
    same = {name: value for name, value in load(store)[0][0].items() if not name.startswith("_")}
    cold = rows_of([scored(1, 0.5, 0.8)])[0]
    assert same == {name: value for name, value in cold.items() if name != "config" and not name.startswith("_")}
    relabelled = made(2, settings={"compensation": LEAST_SQUARES})
    store.write(relabelled)
    assert "spectral" in {row["label"] for row in load(store)[0]}
    (conf / "method" / "spectral.yaml").write_text("method: {name: spectral}\n")
    labels.preset_of.cache_clear()
    assert "spectral (least_squares)" in {row["label"] for row in load(store)[0]}


def test_cache_is_not_needed(conf, store, monkeypatch):
    store.write(scored(0, 0.5, 0.9))

    def refuse(*_):
        raise OSError("read-only")

    monkeypatch.setattr("benchmarks.boards.frame.write_atomically", refuse)
    assert [row["seed"] for row in load(store)[0]] == [0]
    assert not (store.runs / ".boards.parquet").exists()


@pytest.mark.parametrize("words", [["--where", "seed == 0"], ["--baseline", "a"], ["--metric", "pruned_accuracy"]])
def test_reviewed_boards_are_not_replaced_by_a_part_of_them(conf, store, tmp_path, words):
    for record in grid():
        store.write(record, store.cells)
    asked = ["--results", str(store.runs.parent), "--committed", *words]
    with pytest.raises(BadInput, match="--out"):
        main(asked)
    if words[0] != "--metric":
        with pytest.raises(BadInput, match="--out"):
            report(asked)
    assert not (store.runs.parent / "boards").exists()
    assert main([*asked, "--out", str(tmp_path / "mine")]) == 0
    assert (tmp_path / "mine" / "leaderboard.md").is_file()


def test_boards_under_version_control_are_what_the_records_give():
    paths = Paths(REPOSITORY / "results")
    stale = outdated(Store.of(paths), paths.committed_boards)
    assert stale == [], "render them: python -m benchmarks.leaderboard --committed --format md,csv,tex,html"


def test_a_name_is_one_setting_at_all_budgets(conf):
    """Settings that share a label are neither averaged nor ranked as one, on a board or over tasks."""

    def cells(epochs, shift):
        for value in (0.1, 0.2, 0.3):
            for position, method in enumerate("abc"):
                for seed in range(3):
                    trainer = {"finetune": {"epochs": epochs}}
                    config = {"method": {"name": method}, "budget": {"keep": value}, "trainer": trainer}
                    budget = {"requested": {"keep": value}}
                    accuracy = 0.9 - 0.1 * position - shift + 0.001 * seed
                    yield scored(seed, accuracy, accuracy, method=method, settings=config, budget=budget)

    records = [*cells(10, 0.0), *cells(0, 0.05)]
    rows = rows_of(records)
    _usual, other = sorted((10, 0), key=lambda epochs: rows_of(list(cells(epochs, 0)))[0]["context"], reverse=True)
    names = {f"{method}{suffix}" for method in "abc" for suffix in ("", f" [finetune.epochs {other}]")}
    assert {row["name"] for row in with_names(rows)} == names
    elsewhere = [row | {"dataset": "mnist", "key": row["key"][::-1]} for row in rows]
    [found] = overall.comparisons([*rows, *elsewhere])
    assert set(found.ranks.names) == set("abc") and found.unusual == 3
    for each in boards(records):  # networks that are trained otherwise after pruning have boards of their own
        assert {row.full for row in each.rows if not row.control} == set("abc")
        assert {row.n for row in each.rows} == {3}
    assert len({each.group["model"] for each in boards(records)}) == 2


def test_edges_show_the_macs_that_their_zeros_leave(conf):
    def cell(method, unit, seed):
        sizes = {"macs": 1000 if unit == "edge" else 250, "macs_effective": 250}
        metrics = {"tuned": {"accuracy": 0.9 + seed / 100, **sizes}}
        return made(seed, method=method, unit=unit, settings={"method": {"name": method}}, metrics=metrics)

    nodes = [cell("spectral", "node", seed) for seed in range(2)]
    edges = [cell("lq", "edge", seed) for seed in range(2)]
    [found] = boards([*nodes, *edges])
    table = table_of(found)
    at = {row[table.columns.index("method")]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert (at["lq"]["MACs"], at["lq"]["effective MACs"]) == ("1,000", "250")
    assert (at["spectral"]["MACs"], at["spectral"]["effective MACs"]) == ("250", "250")
    assert any("effective MACs leave out" in note for note in table.notes)
    [found] = boards(nodes)
    assert "effective MACs" not in table_of(found).columns


def test_networks_larger_than_asked_for_are_shown_with_what_they_reached_and_not_ranked(conf):
    def cell(method, seed, reached):
        achieved = {"keep": reached, "compression": 4.0}
        metrics = {"tuned": {"accuracy": 0.99 if reached > 0.2 else 0.9 + seed / 100}}
        return made(
            seed,
            method=method,
            settings={"method": {"name": method}},
            budget={"requested": {"keep": 0.2}, "achieved": achieved},
            metrics=metrics,
        )

    records = [
        cell(method, seed, reached)
        for method, reached in {"cbs": 0.4, "dpp": 0.2, "spectral": 0.15, "random": 0.209}.items()
        for seed in range(3)
    ]
    [found] = boards(records)
    rows = {row.method: row for row in found.rows}
    assert rows["cbs"].status == "missed" and rows["cbs"].standing is None
    assert rows["cbs"].reason == "reached keep 0.4 where 0.2 was asked for"
    assert all(rows[method].status == "done" and rows[method].standing for method in ("dpp", "spectral", "random"))
    assert found.rows[-1].method == "cbs"
    assert "reached keep 0.4" in table_of(found).markdown()


def test_networks_of_other_widths_or_training_are_other_tasks(conf):
    def cell(method, seed, accuracy, widths=(10,), epochs=5):
        model = {"name": "mlp", "widths": list(widths)}
        settings = {"model": model, "method": {"name": method}, "trainer": {"train": {"epochs": epochs}}}
        return made(seed, method=method, settings=settings, metrics={"tuned": {"accuracy": accuracy + seed / 100}})

    records = [cell(method, seed, 0.7) for method in ("dpp", "random", "spectral") for seed in range(3)]
    records += [cell("random", seed, 0.9, widths=(50,)) for seed in range(3)]
    records += [cell("random", seed, 0.8, widths=(50,), epochs=9) for seed in range(3)]
    found = {board.group["model"]: board for board in boards(records)}
    assert set(found) == {"mlp", "mlp [model.widths [50]]", "mlp [model.widths [50], train.epochs 9]"}
    assert [row.full for row in found["mlp"].rows if not row.control] == ["dpp", "random", "spectral"]
    for name, accuracy in (("mlp", 0.71), ("mlp [model.widths [50]]", 0.91)):
        [row] = [row for row in found[name].rows if row.method == "random"]
        assert row.full == "random" and row.values["tuned_accuracy"].mean == pytest.approx(accuracy)
    assert sum(len(board.keys) for board in found.values()) == len(records)
    assert found["mlp [model.widths [50]]"].keys == {record.key for record in records[9:12]}
    everything = boards(records, group_by=("dataset", "budget", "value"))[0]
    names = {row.full for row in everything.rows if row.method == "random"}
    assert names == {"random", "random [model.widths [50]]", "random [model.widths [50], train.epochs 9]"}
    named = with_names(rows_of(records))
    assert [cell["model"] for cell in with_names(named)] == [cell["model"] for cell in named]


def test_networks_whose_settings_read_alike_have_names_of_their_own(conf):
    def cell(method, rate):
        return made(method=method, settings={"method": {"name": method}, "trainer": {"train": {"rate": rate}}})

    records = [cell(method, 0.1) for method in ("dpp", "random")] + [cell("random", "0.1")]
    [name] = {board.group["model"] for board in boards(records)} - {"mlp"}
    assert len(name) == len("mlp [0123]")


def test_networks_whose_words_are_alike_are_told_apart(conf):
    def cell(method, **train):
        return made(method=method, settings={"method": {"name": method}, "trainer": {"train": train}})

    records = [cell(method, a=1, b=1, c=1, d=1) for method in ("dpp", "random", "spectral")]
    records += [cell("random", a=2, b=2, c=2, d=d) for d in (2, 3)]
    names = {board.group["model"] for board in boards(records)}
    assert len(names) == 3
    assert all("train.a 2, train.b 2, train.c 2, 1 more, " in name for name in names - {"mlp"})


# -------------------------------------------------------------------------------------- nothing is merged unsaid


def pruned_of(dense, seed=0, method="spectral", **fields):
    metrics = {"dense": {"accuracy": dense, "parameters": 1000}, "tuned": {"accuracy": 0.9, "parameters": 250}}
    return made(seed, method=method, metrics=metrics, settings={"method": {"name": method}}, **fields)


def test_two_accuracies_of_one_dense_network_are_said_with_who_has_which(conf, store, tmp_path, capsys):
    for record in (pruned_of(0.98, method="a"), pruned_of(0.98, method="b"), pruned_of(0.71, method="c")):
        store.write(record)
    store.write(pruned_of(0.97, seed=1, method="a"))
    assert main(["--results", str(tmp_path / "results")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    page = (tmp_path / "results/boards/leaderboard.md").read_text()
    for text in (said, page):
        assert "dense, seed 0: records disagree on this network" in text
        assert "98.00 %, 1,000 parameters in 2 of 3 records, which is shown; 71.00 %, 1,000 parameters in 1 (c)" in text
        assert "dense, seed 1" not in text
    [found] = boards([pruned_of(0.98, method="a"), pruned_of(0.98, method="b"), pruned_of(0.71, method="c")])
    assert found.rows[0].name == "dense" and found.rows[0].values["tuned_accuracy"].mean == 0.98


def test_two_losses_of_one_dense_network_are_said_and_rounding_is_not(conf):
    def regression(loss, method):
        metrics = {"dense": {"loss": loss}, "tuned": {"loss": 0.3}}
        return made(0, method=method, metrics=metrics, settings={"method": {"name": method}})

    assert boards([regression(0.2, "a"), regression(0.2000001, "b")])[0].dense_differs == []
    [note] = boards([regression(0.2, "a"), regression(0.3, "b")])[0].dense_differs
    assert "loss 0.2 in 1 of 2" in note and "loss 0.3 in 1 (b)" in note


def test_dense_networks_of_other_data_share_no_board_though_task_and_seed_are_the_same(conf):
    records = [
        pruned_of(0.98, method="a", fingerprint={"data": "a" * 64}),
        pruned_of(0.71, method="b", fingerprint={"data": "b" * 64}),
    ]
    found = boards(records)
    assert len(found) == 2 and {board.rows[0].values["tuned_accuracy"].mean for board in found} == {0.98, 0.71}
    assert not any(board.dense_differs for board in found)
    [merged] = boards(records, group_by=("dataset",))
    assert len(merged.dense_differs) == 1 and all(v in merged.dense_differs[0] for v in ("98.00 %", "71.00 %"))


def test_of_two_files_of_one_cell_the_better_counts_and_the_other_is_named(conf, store, capsys):
    path = store.write(scored(0, 0.5, 0.9))
    other = path.parents[1] / "other" / path.name
    other.parent.mkdir()
    other.write_text(scored(0, 0.5, 0.8, created="2025-01-01T00:00:00+00:00").text())
    for _ in range(2):  # the second time from the cache
        rows, [problem] = load(store)
        assert [row["tuned_accuracy"] for row in rows] == [0.9]
        assert problem.path == other and f"the same cell as {path}" in problem.reason
    assert main(["--results", str(store.runs.parent)]) == 0
    assert "the same cell as" in " ".join(capsys.readouterr().out.split())


def without_checksum(record):
    content = json.loads(record.model_copy(update={"version": 1}).text())
    del content["checksum"]
    return json.dumps(content)


def test_an_unsigned_record_is_called_so_on_the_board_and_never_counts_before_a_signed_one(conf, store, capsys):
    path = store.write(scored(4, 0.5, 0.9))
    path.write_text(without_checksum(scored(4, 0.5, 0.95)))
    store.write(scored(5, 0.5, 0.8))
    assert [row["unsigned"] for row in load(store)[0]] == [row["seed"] == 4 for row in load(store)[0]]
    note = "spectral, seed 4: unsigned: the record has no checksum, so a change of it would not be seen"
    assert note in table_of(board.boards(load(store)[0])[0]).notes
    assert main(["--results", str(store.runs.parent), "--where", "unsigned"]) == 0
    said = capsys.readouterr().out
    assert "unsigned: the record has no checksum" in said and "80.00" not in said
    store.write(scored(4, 0.5, 0.9, created="2025-01-01T00:00:00+00:00"), store.cells)
    assert {row["tuned_accuracy"] for row in load(store)[0]} == {0.9, 0.8}
    assert not any(row["unsigned"] for row in load(store)[0])


def test_what_a_record_warns_of_is_on_the_board(conf):
    record = scored(4, 0.5, 0.4, warnings=["fine-tuning lowered the accuracy from 0.5000 to 0.4000"])
    notes = table_of(boards([record])[0]).notes
    assert "spectral, seed 4: fine-tuning lowered the accuracy from 0.5000 to 0.4000" in notes


def test_what_many_rows_warn_of_alike_is_said_once_with_every_row_named(conf):
    def warned(method, seed, to):
        return scored(
            seed, 0.5, 0.4, method=method, warnings=[f"fine-tuning lowered the accuracy from 0.5000 to {to}", "odd"]
        )

    few = [warned("spectral", 4, "0.4000"), warned("dpp", 4, "0.4100"), warned("dpp", 5, "0.4200")]
    lowered = [note for note in table_of(boards(few)[0]).notes if "lowered" in note]
    assert len(lowered) == 3
    many = [*few, warned("random", 6, "0.4300"), warned("random", 7, "0.4300")]
    notes = table_of(boards(many)[0]).notes
    [lowered] = [note for note in notes if "lowered" in note]
    assert lowered.startswith("dpp, seed 4: fine-tuning lowered the accuracy from 0.5000 to 0.4100 (and likewise")
    assert "dpp, seed 5; random, seed 6, 7; spectral, seed 4" in lowered
    assert sum("odd" in note for note in notes) == 3
