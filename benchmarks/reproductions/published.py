"""Numbers that papers publish, each with where it stands, how sure we are of it, and how the paper's setting differs.

``results/published/*.csv``, packaged as ``published_numbers``, hold one number per line. Only numbers read at the
source are good for an assertion:

* ``source``: read in the authors' paper, poster or code;
* ``raw``: from the authors' raw result files;
* ``figure``: read off the authors' plot, to the accuracy that ``difference`` says;
* ``tabulated``: as tabulated or cited by others;
* ``memory``: from memory of the paper; shown for orientation, never asserted, never counted as reproduced or not.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from benchmarks.boards.stats import Spread
from benchmarks.boards.tables import NONE, Table
from methods.errors import BadInput

Certainty = Literal["source", "raw", "figure", "tabulated", "memory"]
State = Literal["reproduced within tolerance", "differs", "not run", "not comparable"]
COLUMNS = ("paper", "where", "setting", "quantity", "value", "unit", "certainty", "difference")
FOLDER = Path("results") / "published"
PACKAGED = Path(__file__).parent / "published_numbers"  # the same files, for an installed package without a clone
TOLERANCE = 0.05  # relative, in addition to two standard errors of ours


@dataclass(frozen=True)
class Published:
    """One published number; ``value`` is None where a line only warns of something."""

    paper: str
    where: str
    setting: str
    quantity: str
    value: float | None
    unit: str
    certainty: Certainty
    difference: str

    @property
    def assertable(self) -> bool:
        """Whether a test, or a claim of having reproduced it, may rest on it."""
        return self.value is not None and self.certainty != "memory"


def load(folder: Path = FOLDER) -> list[Published]:
    """All published numbers, by file and line; those of the package where there is no such folder.

    Raises:
        BadInput: a line that does not fit the columns, with its place.
    """
    return [number for path in sorted((folder if folder.is_dir() else PACKAGED).glob("*.csv")) for number in read(path)]


def read(path: Path) -> list[Published]:
    """The numbers in one file."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise BadInput(
                f"{path}: its columns are {', '.join(rows.fieldnames or ())}.\nExpected {', '.join(COLUMNS)}."
            )
        return [_number(path, line, row) for line, row in enumerate(rows, 2)]


def _number(path: Path, line: int, row: dict[str, str]) -> Published:
    place = f"{path}, line {line}"
    if None in row or None in row.values():
        raise BadInput(f"{place}: expected {len(COLUMNS)} fields; quote a field that holds a comma.")
    if row["certainty"] not in get_args(Certainty):
        raise BadInput(f"{place}: certainty {row['certainty']!r}; expected one of {', '.join(get_args(Certainty))}.")
    try:
        value = float(row["value"]) if row["value"] else None
    except ValueError:
        raise BadInput(f"{place}: the value {row['value']!r} is not a number.") from None
    if value is not None and not math.isfinite(value):
        raise BadInput(f"{place}: the value {row['value']!r} is not finite.")
    return Published(**{**row, "value": value})  # type: ignore[arg-type]  # checked above


def compare(published: Published, ours: Spread, tolerance: float = TOLERANCE) -> State:
    """Whether ours agrees: within ``tolerance`` of the published value, or two standard errors of our mean."""
    if not published.assertable:
        return "not comparable"
    if ours.mean is None or published.value is None:
        return "not run"
    return "reproduced within tolerance" if agrees(published.value, ours, tolerance) else "differs"


def agrees(value: float, ours: Spread, tolerance: float = TOLERANCE) -> bool:
    """Whether the mean of ours is within ``tolerance`` of the published ``value``, or within two standard errors."""
    error = 0.0 if ours.std is None else 2 * ours.std / math.sqrt(ours.n)
    return ours.mean is not None and abs(ours.mean - value) <= max(error, tolerance * abs(value))


def table_of(numbers: Iterable[Published]) -> Table:
    """The numbers as a table."""
    rows = [
        [
            *(number.paper, number.where, number.setting, number.quantity),
            NONE if number.value is None else f"{number.value:g}",
            *(number.unit, number.certainty, number.difference),
        ]
        for number in numbers
    ]
    notes = ["certainty memory: for orientation only, never asserted"]
    return Table("Published numbers", list(COLUMNS), rows, set(COLUMNS) - {"value"}, notes)
