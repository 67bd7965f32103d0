"""Options of cells in queries and groupings, boards as Parquet, and which boards a terminal shows at which width."""

import io
import re
import shlex
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.console import Console
from sample_records import made

from benchmarks.boards.frame import rows_of
from benchmarks.boards.options import named_in, quoted, with_options
from benchmarks.boards.rendering import asked, command_for, render
from benchmarks.leaderboard import main
from benchmarks.records.store import Store
from methods.errors import BadInput


def cell(seed=0, theta=0.5, method="spectral", **fields):
    settings = {
        "method": {"name": method},
        "selection": {"_target_": "S", "theta": theta, "norm": 2},
        "trainer": {"train": {"epochs": 3}, "finetune": {"epochs": 2}},
        "paths": {"results": "/somewhere"},
    }
    metrics = {"dense": {"accuracy": 0.98, "parameters": 1000}, "tuned": {"accuracy": 0.9 + seed / 100, "macs": 12}}
    return made(seed, method=method, settings=settings, metrics=metrics, **fields)


@pytest.fixture
def results(tmp_path):
    store = Store(tmp_path / "results" / "runs", tmp_path / "results" / "cells")
    for theta in (0.5, 0.9):
        for seed in range(2):
            store.write(cell(seed, theta))
    return store.runs.parent


@pytest.mark.parametrize("where", ["theta == 0.5", "selection.theta == 0.5", "`selection.theta` == 0.5 and seed >= 0"])
def test_a_query_names_options_as_one_types_them(where):
    rows = rows_of([cell(seed, theta) for theta in (0.5, 0.9) for seed in range(2)])
    found = asked(rows, where)
    assert len(found) == 2 and all(row["config"]["selection"]["theta"] == 0.5 for row in found)


def test_a_short_name_that_could_be_two_options_is_none_and_a_full_one_is_clear():
    rows = rows_of([cell()])
    with pytest.raises(BadInput, match="epochs"):
        asked(rows, "epochs == 3")
    assert asked(rows, "trainer.train.epochs == 3") and not asked(rows, "trainer.finetune.epochs == 3")


def test_columns_go_before_options_and_folders_are_none():
    rows = with_options(rows_of([cell()]), ["seed", "results", "theta", "no_such_option"])
    assert rows[0]["seed"] == 0 and rows[0]["theta"] == 0.5
    assert "results" not in rows[0] and "no_such_option" not in rows[0]


def test_names_in_quotes_are_no_names_and_dots_are_quoted_once():
    assert named_in("method == 'a.b' and selection.theta < 1e-3 and seed in [1]") == [
        "method", "and", "selection.theta", "seed", "in",
    ]  # fmt: skip
    once = quoted("selection.theta > 1 and `selection.theta` < 2 and x.selection.theta", ["selection.theta"])
    assert once == "`selection.theta` > 1 and `selection.theta` < 2 and x.selection.theta"


def test_boards_are_grouped_by_an_option(results, capsys):
    assert main(["--results", str(results), "--group-by", "dataset,selection.theta", "--format", "csv"]) == 0
    frame = pd.read_csv(next(results.rglob("leaderboard.csv")))
    assert sorted(set(frame["selection.theta"])) == [0.5, 0.9]


def test_parquet_holds_what_the_csv_holds(results):
    assert main(["--results", str(results), "--format", "csv,parquet"]) == 0
    [table], [text] = results.rglob("leaderboard.parquet"), results.rglob("leaderboard.csv")
    ours, theirs = pd.read_parquet(table), pd.read_csv(text)
    assert list(ours.columns) == list(theirs.columns) and len(ours) == len(theirs) >= 3
    for name in ("tuned_accuracy_mean", "n", "rank_first"):
        assert ours[name].astype(float).equals(theirs[name].astype(float)), name
    before = table.read_bytes()
    assert main(["--results", str(results), "--format", "parquet"]) == 0 and table.read_bytes() == before


def printed(store, tmp_path, **choices):
    console = Console(record=True, width=140, file=io.StringIO())
    render(store, tmp_path / "boards", console, formats=("terminal",), **choices)
    return console.export_text()


def test_a_terminal_shows_ones_own_boards_and_names_the_others_only_where_there_are_no_own(tmp_path):
    store = Store(tmp_path / "runs", tmp_path / "cells")
    store.write(cell(dataset="reviewed_data"), store.cells)
    said = printed(store, tmp_path)
    assert "no records of this machine's own" in said and "reviewed_data · mlp · keep 0.2: 2 rows" in said
    assert "rank" not in said and "rank" in printed(store, tmp_path, reviewed=True)
    store.write(cell(1, dataset="own_data"))
    said = printed(store, tmp_path)
    assert "own_data · mlp" in said and "reviewed_data · mlp" not in said
    assert "1 reviewed records are not shown" in said and "python -m benchmarks.leaderboard --reviewed" in said
    for choices in ({"reviewed": True}, {"committed": True}, {"where": "dataset == 'reviewed_data'"}):
        assert "reviewed_data · mlp" in printed(store, tmp_path, **choices), choices


