"""Figures of reproductions: the same look, and the same bytes for the same numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from numpy.typing import ArrayLike

    from benchmarks.boards.stats import Spread

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's palette, which most colour-blind readers can tell apart."""
MARKERS = "osD^vPX*"


def canvas(columns: int, rows: int = 1, width: float = 4.6, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """An empty figure and its axes, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes.flat)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes ``name``.svg and ``name``.png; the SVG, which a page shows, comes first."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
        figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
    return [folder / f"{name}.svg"]


def curve(axis: Axes, x: ArrayLike, mean: ArrayLike, std: ArrayLike, number: int, label: str) -> Line2D:
    """One line with markers and error bars (sample standard deviation), the ``number``-th of its figure."""
    drawn = axis.errorbar(
        x,
        mean,
        std,
        color=COLOURS[number % len(COLOURS)],
        marker=MARKERS[number % len(MARKERS)],
        markersize=4,
        linewidth=1.4,
        capsize=2,
        label=label,
    )
    return drawn.lines[0]


def spreads(axis: Axes, x: ArrayLike, values: Sequence[Spread], number: int, label: str) -> None:
    """The same of summaries; one of nothing is a gap, one of a single value has no error bar."""
    means = [math.nan if each.mean is None else each.mean for each in values]
    curve(axis, x, means, [each.std or 0 for each in values], number, label)


def remaining_weights(axis: Axes, label: str) -> None:
    """Remaining weights in % along x: logarithmic, from 100 downwards."""
    axis.set_xscale("log")
    axis.invert_xaxis()
    axis.set_xlabel(label)
    in_numbers(axis.xaxis)


def in_numbers(axis: Axis) -> None:
    """Ticks of a logarithmic axis over one or two decades that read as numbers, not as products of powers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
