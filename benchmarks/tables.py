"""Tables of text: one description, written for a terminal, as Markdown or as CSV. Cell texts are data, never markup."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.stats import Spread

if TYPE_CHECKING:
    from rich.console import Console

LOG_WIDTH = 160  # columns when the output is a file or a pipe, which have no width of their own
NONE = "–"


@dataclass
class Table:
    """A title, column names, rows of text, and notes under the table.

    Attributes:
        left: the columns of words; the others hold numbers and are aligned to the right.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    left: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """The table as GitHub Markdown, under a heading of the second level."""
        ruler = [":--" if name in self.left else "--:" for name in self.columns]
        lines = [[_escaped(name) for name in self.columns], ruler, *([_escaped(cell) for cell in r] for r in self.rows)]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        notes = "".join(f"\n{_escaped(note)}\n" for note in self.notes)
        return f"## {_escaped(self.title)}\n\n{text}\n{notes}"

    def show(self, console: "Console") -> None:
        """Print the table on ``console``."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(title=Text(self.title), box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
        for name in self.columns:
            words = name in self.left
            header = Text(name if words else name.replace(" ", "\n"))  # narrow columns fit a narrow terminal
            table.add_column(header, justify="left" if words else "right", overflow="fold", no_wrap=not words)
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
        for note in self.notes:
            console.print(Text(note, style="dim"))


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A CSV file; None is an empty field."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if cell is None else cell for cell in row] for row in rows])
    return buffer.getvalue()


def output_console(stderr: bool = False) -> "Console":
    """A console as wide as the terminal, or wide enough for a board where there is none."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=LOG_WIDTH)


def plus_minus(values: Spread, scale: float = 1.0, decimals: int = 2) -> str:
    """``mean ± std``; a single value has no spread, shown as a dash."""
    if values.mean is None:
        return NONE
    deviation = NONE if values.std is None else f"{values.std * scale:.{decimals}f}"
    return f"{values.mean * scale:.{decimals}f} ± {deviation}"


def whole(values: Spread) -> str:
    """A count with thousands separators: the mean, rounded."""
    return NONE if values.mean is None else f"{round(values.mean):,}"


def times(values: Spread) -> str:
    """A ratio."""
    return NONE if values.mean is None else f"{values.mean:.2f}×"


def seconds(values: Spread) -> str:
    """A duration in seconds, to three significant digits."""
    return NONE if values.mean is None else f"{values.mean:.3g}"


def one_line(text: str, limit: int = 100) -> str:
    """The first line of ``text``, shortened to ``limit`` characters."""
    line = next(iter(text.strip().splitlines()), "")
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _escaped(text: str) -> str:
    """``text`` so that Markdown shows it as it is."""
    return re.sub(r"([\\`*_\[\]<>|&#~])", r"\\\1", " ".join(text.split()))
