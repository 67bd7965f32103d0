"""Describe a method for the page: paper and settings from its preset, the formula from its module's docstring."""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.boards.board import Board
from benchmarks.boards.claims.findings import COLUMNS, cells_of, examine
from benchmarks.boards.frame import Row as Cell
from benchmarks.boards.labels import CLAIM
from benchmarks.boards.naming import task_of
from benchmarks.boards.stats import spread
from benchmarks.boards.tables import NONE, Table, plus_minus, times
from benchmarks.report.gather import budget_name
from benchmarks.settings.home import CONF, yaml_of
from benchmarks.storage.paths import REPOSITORY, safe_name

SENTENCE = re.compile(r"(?<=\.) (?=[A-Z])")


@dataclass
class Method:
    """One method: ``idea`` names the paper in a sentence, ``about`` says more.

    ``formula`` is the opening of its module, ``settings`` its preset.

    ``claims`` are those of its paper with what each board says of them; None where no board looks at any.
    """

    name: str
    idea: str
    about: str
    formula: str
    settings: str
    statuses: dict[str, int] = field(default_factory=dict)
    table: Table | None = None
    claims: Table | None = None

    @property
    def runs(self) -> str:
        """How many runs it has, and how they ended where that was not always as usual."""
        number = sum(self.statuses.values())
        ends = ", ".join(f"{many} {status}" for status, many in self.statuses.items())
        return f"{number} run{'' if number == 1 else 's'}" + (f": {ends}" if set(self.statuses) != {"done"} else "")


def methods(cells: Sequence[Cell], boards: Sequence[Board]) -> list[Method]:
    """Every method with a record, by name; ``boards`` are those of ``cells``."""
    by_name: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_name[cell["method"]].append(cell)
    looked = _claims(boards)
    return [_method(name, by_name[name], looked.get(name)) for name in sorted(by_name)]


def _claims(boards: Sequence[Board]) -> dict[str, Table]:
    """By method, what each board says of each claim of its paper."""
    rows: dict[str, list[list[str]]] = defaultdict(list)
    for board in boards:
        group = dict(board.group)
        budget = budget_name(group.pop("budget", None), group.pop("value", None))
        where = [" · ".join(str(value) for value in group.values()), budget]
        for found in examine(board):
            rows[found.claim.method].append([*where, *cells_of(found, board.metric)[1:]])
    columns = ["task", "budget", *COLUMNS[1:]]
    words = {"task", "budget", "claim", "here"}
    return {name: Table(f"What the paper claims of {name}", columns, own, words) for name, own in rows.items()}


def _method(name: str, cells: Sequence[Cell], looked: Table | None) -> Method:
    path = CONF / "method" / f"{safe_name(name)}.yaml"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = text.splitlines()
    comments = []
    for line in lines:
        if line.startswith(CLAIM):
            continue
        if line.startswith("#"):
            comments.append(line.lstrip("# ").strip())
        elif line.strip():
            break
    words = " ".join(comment for comment in comments if not comment.startswith("@package"))
    idea, *more = SENTENCE.split(words or "No preset of this name.", maxsplit=1)
    settings = "\n".join(line for line in lines if not line.startswith("#")).strip()
    statuses = dict(sorted(Counter(cell["status"] for cell in cells).items()))
    return Method(name, idea, " ".join(more), _opening(path), settings, statuses, _table(name, cells), looked)


def _opening(preset: Path) -> str:
    """The docstring of the module that the preset's selection comes from, read without importing it."""
    selection = (yaml_of(preset) or {}).get("selection")
    target = str(selection.get("_target_", "")) if isinstance(selection, dict) else ""
    path = REPOSITORY / Path(*target.split(".")[:-1]).with_suffix(".py") if target.count(".") else None
    if path is None or not path.is_file() or not path.resolve().is_relative_to(REPOSITORY / "methods"):
        return ""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _table(name: str, cells: Sequence[Cell]) -> Table:
    groups: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[*task_of(cell), cell["name"], cell["status"]].append(cell)
    rows = []
    for (dataset, model, kind, value, label, status), members in sorted(groups.items()):
        accurate = any(cell.get("tuned_accuracy") is not None for cell in members)
        column, scale, decimals = ("accuracy", 100.0, 2) if accurate else ("loss", 1.0, 4)
        figures = [
            plus_minus(spread(c.get(f"{s}_{column}") for c in members), scale, decimals) for s in ("pruned", "tuned")
        ]
        ratios = [times(spread(cell.get(ratio) for cell in members)) for ratio in ("compression", "speedup")]
        where = [f"{dataset} · {model}", budget_name(kind or None, value), label]
        rows.append([*where, str(len(members)), *figures, *ratios, status])
    columns = [
        "task",
        "budget",
        "setting",
        "n",
        "before fine-tuning",
        "after fine-tuning",
        "compression",
        "speed-up",
        "status",
    ]
    words = {"task", "budget", "setting", "status"}
    return Table(f"Cells of {name}", columns, rows or [[NONE] * len(columns)], words)
