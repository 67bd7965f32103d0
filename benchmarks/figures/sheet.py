"""The house style of figures: a title that says what is to be seen, panels, names next to lines, and a note.

A sheet is as wide as a page of text and is read from 390 pixels on; more panels make it longer, not wider. Its rules
(:meth:`Sheet.problems`) are checked before anything is written.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmarks.figures.files import write
from benchmarks.figures.looks import INK, Look
from benchmarks.figures.panel import GREY, SMALL, Panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLAIN = Look("#555555", "circle", (1, 0))
UNIT = re.compile(r"(\d) (%|points|seeds)")
"""A number and its unit stay on one line."""
ENTRIES = 5
"""Nobody reads a key with more entries; lines are labelled directly instead."""
WIDTH = 7.2  # inches
HEAD, MARGIN = 11.5, 0.09  # points; inches
Shared = Literal["none", "all", "row", "col"]


@dataclass(frozen=True)
class Sign:
    """One entry of a key: a look, of which parts can be left out, and what it means."""

    text: str
    look: Look = PLAIN
    line: bool = True
    marker: bool = True
    filled: bool = True


class RuleBroken(ValueError):
    """A figure would break a rule of the house style, such as one text over another; not a mistake of the user."""


class Sheet:
    """One figure.

    Args:
        title: a sentence: what is to be seen, of what.
        rows, columns: of panels; three columns are the most that can be read.
        height: the height of a row of panels in inches, or of each.
        note: how the numbers were made: repeats, error bars, what else a reader has to know.
        key: what solid and dotted, full and hollow mean; at most five entries.
        share_x, share_y: whether panels have the same axes: none, all, those of a row or those of a column.
        widths: the widths of the columns, relative to each other.
    """

    def __init__(
        self,
        title: str,
        rows: int = 1,
        columns: int = 1,
        height: float | Sequence[float] = 2.5,
        note: str = "",
        key: Sequence[Sign] = (),
        share_x: Shared = "none",
        share_y: Shared = "none",
        widths: Sequence[float] | None = None,
    ) -> None:
        from matplotlib.figure import Figure

        self.title, self.key, self._finished = title.strip(), list(key), False
        heights = [height] * rows if isinstance(height, (int, float)) else list(height)
        head, foot = (
            textwrap.wrap(UNIT.sub("\\1\u00a0\\2", text), wide) for text, wide in ((self.title, 66), (note, 104))
        )
        above = MARGIN + len(head) * HEAD * 1.25 / 72 + (0.27 if key else 0.03)
        below = MARGIN + len(foot) * SMALL * 1.3 / 72 if foot else 0.03
        whole = above + sum(heights) + below
        self.figure: Figure = Figure(figsize=(WIDTH, whole), facecolor="white")
        self.figure.set_layout_engine(
            "constrained",
            rect=(0.008, below / whole, 0.984, 1 - (above + below) / whole),
            w_pad=0.04,
            h_pad=0.05,
            wspace=0.03,
            hspace=0.02,
        )
        places = self.figure.subplots(
            rows,
            columns,
            squeeze=False,
            sharex=share_x,
            sharey=share_y,
            gridspec_kw={"height_ratios": heights, "width_ratios": widths},
        )
        self.panels = [[Panel(axes) for axes in line] for line in places]
        self.shared = share_x, share_y
        left = MARGIN / WIDTH
        self.figure.text(
            *(left, 1 - MARGIN / whole), "\n".join(head), va="top", weight="bold", size=HEAD, color=INK, linespacing=1.2
        )
        self.figure.text(left, MARGIN / 2 / whole, "\n".join(foot), va="bottom", size=SMALL, color=GREY)
        if key:
            self._draw_key(left, 1 - (above - 0.25) / whole)

    def panel(self, row: int = 0, column: int = 0, title: str = "") -> Panel:
        """One of the panels, with its title."""
        panel = self.panels[row][column]
        if title:
            panel.axes.set_title(title, loc="left", fontsize=SMALL + 1, color=INK)
        return panel

    def words(self, row: int, column: int, text: str) -> None:
        """Put words in place of a panel; the panel above then shows its own numbers."""
        panel = self.panels[row][column]
        panel.empty = True
        panel.axes.axis("off")
        panel.axes.text(0, 1, text, va="top", size=SMALL, color=INK, linespacing=1.35, transform=panel.axes.transAxes)

    def finish(self) -> Figure:
        """The figure with everything in its place.

        Raises:
            RuleBroken: it breaks a rule of the house style.
        """
        if self._finished:
            return self.figure
        self._finished = True
        self._join()
        live = [panel for line in self.panels for panel in line if not panel.empty]
        for panel in live:
            panel.draw_error_bars()
        for panel in live:  # panels that share axes have all their bars by now
            panel.settle()
        self.figure.draw_without_rendering()  # now it is known how large the axes are
        self.figure.set_layout_engine("none")
        for panel in live:
            panel.thin_ticks()
            panel.place_labels()
        self.figure.draw_without_rendering()
        problems = self.problems()
        if problems:
            raise RuleBroken(f"figure {self.title!r}: {'; '.join(problems)}")
        return self.figure

    def _cut(self) -> list[str]:
        """The texts that are partly outside the sheet: titles, the note, words on axes, names of lines."""
        from matplotlib.text import Text

        axes = self.figure.axes
        ticks = [tick for own in axes for axis in (own.xaxis, own.yaxis) for tick in axis.get_major_ticks()]
        numbers = {id(label) for tick in ticks for label in (tick.label1, tick.label2)}  # some lie beyond the axes
        whole = self.figure.bbox.padded(1)
        found = []
        for text in self.figure.findobj(Text):
            if id(text) not in numbers and text.get_visible() and text.get_text().strip():
                box = text.get_window_extent()
                if not (whole.contains(*box.min) and whole.contains(*box.max)):
                    found.append(f"{text.get_text()!r} is cut off")
        return found

    def save(self, folder: Path, name: str) -> list[Path]:
        """Write ``name``.svg and ``name``.png into the folder."""
        return write(self.finish(), folder, name, self.title)

    def problems(self) -> list[str]:
        """The broken rules, each in a few words; overlaps are known only once the sheet is finished."""
        found = [] if self.title else ["it has no title"]
        if len(self.key) > ENTRIES:
            found.append(f"its key has {len(self.key)} entries, more than {ENTRIES}")
        for row, line in enumerate(self.panels):
            for column, panel in enumerate(line):
                if not panel.empty:
                    own = panel.problems() + (panel.collisions() if self._finished else [])
                    found += [f"panel {row + 1}, {column + 1}: {problem}" for problem in own]
        found += self._cut() if self._finished else []
        if not any(panel.series for line in self.panels for panel in line):
            found.append("nothing is drawn")
        return found

    def _join(self) -> None:
        """Shared axes are labelled once, at the edge of the sheet."""
        share_x, share_y = self.shared
        last = len(self.panels) - 1
        for row, line in enumerate(self.panels):
            for column, panel in enumerate(line):
                covered = row < last and not self.panels[row + 1][column].empty
                if share_x in ("all", "col"):
                    panel.show_x(not covered)
                if share_y in ("all", "row"):
                    panel.show_y(column == 0)

    def _draw_key(self, left: float, top: float) -> None:
        from matplotlib.lines import Line2D

        handles = [
            Line2D(
                *([], []),
                color=sign.look.colour,
                linestyle=(0, sign.look.dash) if sign.line else "none",
                marker=sign.look.marker if sign.marker else "",
                markerfacecolor=sign.look.colour if sign.filled else "white",
                markersize=5.5,
                linewidth=1.5,
            )
            for sign in self.key
        ]
        legend = self.figure.legend(
            *(handles, [sign.text for sign in self.key]),
            loc="upper left",
            bbox_to_anchor=(left, top),
            ncols=len(handles),
            frameon=False,
            fontsize=SMALL + 0.5,
            borderpad=0,
            borderaxespad=0,
            handlelength=2.2,
            handletextpad=0.5,
            columnspacing=1.6,
        )
        legend.set_in_layout(False)
