"""The list of reproductions and their states."""

import json
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
from PIL import Image

from benchmarks import reproduce
from benchmarks.figures.files import DPI, FORMS
from benchmarks.figures.panel import nth
from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Outcome, Workplace, module_of, names, stored
from benchmarks.storage.paths import REPOSITORY
from benchmarks.sweeps import sweep
from methods.errors import BadInput

STORED = sorted(path.parent.name for path in (REPOSITORY / "results" / "reproductions").glob("*/outcome.json"))
HEAD = "method,published,certainty,ours,std,n\n"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("a,90,raw,91,0.5,3\nb,,,50,,1\n", "reproduced within tolerance: all 1"),
        ("a,90,raw,91,0.5,3\nb,50,raw,60,,1\nc,50,raw,60,10,4\n", "differs: 2 of 3 agree"),
        ("a,90,memory,50,,1\nb,80,raw,,,\n", "none to compare"),
        ("", "none to compare"),
    ],
)
def test_agreement_counts_numbers_that_may_be_asserted(tmp_path, lines, expected):
    path = tmp_path / "table.csv"
    path.write_text(HEAD + lines)
    assert reproduce.agreement(path) == expected


def test_the_list_names_every_reproduction_with_its_state(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "reproductions" / "dpp_mnist"
    folder.mkdir(parents=True)
    (folder / "outcome.json").write_text(json.dumps({"claims": [{"seen": True}, {"seen": False}, {"seen": None}]}))
    (folder / "table.csv").write_text(HEAD + "a,90,raw,10,,1\n")
    assert reproduce.main(["--results", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.split()}
    assert set(names()) <= set(lines)
    assert "differs: 0 of 1 agree" in lines["dpp_mnist"] and "1 / 1 / 1" in lines["dpp_mnist"]
    assert "not run" in lines["spectral_rnn"]


NOT_RUN = {
    "selection_x_repair_x_rate",
    "theory_points",
}  # `reproduce` lists it as not run, until somebody has spent the minutes


@pytest.mark.parametrize("name", sorted(set(names()) - NOT_RUN))
def test_pages_under_version_control_are_what_the_stored_numbers_give(name):
    folder = REPOSITORY / "results" / "reproductions" / name
    assert reproduce.stored_page(folder) == (folder / "README.md").read_text(encoding="utf-8")


def test_what_has_been_run_is_not_called_missing():
    assert not NOT_RUN & set(STORED)


def test_a_page_leaves_out_empty_columns_and_writes_for_people(tmp_path, capsys):
    folder = tmp_path / "reproductions" / "dpp_mnist"
    folder.mkdir(parents=True)
    claim = {"text": "it holds", "seen": None, "evidence": "n = 1"}
    (folder / "outcome.json").write_text(json.dumps({"claims": [claim], "setting": "small"}))
    table = {
        "method": ["a", "b"],
        "published": [None, None],
        "ours": [3e-16, 0.123456],
        "std": [0.0, 0.5],
        "fits": [True, False],
    }
    pd.DataFrame(table).to_csv(folder / "table.csv", index=False)
    for name in ("b.png", "a.png"):
        (folder / name).touch()
    (folder / "a.svg").write_text("<svg><dc:title>What is seen &amp; where</dc:title></svg>")
    assert reproduce.main(["dpp_mnist", "--page", "--results", str(tmp_path)]) == 0
    page = (folder / "README.md").read_text()
    assert (
        "| method | ours | std | fits |\n|---|---|---|---|\n| a | ≈ 0 | 0 | yes |\n| b | 0.1235 | 0.5 | no |\n" in page
    )
    assert "| it holds | undecided | n = 1 |" in page and "small" in page
    assert page.index("it holds") < page.index("![What is seen & where](a.svg)\n\n![b](b.png)\n") < page.index("| a |")
    assert "README.md" in capsys.readouterr().out
    (folder / "README.md").unlink()
    assert reproduce.main(["--page", "--results", str(tmp_path)]) == 0  # all that there are
    assert (folder / "README.md").read_text() == page


def test_a_page_of_nothing_is_refused(tmp_path):
    folder = tmp_path / "reproductions" / "dpp_mnist"
    with pytest.raises(BadInput, match=r"holds no outcome.*\nRun it: python -m benchmarks.reproduce dpp_mnist"):
        reproduce.main(["dpp_mnist", "--page", "--results", str(tmp_path)])
    folder.mkdir(parents=True)
    (folder / "outcome.json").write_text("{}")
    (folder / "table.csv").write_text(HEAD)
    with pytest.raises(BadInput, match="holds no outcome"):
        reproduce.main(["dpp_mnist", "--page", "--results", str(tmp_path)])
    assert not (folder / "README.md").exists()
    with pytest.raises(BadInput, match="leave out one"):
        reproduce.main(["dpp_mnist", "--page", "--quick"])


def tiny(values):
    sheet = Sheet("Thirds")
    panel = sheet.panel()
    panel.line(range(len(values)), values, nth(0), "share")
    panel.label("number", "share")
    return sheet


@pytest.mark.slow
@pytest.mark.parametrize("name", STORED)
def test_every_figure_under_version_control_is_what_the_stored_numbers_give(name):
    folder = REPOSITORY / "results" / "reproductions" / name
    sheets = module_of(name).figures(stored.read(folder))
    assert sheets, "no figure"
    assert {path.name for path in folder.iterdir()} >= {f"{each}.{form}" for each in sheets for form in FORMS}
    assert {path.stem for path in folder.glob("*.svg")} == {path.stem for path in folder.glob("*.png")} == set(sheets)
    for each, sheet in sheets.items():
        assert sheet.problems() == []
        assert reproduce.title_of(folder / f"{each}.svg") == sheet.title  # titles say the numbers
        with Image.open(folder / f"{each}.png") as picture:
            assert picture.size == pytest.approx(tuple(DPI * sheet.figure.get_size_inches()), abs=1)


@pytest.mark.slow
def test_figures_are_drawn_again_from_what_is_stored(tmp_path, capsys):
    folder = tmp_path / "reproductions" / "spectral_rnn"
    shutil.copytree(REPOSITORY / "results" / "reproductions" / "spectral_rnn", folder)
    (folder / "spectral_rnn.png").unlink()
    (folder / "old.svg").touch()
    assert reproduce.main(["--draw", "--results", str(tmp_path)]) == 0
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == {"README.md", "outcome.json", "table.csv", "spectral_rnn.png", "spectral_rnn.svg"}
    assert "drawn" in capsys.readouterr().out
    assert reproduce.main(["spectral_rnn", "--draw", "--results", str(tmp_path)]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_what_cannot_be_drawn_says_which_number_is_not_stored(tmp_path, capsys):
    folder = tmp_path / "reproductions" / "spectral_nn3"
    shutil.copytree(REPOSITORY / "results" / "reproductions" / "spectral_nn3", folder)
    (folder / "spectrum.csv").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert reproduce.main(["--draw", "--results", str(tmp_path)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "cannot be drawn: spectral_nn3: spectrum.csv is not stored" in said
    assert "Run it again: python -m benchmarks.reproduce spectral_nn3" in said
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_figures_of_an_earlier_version_go(tmp_path, monkeypatch):
    def figures(outcome):
        return {"new": tiny(outcome.table["ours"])}

    module = SimpleNamespace(
        __doc__="What it is.",
        PAPER="paper",
        run=lambda _: Outcome(pd.DataFrame({"ours": [1 / 3]})),
        figures=figures,
        brief=lambda _: ("In short:", pd.DataFrame({"share": [0.5]})),
    )
    for where in (reproduce, stored):
        monkeypatch.setattr(where, "module_of", lambda _name: module)

    folder = tmp_path / "reproductions" / "dpp_mnist"
    folder.mkdir(parents=True)
    for name in ("old.svg", "old.png", "new.png", "notes.txt"):
        (folder / name).touch()
    assert reproduce.main(["dpp_mnist", "--results", str(tmp_path), "--cache", str(tmp_path / "cache")]) == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {"new.svg", "new.png", "notes.txt", "table.csv", "outcome.json", "README.md"}
    assert "0.3333333333" in (folder / "table.csv").read_text()
    page = (folder / "README.md").read_text()
    assert "![Thirds](new.svg)\n\nIn short:\n\n| share |\n|---|\n| 0.5 |\n\n| ours |" in page
    assert page.endswith("| 0.3333 |\n")


def test_numbers_whose_figure_would_break_a_rule_have_a_page_without_figures(tmp_path, monkeypatch, capsys):
    """What was computed for hours is not lost because two words of its figure would lie over each other."""

    def figures(outcome):
        sheet = tiny(outcome.table["ours"])
        for word in ("here", "there"):
            sheet.panel().note(0, 1 / 3, word)
        return {"new": sheet}

    outcome = Outcome(pd.DataFrame({"ours": [1 / 3]}))
    module = SimpleNamespace(__doc__="What it is.", PAPER="paper", run=lambda _: outcome, figures=figures)
    for where in (reproduce, stored):
        monkeypatch.setattr(where, "module_of", lambda _name: module)
    folder = tmp_path / "reproductions" / "dpp_mnist"
    folder.mkdir(parents=True)
    (folder / "old.svg").touch()
    words = ["dpp_mnist", "--results", str(tmp_path)]
    assert reproduce.main([*words, "--cache", str(tmp_path / "cache")]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "cannot be drawn: dpp_mnist: figure 'Thirds'" in said and "'here' lies over 'there'" in said
    assert {path.name for path in folder.iterdir()} == {"table.csv", "outcome.json", "README.md"}
    assert "| 0.3333 |" in (folder / "README.md").read_text()
    assert reproduce.main([*words, "--draw"]) == 1 and "cannot be drawn" in capsys.readouterr().out


def test_cells_without_a_record_stop_a_reproduction(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "launch", lambda *_: ["a worker died"])
    work = Workplace(tmp_path, tmp_path / "results", tmp_path / "cache")
    with pytest.raises(BadInput, match="2 of 2 cells have no record: a worker died"):
        work.cells(["method=random", "seed=0,1"])


def test_a_failed_cell_stops_a_reproduction_with_its_reason(tmp_path):
    work = Workplace(tmp_path, tmp_path / "results", tmp_path / "cache")
    weights = tmp_path / "damaged.safetensors"
    weights.write_bytes(b"no weights")
    words = [f"dense.checkpoint={weights}", "method=random", "measure=none", "track=none"]
    with pytest.raises(BadInput, match=r"1 of 1 cells have no record: .*damaged"):
        work.cells(words)
