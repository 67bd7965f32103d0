"""What a method is, for the page: its paper and its settings from its preset, its formula from its module's opening."""

import ast
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.boards.frame import Row as Cell
from benchmarks.boards.naming import task_of
from benchmarks.boards.stats import spread
from benchmarks.boards.tables import NONE, Table, plus_minus, times
from benchmarks.report.gather import budget_name
from benchmarks.settings.home import CONF
from benchmarks.storage.paths import REPOSITORY, safe_name


@dataclass
class Method:
    """One method: ``about`` names the paper, ``formula`` is the opening of its module, ``settings`` its preset."""

    name: str
    about: str
    formula: str
    settings: str
    statuses: dict[str, int] = field(default_factory=dict)
    table: Table | None = None


def methods(cells: Sequence[Cell]) -> list[Method]:
    """Every method with a record, by name."""
    by_name: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_name[cell["method"]].append(cell)
    return [_method(name, by_name[name]) for name in sorted(by_name)]


def _method(name: str, cells: Sequence[Cell]) -> Method:
    path = CONF / "method" / f"{safe_name(name)}.yaml"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = text.splitlines()
    comments = []
    for line in lines:
        if line.startswith("#"):
            comments.append(line.lstrip("# ").strip())
        elif line.strip():
            break
    about = " ".join(comment for comment in comments if not comment.startswith("@package"))
    settings = "\n".join(line for line in lines if not line.startswith("#")).strip()
    statuses = dict(sorted(Counter(cell["status"] for cell in cells).items()))
    return Method(
        name, about or "No preset of this name here.", _opening(text), settings, statuses, _table(name, cells)
    )


def _opening(preset: str) -> str:
    """The docstring of the module that the preset's selection comes from, read without importing it."""
    target = _target(preset)
    path = REPOSITORY / Path(*target.split(".")[:-1]).with_suffix(".py") if target.count(".") else None
    if path is None or not path.is_file() or not path.resolve().is_relative_to(REPOSITORY / "methods"):
        return ""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _target(preset: str) -> str:
    import yaml

    content: Any = yaml.safe_load(preset) if preset else None
    selection = content.get("selection") if isinstance(content, dict) else None
    return str(selection.get("_target_", "")) if isinstance(selection, dict) else ""


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
