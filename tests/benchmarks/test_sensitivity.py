"""The command that draws sensitivity curves, and the allocations of that room in whole cells."""

import csv

import pytest

from benchmarks.cells import cell
from benchmarks.sensitivity import FOLDER, main
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from methods.errors import BadInput

pytestmark = pytest.mark.usefixtures("accelerator")

COMPOSER = Composer(CONF)
SMALL = ["dataset=digits", "dataset.limit=100", "model=mlp", "trainer=tiny", "calibration.samples=50"]


def places(folder):
    return [f"paths.results={folder}/results", f"paths.cache={folder}/cache"]


@pytest.mark.slow
def test_the_command_writes_a_table_and_pictures(tmp_path, capsys):
    assert main([*SMALL, *places(tmp_path), "method=spectral", "--sizes", "2"]) == 0
    folder = tmp_path / "results" / FOLDER
    stem = "digits-mlp-spectral-seed0"
    lines = list(csv.DictReader((folder / f"{stem}.csv").read_text(encoding="utf-8").splitlines()))
    layers = list(dict.fromkeys(line["layer"] for line in lines))
    assert len(layers) > 1 and len(lines) == 3 * len(layers)
    last = [line for line in lines if line["kept"] == line["units"]]
    assert len(last) == len(layers) and len({line["loss"] for line in last}) == 1
    assert {float(line["more_loss"]) for line in last} == {0.0}
    assert (folder / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (folder / f"{stem}.svg").read_text(encoding="utf-8")
    assert str(folder / f"{stem}.svg") in capsys.readouterr().out.replace("\n", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("magnitude", ["allocation=sensitivity", "allocation.sizes=2", "compensation=least_squares"]),
        ("magnitude_edge", ["allocation=owl"]),
        ("wanda", ["allocation=spdy", "allocation.levels=2", "allocation.trials=2", "allocation.turns=1"]),
    ],
)
def test_a_cell_with_the_allocation_meets_its_budget(method, words, tmp_path):
    common = [*SMALL, *places(tmp_path), "track=none", "measure=none", "budget.compression=2"]
    found = cell.run(COMPOSER.cell([*common, f"method={method}", *words]))
    assert found.status == "done"
    assert found.budget.achieved.compression == pytest.approx(2, rel=0.01)


def test_what_cannot_be_is_refused():
    with pytest.raises(BadInput, match="--sizes 0"):
        main([*SMALL, "--sizes", "0"])
    with pytest.raises(BadInput, match=r"allocation\.lam"):
        cell.run(COMPOSER.cell([*SMALL, "track=none", "method=wanda", "allocation=owl", "allocation.lam=0.7"]))
