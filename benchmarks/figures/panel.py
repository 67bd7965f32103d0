"""One panel of a figure: lines, points and levels, each labelled directly instead of in a legend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.figures.labels import crowded, overlapping, spread_out
from benchmarks.figures.looks import COLOURS, DASHES, INK, SHAPES, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis, Tick
    from matplotlib.text import Annotation, Text

LINES = 8
"""More lines in a panel cannot be followed."""
GREY, SMALL = "#5a5a5a", 8.5
STEPS = (((1, 2, 5), 12), ((1, 3), 12), ((1,), 12), ((1,), 7), ((1,), 5), ((1,), 3), ((), 4), ((), 3), ((), 2))
"""What a logarithmic axis labels, densest first: multiples of powers of ten, or round numbers; and at most how many."""
Numbers = Iterable[Any]
"""Numbers, with None or NaN for what is missing; a column of a table is one."""


@dataclass(frozen=True)
class _Label:
    """A name that waits for its place right of the axes: which look it has, and the points it belongs to."""

    text: Annotation
    look: Look
    points: list[tuple[float, float]]
    filled: bool


def nth(number: int) -> Look:
    """The look of the ``number``-th series where series are not methods."""
    return Look(*(part[number % len(part)] for part in (COLOURS, SHAPES, DASHES)))  # type: ignore[arg-type]


class Panel:
    """One pair of axes.

    Attributes:
        axes: Matplotlib's.
        bounds: what the quantity along y can be, such as 0 to 100 %; error bars end there.
        x_bounds: the same along x.
        series: how many lines and clouds of filled points are drawn; if rows have names, points are not counted.
        empty: whether words are shown instead of the panel.
    """

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.bounds = self.x_bounds = (-math.inf, math.inf)
        self.series, self.empty, self.named = 0, False, False
        self.words = ["", ""]
        self._labels: list[_Label] = []
        self._texts: list[Any] = []
        self._wanted: list[tuple[Literal["x", "y"], str, list[tuple[float, float, float]]]] = []
        self._bars: list[tuple[Literal["x", "y"], float, float]] = []
        self._logarithmic: list[tuple[Axis, int]] = []
        axes.grid(alpha=0.3, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
        axes.tick_params(labelsize=SMALL, color=GREY, labelcolor=INK)

    def label(self, x: str, y: str, bounds: tuple[float, float] | None = None) -> None:
        """What is along the axes, with units; and what y can be."""
        self.words = [x, y]
        self.axes.set_xlabel(x, fontsize=SMALL + 0.5, color=INK)
        self.axes.set_ylabel(y, fontsize=SMALL + 0.5, color=INK)
        self.bounds = bounds or self.bounds

    def line(
        self, x: Numbers, y: Numbers, look: Look, label: str = "", std: Numbers | None = None, marker: bool = True
    ) -> None:
        """A line with error bars (sample standard deviation); its name stands right of the axes."""
        self.series += 1
        xs, ys = _clean(x), _clean(y)
        self.axes.plot(
            *(xs, ys),
            color=look.colour,
            linestyle=(0, look.dash),
            marker=look.marker if marker else "",
            markersize=4.8,
            linewidth=1.5,
            markeredgecolor="white",
            markeredgewidth=0.4,
            zorder=3,
        )
        self._error_bars("y", xs, ys, std, look)
        self._name(label, look, xs, ys)

    def points(
        self,
        x: Numbers,
        y: Numbers,
        look: Look,
        label: str = "",
        std: Numbers | None = None,
        x_std: Numbers | None = None,
        filled: bool = True,
        size: float = 5.5,
    ) -> None:
        """Markers without a line; hollow ones accompany filled ones, as published or earlier numbers."""
        self.series += filled
        xs, ys = _clean(x), _clean(y)
        self.axes.plot(
            *(xs, ys),
            linestyle="none",
            marker=look.marker,
            color=look.colour,
            markersize=size,
            markerfacecolor=look.colour if filled else "white",
            markeredgecolor=look.colour if not filled else "white",
            markeredgewidth=1.3 if not filled else 0.4,
            zorder=4,
        )
        self._error_bars("y", xs, ys, std, look)
        self._error_bars("x", ys, xs, x_std, look)
        self._name(label, look, xs, ys, filled)

    def span(self, start: tuple[float, float], end: tuple[float, float], look: Look, width: float = 2.2) -> None:
        """A bar from one point to another: what changed."""
        self.axes.plot(*zip(start, end, strict=True), color=look.colour, linewidth=width, alpha=0.45, zorder=2)

    def level(
        self,
        value: float,
        label: str,
        at: Literal["left", "right"] = "left",
        below: bool = False,
        vertical: bool = False,
    ) -> None:
        """A line for something that has no size, such as the dense network or chance, with its name at it.

        Args:
            value: where.
            label: its name.
            at: the end of a horizontal line that its name stands at.
            below: whether the name stands below the line, or left of a vertical one.
            vertical: whether x has this value; the name stands at the top then.
        """
        draw = self.axes.axvline if vertical else self.axes.axhline
        draw(value, color=GREY, linewidth=1, linestyle=(0, (4, 2)), zorder=1.5)
        if not vertical:
            self.axes.margins(y=0.12)  # room for the name
        place = 0.015 if at == "left" else 0.985
        self._texts.append(
            self.axes.annotate(
                label,
                (value, 1) if vertical else (place, value),
                xycoords=("data", "axes fraction") if vertical else ("axes fraction", "data"),
                xytext=(-3 if below else 3, -1) if vertical else (0, -2.5 if below else 2),
                textcoords="offset points",
                ha=("right" if below else "left") if vertical else at,
                va="top" if vertical or below else "bottom",
                size=SMALL - 0.5,
                color=GREY,
                zorder=5,
            )
        )

    def note(
        self, x: float, y: float, text: str, look: Look | None = None, ha: str = "left", va: str = "center"
    ) -> None:
        """Write words at a point given in data coordinates."""
        colour = look.colour if look else INK
        self._texts.append(self.axes.text(x, y, text, size=SMALL - 0.5, color=colour, ha=ha, va=va, zorder=6))

    def rows(self, names: Sequence[str], lines: Sequence[float] = ()) -> None:
        """Names along y, from the top, below room for the names of levels; ``lines`` separate groups of them."""
        self.named = True
        self.axes.set_yticks(range(len(names)), list(names))
        self.axes.set_ylim(len(names) - 0.45, -1.05)
        self.axes.tick_params(axis="y", length=0)
        self.axes.grid(visible=False, axis="y")
        for line in lines:
            self.axes.axhline(line, color=GREY, linewidth=0.6)

    def ticks(self, which: Literal["x", "y"], places: Sequence[float], names: Sequence[str] | None = None) -> None:
        """These ticks and no others."""
        axis = self.axes.xaxis if which == "x" else self.axes.yaxis
        axis.set_ticks(list(places), labels=list(names) if names else [f"{place:g}" for place in places])
        axis.set_ticks([], minor=True)

    def whole(self, which: Literal["x", "y"]) -> None:
        """Ticks at whole numbers only."""
        from matplotlib.ticker import MaxNLocator

        axis = self.axes.xaxis if which == "x" else self.axes.yaxis
        axis.set_major_locator(MaxNLocator(6, integer=True))

    def log(self, which: Literal["x", "y"], falling: bool = False) -> None:
        """A logarithmic axis with ticks that read as numbers where they can."""
        from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation, NullFormatter, NullLocator

        axis = self.axes.xaxis if which == "x" else self.axes.yaxis
        (self.axes.set_xscale if which == "x" else self.axes.set_yscale)("log")
        low, high = axis.get_data_interval()
        decades = math.log10(high / low) if 0 < low < high < math.inf else 1.0
        if decades > 4 or low < 1e-3:
            axis.set_major_formatter(LogFormatterSciNotation())
            axis.set_minor_locator(NullLocator())
            density = 3
        else:
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
            density = 0 if decades < 2.6 else 2
        _tick(axis, density)
        self._logarithmic.append((axis, density))
        if falling and which == "x" and not self.axes.xaxis_inverted():  # shared axes are turned once
            self.axes.invert_xaxis()

    def show_x(self, show: bool) -> None:
        """Show or hide the numbers and words below the panel."""
        self.axes.tick_params(axis="x", labelbottom=show)
        self.axes.set_xlabel(self.words[0] if show else "")

    def show_y(self, show: bool) -> None:
        """Show or hide the numbers and words left of the panel."""
        self.axes.tick_params(axis="y", labelleft=show)
        self.axes.set_ylabel(self.words[1] if show else "")

    def settle(self) -> None:
        """Fix the limits: nothing that is drawn later may move them."""
        self.axes.set_xlim(self.axes.get_xlim())
        self.axes.set_ylim(self.axes.get_ylim())

    def thin_ticks(self) -> None:
        """Label fewer numbers on a logarithmic axis until none touches another, but at least two."""
        for axis, density in self._logarithmic:
            for sparser in range(density + 1, len(STEPS)):
                if len(_ticks_of(axis)) > 1 and not crowded(_labels_of(axis), self.axes.figure.dpi):
                    break
                _tick(axis, sparser)

    def place_labels(self) -> None:
        """Put the names right of the axes, in the order of the lines' ends, none over another."""
        if not self._labels:
            return
        box = self.axes.get_window_extent()
        unit = self.axes.figure.dpi / 72 / box.width  # a point, as a fraction of the axes
        inside = self.axes.transData + self.axes.transAxes.inverted()
        ends = [max(map(tuple, inside.transform(label.points))) for label in self._labels]
        heights = [label.text.get_window_extent().height / box.height + 0.004 for label in self._labels]
        for label, (x, y), place in zip(
            self._labels, ends, spread_out([float(y) for _, y in ends], heights), strict=True
        ):
            label.text.xy = (1.0, place)
            self.axes.plot(
                *([x + 3 * unit, 1 + 2 * unit, 1 + 9 * unit], [y, y if x > 0.9 else place, place]),
                transform=self.axes.transAxes,
                color=label.look.colour,
                linewidth=0.7,
                alpha=0.8,
                clip_on=False,
                zorder=1.8,
            )
            self.axes.plot(
                *([1 + 12 * unit], [place]),
                transform=self.axes.transAxes,
                marker=label.look.marker,
                color=label.look.colour,
                markerfacecolor=label.look.colour if label.filled else "white",
                markersize=4.8,
                clip_on=False,
            )

    def problems(self) -> list[str]:
        """The rules of the house style that the panel's content breaks."""
        found = []
        if self.series > LINES and not self.named:
            found.append(f"{self.series} lines, more than {LINES}")
        if not self.words[0] or not (self.words[1] or self.named):
            found.append("an axis has no words")
        return found

    def collisions(self) -> list[str]:
        """The rules that the drawing breaks, once everything is in its place."""
        limits = {"x": sorted(self.axes.get_xlim()), "y": sorted(self.axes.get_ylim())}
        outside = any(low < limits[which][0] or high > limits[which][1] for which, low, high in self._bars)
        over = overlapping([*(label.text for label in self._labels), *self._texts])
        dpi = self.axes.figure.dpi
        touching = [pair for axis in (self.axes.xaxis, self.axes.yaxis) for pair in crowded(_labels_of(axis), dpi)]
        return [
            *["an error bar leaves the axes"] * outside,
            *(f"{first!r} lies over {second!r}" for first, second in over),
            *(f"the ticks {first!r} and {second!r} touch" for first, second in touching),
        ]

    def _error_bars(
        self, which: Literal["x", "y"], along: list[float], values: list[float], std: Numbers | None, look: Look
    ) -> None:
        spreads = [] if std is None else _clean(std)
        known = [
            (place, value, spread)
            for place, value, spread in zip(along, values, spreads, strict=False)
            if math.isfinite(value) and spread > 0
        ]
        if known:
            self._wanted.append((which, look.colour, known))

    def draw_error_bars(self) -> None:
        """Draw the bars, once scales and bounds are known.

        On a logarithmic axis a bar that would reach 0 ends at half the value.
        """
        for which, colour, known in self._wanted:
            low, high = self.bounds if which == "y" else self.x_bounds
            scale = self.axes.get_yscale() if which == "y" else self.axes.get_xscale()
            ends = []
            for _, value, spread in known:
                least = max(low, value / 2) if scale == "log" and spread >= value else low
                ends.append((max(value - spread, min(least, value)), min(value + spread, max(high, value))))
            draw = self.axes.vlines if which == "y" else self.axes.hlines
            places = [place for place, _, _ in known]
            draw(places, *zip(*ends, strict=True), color=colour, linewidth=1.1, zorder=2.5)
            self._bars += [(which, *each) for each in ends]

    def _name(self, label: str, look: Look, xs: list[float], ys: list[float], filled: bool = True) -> None:
        known = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
        if not label or not known:
            return
        text = self.axes.annotate(
            label,
            (1.0, 0.5),
            xycoords="axes fraction",
            xytext=(17, 0),
            textcoords="offset points",
            va="center",
            size=SMALL,
            color=INK,
            linespacing=1.05,
            annotation_clip=False,
        )
        self._labels.append(_Label(text, look, known, filled))


def _tick(axis: Axis, density: int) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator

    multiples, count = STEPS[density]
    axis.set_major_locator(LogLocator(subs=multiples, numticks=count) if multiples else MaxNLocator(count))


def _ticks_of(axis: Axis) -> list[Tick]:
    """The ticks with numbers that lie within the limits of an axis."""
    axis.get_majorticklabels()  # brings the ticks up to date
    low, high = sorted(axis.get_view_interval())
    margin = 1e-9 * (high - low)
    return [tick for tick in axis.get_major_ticks() if low - margin <= tick.get_loc() <= high + margin]


def _labels_of(axis: Axis) -> list[Text]:
    """The numbers that are shown at the ticks of an axis."""
    return [tick.label1 for tick in _ticks_of(axis) if tick.label1.get_visible()]


def _clean(values: Numbers) -> list[float]:
    """Floats, with NaN for what is missing."""
    return [math.nan if value is None else float(value) for value in values]
