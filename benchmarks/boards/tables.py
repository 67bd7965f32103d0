"""Tables of text: one description, written for a terminal, as Markdown, CSV, LaTeX or HTML.

Cell texts are data, never markup: each writer escapes them for its format.
"""

import csv
import html
import io
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.boards.stats import Spread

if TYPE_CHECKING:
    from rich.console import Console

NONE = "–"
SHORT = 40  # characters of a cell that a page keeps on one line
GAP = 2  # columns between two columns of a terminal's table
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what begins a formula in a spreadsheet
LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\char34}",
    "'": r"{\char39}",
    "`": r"{\char96}",
    "-": r"{-}",  # no ligatures: two hyphens of a name are no dash
    **{character: f"\\{character}" for character in "&%$#_"},
    "±": r"\ensuremath{\pm}",
    "×": r"\ensuremath{\times}",
    "·": r"\ensuremath{\cdot}",
    "−": r"\ensuremath{-}",
    "≥": r"\ensuremath{\geq}",
    "≤": r"\ensuremath{\leq}",
    "Δ": r"\ensuremath{\Delta}",
    "λ": r"\ensuremath{\lambda}",
    "θ": r"\ensuremath{\theta}",
    "ρ": r"\ensuremath{\rho}",
    "τ": r"\ensuremath{\tau}",
    "χ": r"\ensuremath{\chi}",
    "²": r"\ensuremath{^2}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "…": r"\ldots{}",
    "→": r"\ensuremath{\rightarrow}",
    "↳": r"\ensuremath{\hookrightarrow}",
    "†": r"\ensuremath{\dagger}",
    "‡": r"\ensuremath{\ddagger}",
}


