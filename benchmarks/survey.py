"""Show the numbers of 81 pruning papers next to ours: ``python -m benchmarks.survey FOLDER``.

Blalock, Gonzalez Ortiz, Frankle & Guttag (What is the State of Neural Network Pruning?, MLSys 2020) collected what the
papers report, and publish it in the repository JJGO/shrinkbench under the MIT licence. FOLDER is a clone of it, or the
folder that holds ``Results-Grid view.csv``. A paper's number is shown where we have the data set and the architecture:
beside it stands the method of ours that loses least at about the same size, or the same number of MACs.
"""

import csv
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.boards.frame import Row as Cell
from benchmarks.boards.frame import load, select
from benchmarks.boards.stats import Spread, spread
from benchmarks.boards.tables import NONE, Table, plus_minus
from benchmarks.records.store import Store
from benchmarks.storage.console import output_console
from benchmarks.storage.entry_point import Parser, end
from benchmarks.storage.paths import Paths
from methods.errors import BadInput

FILE = "Results-Grid view.csv"
PLACES = ("", "analysis/assets/existing-results", "assets/existing-results")
NEEDED = ("Paper", "Dataset", "Model", "Method", "Top1", "dTop1", "Err1", "OrigTop1", "OrigErr1")
OURS = {  # architectures that the survey calls something else; the others by their letters and digits
    "lenet300100": "lenet300",
    "lenet5caffe": "lenet5",
    "vggtorchcifar10": "vgg16",
    "fc500500sigmoid": "mlp500",
    "fc3072100010001000sigmoid": "mlp1000",
    "fc3001000300": "nn3",
}
NEAR = 1.25  # budgets within this factor count as the same


@dataclass(frozen=True)
class Result:
    """One result of one paper; fractions and ratios, None where the paper, or the survey, does not say.

    Attributes:
        dataset, model: as this suite names them, where it has them.
        change: the change of top-1 accuracy against the unpruned network; negative is a loss.
        compression: original / remaining parameters.
        speedup: original / remaining multiply-accumulates.
    """

    paper: str
    dataset: str
    model: str
    called: str
    method: str
    top1: float | None
    change: float | None
    compression: float | None
    speedup: float | None


def read(folder: Path) -> list[Result]:
    """The survey's results, in the order of its file.

    Raises:
        BadInput: the file is not there, or is not that of the survey.
    """
    path = next((found for place in PLACES if (found := folder / place / FILE).is_file()), None)
    if path is None:
        raise BadInput(
            f"{folder}: no {FILE!r} in it.\n"
            "Expected a clone of github.com/JJGO/shrinkbench, which holds the survey data."
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} is not a CSV file in UTF-8 ({error}).") from None
    missing = [name for name in NEEDED if not rows or name not in rows[0]]
    if missing:
        raise BadInput(f"{path}: it lacks the columns {', '.join(missing)} of the survey's results.")
    return [_result(row) for row in rows]


def _result(row: Mapping[str, str]) -> Result:
    top1 = _first(_number(row, "Top1"), _without(1.0, _number(row, "Err1")))
    before = _first(_number(row, "OrigTop1"), _without(1.0, _number(row, "OrigErr1")))
    change = _first(_number(row, "dTop1"), None if top1 is None or before is None else top1 - before)
    if top1 is None and before is not None and change is not None:
        top1 = before + change
    return Result(
        paper=row["Paper"],
        dataset=_plain(row["Dataset"]),
        model=OURS.get(_plain(row["Model"]), _plain(row["Model"])),
        called=row["Model"],
        method=row["Method"],
        top1=top1,
        change=change,
        compression=_ratio(row, "old/new Nparam", "savedParams", "keptParams", "OrigMParams", "MParams"),
        speedup=_ratio(row, "old/new FLOPS", "savedFLOPS", "keptFLOPS", "OrigGFLOPS", "GFLOPS"),
    )


def _ratio(row: Mapping[str, str], ratio: str, saved: str, kept: str, before: str, after: str) -> float | None:
    """Original / remaining, from whichever columns say it."""
    left = _first(_number(row, kept), _without(1.0, _number(row, saved)))
    sizes = _number(row, before), _number(row, after)
    found = _first(
        _number(row, ratio),
        1 / left if left else None,
        sizes[0] / sizes[1] if sizes[0] is not None and sizes[1] else None,
    )
    return found if found is not None and found > 0 else None


