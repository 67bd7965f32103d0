import pytest
from sample_records import made

from benchmarks.manifest import Manifest, PlannedCell, write_manifest
from benchmarks.records import Store
from benchmarks.status import counts, main, reasons
from methods.errors import BadInput


def planned(name, records):
    cells = [PlannedCell(key=r.key, dataset=r.dataset, model=r.model, method=r.method, seed=r.seed) for r in records]
    return Manifest(name=name, command=f"python run.py -m +experiment={name}", cells=cells)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs", tmp_path / "cells")


def test_every_cell_of_a_sweep_is_in_exactly_one_state():
    cells = [made(0), made(1, "failed"), made(2, "collapsed"), made(3, "skipped"), made(4), made(5)]
    table = counts(cells[:4], [planned("one", cells[:5]), planned("two", cells[3:])])
    states = {"done": 1, "failed": 1, "collapsed": 1, "skipped": 1, "missing": 2}
    assert table == {("digits", "mlp", "spectral"): states}


def test_equal_reasons_are_one_line_with_their_seeds():
    records = [made(seed, "failed", reason="layer 3 broke\ndetails") for seed in (2, 0)] + [made(5)]
    assert reasons(records) == [["failed", "digits · mlp", "spectral", "0,2", "2", "layer 3 broke"]]


def test_command_shows_states_reasons_and_how_to_go_on(store, tmp_path, capsys):
    records = [made(0), made(1, "failed", reason="it broke [red]"), made(2)]
    store.write(records[0], store.cells)
    store.write(records[1])
    write_manifest(store.runs, planned("grid", records))
    assert main(["--results", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if "spectral" in line)
    assert row.split() == ["digits", "mlp", "spectral", "1", "1", "·", "·", "1"]
    assert "it broke [red]" in said
    assert "1 missing of grid; go on with: python run.py -m +experiment=grid" in said


def test_command_shows_one_sweep(store, tmp_path, capsys):
    store.write(made(0))
    store.write(made(1, dataset="mnist"))
    write_manifest(store.runs, planned("grid", [made(0)]))
    assert main(["grid", "--results", str(tmp_path)]) == 0
    assert "mnist" not in capsys.readouterr().out
    with pytest.raises(BadInput, match="No sweep named 'girl'.*there are: grid"):
        main(["girl", "--results", str(tmp_path)])


def test_nothing_yet_says_how_to_begin(tmp_path, capsys):
    assert main(["--results", str(tmp_path)]) == 0
    assert "python run.py -m" in capsys.readouterr().out


def test_corrupt_files_are_named(store, tmp_path, capsys):
    path = store.write(made())
    path.with_name(f"{'f' * 16}.json").write_text("nonsense")
    write_manifest(store.runs, planned("grid", [made()])).write_text("nonsense")
    assert main(["--results", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "not JSON" in said and "not a sweep's manifest" in said