def reviewed_board(folder, own):
    """Twelve reviewed methods with two seeds each, of which the first ``own`` were also run here with one."""
    store = Store(folder / "runs", folder / "cells")
    for number in range(12):
        for seed in range(2):
            store.write(cell(seed, method=f"method{number:02}"), store.cells)
    mine = [cell(0, method=f"method{number:02}", created="2026-03-01T00:00:00+00:00") for number in range(own)]
    for record in mine:
        store.write(record)
    return store, frozenset(record.key for record in mine)


@pytest.fixture(scope="module")
def first_sweep(tmp_path_factory):
    return reviewed_board(tmp_path_factory.mktemp("first_sweep"), own=4)


def on_a_terminal(store, tmp_path, width, term, **choices):
    """What a terminal of that ``width`` and kind gets, and the same without colours, line by line."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, _environ={"TERM": term})
    render(store, tmp_path / "boards", console, **choices)
    return file.getvalue(), [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("width,term", [(80, "xterm"), (100, "xterm"), (140, "xterm-256color"), (80, "dumb")])
@pytest.mark.parametrize("of_a_sweep", [True, False])
def test_a_first_sweep_shows_ones_own_rows_and_one_line_on_the_reviewed_ones(
    first_sweep, tmp_path, width, term, of_a_sweep
):
    store, keys = first_sweep
    choices = {"only": keys if of_a_sweep else None, "formats": ("terminal",)}
    _, lines = on_a_terminal(store, tmp_path, width, term, **choices)
    rows = [line for line in lines if re.search(r"method\d\d +\S+ +node +1 ", line)]
    assert [re.findall(r"method\d\d", line) for line in rows] == [[f"method0{number}"] for number in range(4)]
    assert not any(f"method{number:02}" in line for line in lines for number in range(4, 12))
    [hint] = [line for line in lines if "reviewed" in line]
    assert hint.startswith("20 reviewed records are not shown (of these tasks: 13 rows): python -m benchmarks.leader")
    assert max(len(line) for line in lines if line is not hint) <= width


def test_the_line_on_reviewed_records_names_a_command_that_shows_them(first_sweep, tmp_path, capsys):
    store, keys = first_sweep
    _, lines = on_a_terminal(store, tmp_path, 100, "xterm", only=keys)
    assert "method11" in (tmp_path / "boards/leaderboard.md").read_text(), "files have all"
    assert "value == 0.2" in lines[-1]
    [command] = re.findall(r"python -m benchmarks\.leaderboard (.*) prints them, too", "\n".join(lines))
    assert main([*shlex.split(command), "--results", str(store.runs.parent), "--format", "terminal"]) == 0
    said = capsys.readouterr().out
    assert "method11" in said and "method00" in said and "not shown" not in said


def test_boards_with_own_records_go_first_where_all_are_asked_for(tmp_path):
    store = Store(tmp_path / "runs", tmp_path / "cells")
    store.write(cell(dataset="a_reviewed"), store.cells)
    store.write(cell(1, dataset="own_data"))
    said = printed(store, tmp_path, reviewed=True)
    assert said.index("own_data · mlp") < said.index("a_reviewed · mlp")


@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_boards_fit_terminals_of_any_kind_and_keep_the_unit(tmp_path, width, term):
    store = Store(tmp_path / "runs", tmp_path / "cells")
    for method, unit in (("spectral", "node"), ("lamp", "edge")):
        for seed in range(2):
            latency = [{"runtime": "eager", "batch": 1, "ratio": 1.5}]
            store.write(cell(seed, method=method, unit=unit, latency=latency))
    raw, plain = on_a_terminal(store, tmp_path, width, term, formats=("terminal",), reviewed=True)
    assert max(map(len, plain)) <= width
    assert any("node" in line and "spectral" in line for line in plain)
    assert any("edge" in line and "lamp" in line for line in plain)
    if term == "dumb":
        assert "\x1b[3" not in raw, "no colours"


@pytest.mark.parametrize("value, typed", [(16.0, "16"), (1.2345678, "1.2345678")])
def test_the_command_for_reviewed_rows_names_one_board_and_its_whole_budget(value, typed):
    group = {"dataset": "digits", "model": "mlp", "budget": "speedup", "value": value}
    asked = f"dataset == 'digits' and model == 'mlp' and budget == 'speedup' and value == {typed}"
    assert command_for([SimpleNamespace(group=group)]).endswith(f'--reviewed --where "{asked}"')
    assert command_for([]) == "python -m benchmarks.leaderboard --reviewed"