def _number(row: Mapping[str, str], column: str) -> float | None:
    """The number in a field, percentages as fractions; None where there is none."""
    text = (row.get(column) or "").strip()
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _without(whole: float, part: float | None) -> float | None:
    return None if part is None else whole - part


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@dataclass(frozen=True)
class Best:
    """The method of ours that loses least at one budget; ``change`` of accuracy after fine-tuning, over seeds."""

    name: str
    achieved: float
    change: Spread


def best(cells: Iterable[Cell], kind: str, wanted: float) -> Best | None:
    """Which method of ``cells`` (of one task) keeps most accuracy where the achieved ``kind`` is about ``wanted``."""
    groups: dict[tuple[str, float | None], list[Cell]] = defaultdict(list)
    for cell in cells:
        known = cell.get(kind), cell.get("tuned_accuracy"), cell.get("dense_accuracy")
        if cell["status"] == "done" and None not in known and abs(math.log(cell[kind] / wanted)) <= math.log(NEAR):
            groups[cell["label"], cell["value"]].append(cell)
    found = [
        Best(
            name,
            sum(cell[kind] for cell in members) / len(members),
            spread(cell["tuned_accuracy"] - cell["dense_accuracy"] for cell in members),
        )
        for (name, _), members in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] or 0.0))
    ]
    return max(found, key=lambda each: each.change.mean or 0.0, default=None)


def table_of(results: Sequence[Result], cells: Sequence[Cell]) -> Table:
    """The papers' results on our data sets and architectures, and ours."""
    tasks: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        tasks[_plain(cell["dataset"]), _plain(cell["model"])].append(cell)
    rows = []
    for result in results:
        own = tasks.get((result.dataset, result.model))
        if own is None or (result.top1 is None and result.change is None):
            continue
        kind = "compression" if result.compression is not None else "speedup"
        wanted = getattr(result, kind)
        ours = None if wanted is None else best(own, kind, wanted)
        rows.append(
            [
                *(result.paper, result.dataset, result.called, result.method or NONE),
                *(_sizes(result), _percent(result.top1), _points(result.change)),
                *([NONE] * 3 if ours is None else _ours(ours, kind)),
            ]
        )
    columns = ["paper", "data", "model", "method", "size / MACs", "top-1 %", "change"]
    columns += ["ours, the best", "at", "our change"]
    known = {(result.dataset, result.model) for result in results} & set(tasks)
    shown = ", ".join(f"{data}/{model}" for data, model in sorted(known)) or "a task of ours (none)"
    papers = {result.paper for result in results}
    notes = [
        f"{len(results)} results of {len(papers)} papers in the survey; shown: those with an accuracy on {shown}",
        "size / MACs: original / remaining parameters, and multiply-accumulates",
        "change: top-1 accuracy in points against the unpruned network; ours after fine-tuning, mean ± std over seeds, "
        f"the best of all methods whose size (or MACs, where the paper gives no size) is within a factor of {NEAR}",
        "papers train longer, on the original images, and choose architectures' details otherwise: compare orders, "
        "not tenths",
    ]
    left = {"paper", "data", "model", "method", "ours, the best", "at"}
    title = "Published results (survey of Blalock et al. 2020) beside ours"
    return Table(title, columns, rows, left, notes, ["top-1 %", "method", "data", "at"])


def _ours(ours: Best, kind: str) -> list[str]:
    return [ours.name, f"{kind} {ours.achieved:.3g}", f"{plus_minus(ours.change, 100.0, 2)} (n {ours.change.n})"]


def _sizes(result: Result) -> str:
    """``8× / 3.1×``, a dash for what is not known."""
    return " / ".join(NONE if value is None else f"{value:.3g}×" for value in (result.compression, result.speedup))


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.2f}"


def _points(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:+.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.survey``."""
    parser = Parser(prog="python -m benchmarks.survey", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a clone of github.com/JJGO/shrinkbench")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")
    parser.add_argument("--where", default=None, help="pandas query over our records")
    chosen = parser.parse_args(arguments)
    results = read(chosen.folder)
    cells, problems = load(Store.of(Paths(chosen.results)))
    console = output_console()
    table_of(results, select(cells, chosen.where)).show(console)
    for problem in problems:
        console.print(f"left out: {problem}", markup=False)
    return 0


if __name__ == "__main__":
    end(main)
