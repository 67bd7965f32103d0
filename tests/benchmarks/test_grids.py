"""The command that shows how far the named grids are."""

import pytest
from sample_records import made

from benchmarks.grids import Grid, main, names, table
from benchmarks.records.manifest import PlannedCell
from benchmarks.records.store import Store
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from benchmarks.sweeps.planning import make_plan
from benchmarks.sweeps.request import Request
from methods.errors import BadInput

COST = {"dense_seconds": 10.0, "prune_seconds": 2.0, "tune_seconds": 3.0}


def row(said, name):
    return next(line.split() for line in said.splitlines() if line.split()[:1] == [name])


def shown(tmp_path, capsys, *words):
    assert main([*words, "--results", str(tmp_path / "results"), "--cache", str(tmp_path / "cache")]) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_grid_tells_its_cells_what_is_left_and_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    said = shown(tmp_path, capsys, "digits_latency")
    cells = row(said, "digits_latency")[2]
    assert cells.startswith("0/") and "unknown" in said  # nothing to judge by
    other = Store(tmp_path / "results/runs", tmp_path / "results/cells")
    other.write(made(9, dataset="mnist", cost=COST))
    assert "unknown" in shown(tmp_path, capsys, "digits_latency")  # another task says nothing about this one
    assert "python run.py -m +experiment=digits_latency" in said
    total = int(cells[2:])

    store = Store(tmp_path / "results/runs", tmp_path / "results/cells")
    composer = Composer(CONF)
    first, second, third = make_plan(composer, Request(["+experiment=digits_latency"], multirun=True)).cells[:3]
    for cell, status, where in ((first, "done", store.cells), (second, "collapsed", None), (third, "failed", None)):
        record = made(cell.seed, status, settings=composer.cell(cell.overrides), cost=COST, method=cell.method)
        assert record.key == cell.key
        store.write(record, where)
    said = shown(tmp_path, capsys, "digits_latency")
    assert row(said, "digits_latency")[2] == f"2/{total}" and f"{total - 2} cells missing of {total}" in said
    assert "unknown" not in said  # five seconds each, and ten for each further dense network


def test_a_finished_grid_has_nothing_left_and_comes_first():
    cell = PlannedCell(key="0" * 16, dataset="digits", model="mlp", method="random", seed=0)
    grids = [Grid("unknown", 2, [cell], None), Grid("long", 4, [cell], 7200.0), Grid("done", 3, [], 0.0)]
    rows = table(grids).rows
    assert [line[0] for line in rows] == ["done", "long", "unknown"]
    assert [line[1:4] for line in rows] == [
        ["##########", "3/3", "nothing"],
        ["#######...", "3/4", "2 h 0 min"],
        ["#####.....", "1/2", "unknown"],
    ]


def test_every_experiment_is_a_grid():
    assert {"digits", "mnist_lenet5", "cifar10_resnet20"} <= set(names())


def test_an_unknown_grid_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(BadInput, match="no grid is called 'digit'\nthere are: .*digits"):
        main(["digit", "--results", str(tmp_path)])