@dataclass
class Table:
    """A title, column names, rows of text, and notes under the table.

    Attributes:
        left: the columns of words; the others hold numbers and are aligned to the right.
        droppable: columns that a narrow terminal leaves out, first to last.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    left: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    droppable: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """The table as GitHub Markdown, under a heading of the second level."""
        ruler = [":--" if name in self.left else "--:" for name in self.columns]
        lines = [[_escaped(name) for name in self.columns], ruler, *([_escaped(cell) for cell in r] for r in self.rows)]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        notes = "".join(f"\n{_escaped(note)}\n" for note in self.notes)
        return f"## {_escaped(self.title)}\n\n{text}\n{notes}"

    def latex(self) -> str:
        """The table as a LaTeX float, followed by its notes, which may run over several pages.

        This needs the package booktabs, and graphicx to shrink it to the line and to the page.
        """
        places = "".join("l" if name in self.left else "r" for name in self.columns)
        lines = [" & ".join(latex_text(cell) for cell in row) + r" \\" for row in (self.columns, *self.rows)]
        body = [
            r"\begin{table}[htbp]",
            r"\centering",
            f"\\caption{{{latex_text(self.title)}}}",
            r"\resizebox*{!}{\ifdim\totalheight>.85\textheight .85\textheight\else\totalheight\fi}{%",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            f"\\begin{{tabular}}{{{places}}}",
            *(r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"),
            r"\end{tabular}}}",
            r"\end{table}",
        ]
        if self.notes:
            notes = [f"\\noindent {latex_text(note)}\\par" for note in self.notes]
            body += [f"{{\\footnotesize\\noindent\\textbf{{{latex_text(self.title)}}}\\par", *notes, "}"]
        return "\n".join(body) + "\n"

    def html(self) -> str:
        """The table as an HTML fragment that the report's script can sort and filter."""
        kinds = []
        for place, name in enumerate(self.columns):
            longest = max((len(row[place]) for row in self.rows), default=0)
            kinds.append("number" if name not in self.left else "words" if longest > SHORT else "words short")
        head = "".join(
            f'<th scope="col" class="{kind}">{html_text(name)}</th>'
            for kind, name in zip(kinds, self.columns, strict=True)
        )
        body = "\n".join(
            "<tr>"
            + "".join(f'<td class="{kind}">{html_text(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))
            + "</tr>"
            for row in self.rows
        )
        notes = "".join(f'<p class="note">{html_text(note)}</p>\n' for note in self.notes)
        title = html_text(self.title)
        return (
            f'<p class="title">{title}</p>\n<div class="scroll" tabindex="0" role="group" aria-label="{title}">'
            f'<table aria-label="{title}">\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>\n{notes}"
        )

    def show(self, console: "Console") -> None:
        """Print the table on ``console``, without the columns it has no room for."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        shown, left_out = self._fitting(console.width)
        table = RichTable(
            title=Text(self.title), box=SIMPLE_HEAD, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0)
        )
        for position in shown:
            name = self.columns[position]
            words = name in self.left
            header = Text(name if words else name.replace(" ", "\n"))  # narrow columns fit a narrow terminal
            table.add_column(header, justify="left" if words else "right", overflow="fold", no_wrap=not words)
        for row in self.rows:
            table.add_row(*(Text(row[position]) for position in shown))
        console.print(table)
        notes = [*self.notes, f"no room here for: {'; '.join(left_out)}"] if left_out else self.notes
        for note in notes:
            console.print(Text(note, style="dim"))

    def _fitting(self, width: int) -> tuple[list[int], list[str]]:
        """Positions of the columns that fit into ``width``, and the names of those that do not."""
        needed = []
        for position, name in enumerate(self.columns):
            words = [name] if name in self.left else name.split(" ")
            needed.append(max(len(text) for text in (*words, *(row[position] for row in self.rows))))
        shown, left_out = list(range(len(self.columns))), []
        for name in self.droppable:
            if sum(needed[position] + GAP for position in shown) <= width:
                break
            if name in self.columns and (position := self.columns.index(name)) in shown:
                shown.remove(position)
                left_out.append(name)
        return shown, left_out


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A CSV file; None is an empty field, and a quote is put before what a spreadsheet would take for a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if cell is None else _inert(cell) for cell in row] for row in rows])
    return buffer.getvalue()


def _inert(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def plus_minus(values: Spread, scale: float = 1.0, decimals: int = 2, interval: bool = False) -> str:
    """``mean ± std``, or ± half the 95 % interval; a single value has no spread, shown as a dash."""
    if values.mean is None:
        return NONE
    width = values.half_width if interval else values.std
    return f"{values.mean * scale:.{decimals}f} ± {NONE if width is None else f'{width * scale:.{decimals}f}'}"


def whole(values: Spread) -> str:
    """A count with thousands separators: the mean, rounded."""
    return NONE if values.mean is None else f"{round(values.mean):,}"


def short(values: Spread) -> str:
    """A count to three digits, with k, M or G for thousands, millions and billions."""
    if values.mean is None:
        return NONE
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if values.mean >= 0.9995 * size:
            number = f"{values.mean / size:.3g}" if values.mean < 999.5 * size else f"{values.mean / size:.0f}"
            return number + letter
    return f"{values.mean:.3g}"


def times(values: Spread) -> str:
    """A ratio."""
    return NONE if values.mean is None else f"{values.mean:.2f}×"


def seconds(values: Spread) -> str:
    """A duration in seconds, to three significant digits."""
    return NONE if values.mean is None else f"{values.mean:.3g}"


def probability(p: float | None) -> str:
    """A p-value with three decimals."""
    return NONE if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def html_text(text: str) -> str:
    """``text`` as HTML shows it, in an element or in a quoted attribute."""
    return html.escape("".join(character if _printable(character) else "\ufffd" for character in text))


def latex_text(text: str) -> str:
    """``text`` as LaTeX sets it with any engine; a character it has no name for becomes a question mark."""
    pieces = []
    for character in " ".join(text.split()):
        if character in LATEX:
            pieces.append(LATEX[character])
        elif character.isascii():
            pieces.append(character if character.isprintable() else "?")
        else:  # accents are dropped, and what is left must be ASCII
            plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
            pieces += [LATEX.get(letter, letter) if letter.isprintable() else "?" for letter in plain] or ["?"]
    return "".join(pieces)


def _printable(character: str) -> bool:
    return character.isprintable() or character == "\n"


def _escaped(text: str) -> str:
    """``text`` so that Markdown shows it as it is."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return re.sub(r"([\\`*_\[\]<>|&#~])", r"\\\1", " ".join(plain.split()))
