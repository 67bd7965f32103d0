"""The survey's numbers beside ours, on a small file of the survey's layout."""

import csv

import pytest
from sample_records import made

from benchmarks import survey
from benchmarks.boards.frame import rows_of
from benchmarks.records.store import Store
from methods.errors import BadInput

COLUMNS = (
    *("Name", "Paper", "Dataset", "Model", "Method", "Notes", "NumTrials", "Err1", "Top1", "dTop1", "MParams"),
    *("savedParams", "keptParams", "GFLOPS", "savedFLOPS", "keptFLOPS", "OrigTop1", "OrigMParams", "OrigGFLOPS"),
    *("old/new Nparam", "old/new FLOPS", "OrigErr1"),
)


@pytest.fixture
def clone(tmp_path):
    """Writes a survey where a clone has it."""

    def write(*rows, columns=COLUMNS):
        folder = tmp_path / "clone"
        path = folder / "analysis/assets/existing-results" / survey.FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows({"Paper": "p", "Dataset": "MNIST", "Model": "LeNet-300-100"} | row for row in rows)
        return folder

    return write


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"Top1": "93.50%", "OrigTop1": "94.00%"}, (0.935, -0.005, None, None)),
        ({"Err1": "1.58%", "OrigErr1": "1.64%"}, (0.9842, 0.0006, None, None)),
        ({"dTop1": "-1.000%", "OrigTop1": "92.80%"}, (0.918, -0.01, None, None)),
        ({"dTop1": "0.4%", "savedParams": "80.00%", "keptFLOPS": "40.00%"}, (None, 0.004, 5.0, 2.5)),
        ({"Top1": "90%", "old/new Nparam": "10.30", "old/new FLOPS": "2.000"}, (0.9, None, 10.3, 2.0)),
        (
            {"Top1": "90%", "OrigMParams": "60", "MParams": "20", "OrigGFLOPS": "1", "GFLOPS": "?"},
            (0.9, None, 3.0, None),
        ),
        ({"Top1": "see text", "savedParams": "100%"}, (None, None, None, None)),
    ],
)
def test_figures_are_read_from_whichever_columns_hold_them(clone, row, expected):
    [result] = survey.read(clone(row))
    found = (result.top1, result.change, result.compression, result.speedup)
    assert found == tuple(None if value is None else pytest.approx(value) for value in expected)
    assert (result.dataset, result.model, result.called) == ("mnist", "lenet300", "LeNet-300-100")


def cell(method, seed, compression, tuned, **fields):
    metrics = {"dense": {"accuracy": 0.98}, "tuned": {"accuracy": tuned}}
    budget = {"requested": {"compression": compression}, "achieved": {"compression": compression}}
    settings = {
        "dataset": {"name": "mnist"}, "model": {"name": "lenet300"}, "budget": {"compression": compression},
        "method": {"name": method},
    }  # fmt: skip
    return made(
        seed,
        dataset="mnist",
        model="lenet300",
        method=method,
        settings=settings,
        metrics=metrics,
        budget=budget,
        **fields,
    )


def test_the_method_that_loses_least_at_about_the_same_size_stands_beside_the_paper(clone):
    results = survey.read(
        clone(
            {"Top1": "97%", "OrigTop1": "98%", "old/new Nparam": "4.4"},
            {"Top1": "96%", "OrigTop1": "98%", "old/new Nparam": "64"},
            {"Dataset": "ImageNet", "Model": "ResNet-50", "Top1": "70%"},
            {"Model": "LeNet-300-100", "Method": "says nothing"},
        )
    )
    records = [cell("magnitude", seed, 4, 0.95) for seed in (0, 1)]
    records += [cell("spectral", seed, 4, 0.97 - 0.01 * seed) for seed in (0, 1)]
    records += [cell("spectral", 0, 8, 0.98), cell("random", 0, 4, 0.1)]
    table = survey.table_of(results, rows_of(records))
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["size / MACs"] for row in rows] == ["4.4× / –", "64× / –"]
    assert (rows[0]["top-1 %"], rows[0]["change"]) == ("97.00", "-1.00")
    assert (rows[0]["ours, the best"], rows[0]["at"]) == ("spectral", "compression 4")
    assert rows[0]["our change"] == "-1.50 ± 0.71 (n 2)"
    assert rows[1]["ours, the best"] == "–"
    assert "4 results of 1 papers" in table.notes[0]


def test_the_command(clone, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    record = cell("spectral", 0, 4, 0.97)
    Store(tmp_path / "results/runs", tmp_path / "results/cells").write(record)
    folder = clone({"Top1": "97%", "OrigTop1": "98%", "old/new Nparam": "4"})
    assert survey.main([str(folder), "--results", str(tmp_path / "results")]) == 0
    said = capsys.readouterr().out
    assert "LeNet-300-100" in said and "spectral" in said


def test_another_folder_and_another_file_are_refused_with_what_was_expected(clone, tmp_path):
    with pytest.raises(BadInput, match=r"no 'Results-Grid view.csv'(.|\n)*clone of github.com/JJGO/shrinkbench"):
        survey.read(tmp_path)
    with pytest.raises(BadInput, match="lacks the columns Top1, dTop1"):
        survey.read(clone({"Method": "m"}, columns=("Paper", "Dataset", "Model", "Method")))
    folder = clone({"Method": "m"})
    (folder / survey.PLACES[1] / survey.FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="not a CSV file"):
        survey.read(folder)
