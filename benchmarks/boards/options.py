"""Options of cells as columns, named as on the command line: ``selection.theta``, or ``theta`` where that is enough.

The boards' own columns (metrics, budget, names) take precedence over options of the same name.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.boards.frame import Row, config_of
from benchmarks.boards.labels import leaves

NAME = re.compile(r"(?<![\w.`'\"])[A-Za-z_]\w*(?:\.\w+)*")
TEXT = re.compile(r"'[^']*'|\"[^\"]*\"")
TICKED = re.compile(r"`([^`]*)`")
ELSEWHERE = ("paths", "track", "hydra")  # sections that describe a machine or a user, not a cell
Option = tuple[str, Any]


def named_in(where: str) -> list[str]:
    """The names of columns or options in a query, including those in backticks; quoted strings are ignored."""
    plain = TEXT.sub(" ", where)
    return list(dict.fromkeys([*TICKED.findall(plain), *NAME.findall(TICKED.sub(" ", plain))]))


def with_options(rows: Sequence[Row], names: Iterable[str]) -> list[Row]:
    """The rows with a column for each of ``names`` that is an option of some cell and no column yet.

    A short name is the last part of an option's dotted name; it counts only if no other option ends with it.
    """
    known = {name for row in rows for name in row}
    wanted = [name for name in names if name not in known]
    if not wanted:
        return list(rows)
    options = [dict(_options(row)) for row in rows]
    full: dict[str, set[str]] = defaultdict(set)
    for own in options:
        for name in own:
            full[name].add(name)
            full[name.rpartition(".")[2]].add(name)
    columns = {name: next(iter(full[name])) for name in wanted if len(full.get(name, ())) == 1}
    columns |= {name: name for name in wanted if name in full.get(name, ())}
    added = [{name: own.get(option) for name, option in columns.items()} for own in options]
    return [row | own for row, own in zip(rows, added, strict=True)]


def _options(row: Row) -> list[Option]:
    found = leaves({name: part for name, part in config_of(row).items() if name not in ELSEWHERE})
    return [(name, _plain(value)) for name, value in found]


def _plain(value: Any) -> Any:
    """A value that can be compared and grouped by: lists become text."""
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def quoted(where: str, columns: Iterable[str]) -> str:
    """The query with dotted names put in backticks, as pandas requires."""
    for name in sorted({name for name in columns if "." in name}, key=len, reverse=True):
        where = re.sub(rf"(?<![\w.`]){re.escape(name)}(?![\w.`])", f"`{name}`", where)
    return where
