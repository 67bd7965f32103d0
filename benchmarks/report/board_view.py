"""A board on the page: its anchors, its settings line, and what the script needs to know about columns and rows."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.boards.board import Board
from benchmarks.boards.layout import STAGES, table_of
from benchmarks.boards.rows import Row
from benchmarks.figures.looks import Look, look
from benchmarks.report.answers import budget_words
from benchmarks.report.gather import CONTROLS
from benchmarks.storage.paths import safe_name

BEFORE, AFTER = STAGES["pruned"], STAGES["tuned"]
AT_FIRST_HIDDEN = ("nonzero", "effective MACs", "pruning s")
SMALLER_FIRST = ("rank", "parameters", "nonzero", "MACs", "effective MACs", "pruning s")
SETTINGS = ("run: ", "made by: ")  # prefixes of the notes that are shown above the table


@dataclass(frozen=True)
class Column:
    """One column: its name, whether it holds words, which end is the better one, and whether it is shown at first."""

    name: str
    words: bool
    best: str
    shown: bool
    view: str  # the view that it belongs to: before, after or both (empty)


@dataclass(frozen=True)
class Line:
    """One row: its anchor, whether it stays on top or belongs to the controls, its look, its cells."""

    anchor: str
    kind: str
    method: str
    look: Look
    cells: list[str]


@dataclass
class BoardView:
    """A board, ready for the template."""

    anchor: str
    budget: str
    title: str
    run: list[str]
    command: list[str]
    columns: list[Column]
    lines: list[Line]
    notes: list[str] = field(default_factory=list)

    @property
    def anchors(self) -> list[str]:
        """The anchors of all rows."""
        return [line.anchor for line in self.lines]

    @property
    def ranked(self) -> int:
        """The number of rows other than the dense networks on top."""
        return sum(line.kind != "dense" for line in self.lines)


def slug(text: str) -> str:
    """``text`` as an anchor: small letters, digits, dots and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", safe_name(text).lower()).strip("-") or "row"


def anchor_of(board: Board, taken: Counter[str]) -> str:
    """The anchor of the board in links; it depends on the task alone, not on the rest of the page."""
    parts = [str(value) for value in board.group.values() if value is not None]
    number = board.group.get("value")
    parts = [f"{number:g}" if isinstance(number, float) and part == str(number) else part for part in parts]
    return _unlike(f"board-{slug('-'.join(parts))}", taken)


def _unlike(name: str, taken: Counter[str]) -> str:
    taken[name] += 1
    return name if taken[name] == 1 else f"{name}-{taken[name]}"


def view(board: Board, anchor: str) -> BoardView:
    """The board for the page; notes that say what was run stand above the table, the others below it."""
    table = table_of(board)
    larger = board.larger_is_better
    columns = [
        Column(name, name in table.left, _best(name, larger), name not in AT_FIRST_HIDDEN, _view(name))
        for name in table.columns
        if name != "unit" or len({row.unit for row in board.rows if row.unit}) > 1
    ]
    places = [table.columns.index(column.name) for column in columns]
    taken: Counter[str] = Counter()
    lines = [
        Line(
            _unlike(f"{anchor}--{slug(row.full)}", taken),
            _kind(row),
            row.method,
            look(row.method),
            [cells[place] for place in places],
        )
        for row, cells in zip(board.rows, table.rows, strict=True)
    ]
    run, command = ([note.removeprefix(start) for note in table.notes if note.startswith(start)] for start in SETTINGS)
    notes = [note for note in table.notes if not note.startswith(SETTINGS)]
    group = board.group
    budget = budget_words(group.get("budget"), group.get("value"))
    return BoardView(anchor, budget, table.title.partition(":")[0], run, command, columns, lines, notes)


def _kind(row: Row) -> str:
    """What a row is to the views: the dense networks on top, a control, a row that ended badly, or a method."""
    if row.method == "dense":
        return "dense"
    if row.control or row.beside or row.method in CONTROLS:
        return "control"
    return "method" if row.status == "done" else "unranked"


def _best(name: str, larger: bool) -> str:
    """Which end of a column is the better one, so that a first click brings it to the top."""
    if name.startswith("latency") or name in ("n", "vs baseline"):
        return "high"
    if name in SMALLER_FIRST:
        return "low"
    return "high" if larger else "low"


def _view(name: str) -> str:
    return {BEFORE: "before", "same, BN recalibrated": "before", AFTER: "after"}.get(name, "")


def anchors_by_row(board: Board, made: BoardView) -> dict[int, str]:
    """The anchors of the rows of a board, by ``id``."""
    return {id(row): anchor for row, anchor in zip(board.rows, made.anchors, strict=True)}


def common_notes(views: Sequence[BoardView]) -> list[str]:
    """Notes that most boards have, to be said once; they are taken from the boards."""
    counts = Counter(note for each in views for note in set(each.notes))
    shared = [note for note in counts if len(views) > 1 and counts[note] * 2 > len(views)]
    order = {note: place for each in reversed(views) for place, note in enumerate(each.notes)}
    shared.sort(key=lambda note: (order[note], note))
    for each in views:
        each.notes = [note for note in each.notes if note not in shared]
    return shared
