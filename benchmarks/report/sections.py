"""The parts of the report: everything on one network, and the charts of the theories."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.boards.board import Board, Question, boards
from benchmarks.boards.frame import Row as Cell
from benchmarks.boards.latencies import of_one_machine
from benchmarks.figures.looks import Look
from benchmarks.records.schema import Record
from benchmarks.report import charts, gather
from benchmarks.report.board_view import BoardView, anchor_of, anchors_by_row, view
from benchmarks.storage.paths import safe_name

FEWEST_PREDICTIONS = 3
MOST_DOTS = 1200  # of one chart


@dataclass
class Figure:
    """One chart: a name fit for a file, what is to be seen, how to read it, and its Vega-Lite specification.

    ``legend`` are the settings that it shows; without any its own legend is kept.
    """

    name: str
    title: str
    caption: str
    spec: dict[str, Any]
    legend: list[tuple[str, Look]] = field(default_factory=list)


@dataclass
class Section:
    """All there is on one (data set, model): charts, and a board per budget."""

    title: str
    anchor: str
    figures: list[Figure] = field(default_factory=list)
    boards: list[Board] = field(default_factory=list)
    views: list[BoardView] = field(default_factory=list)

    @property
    def found(self) -> list[tuple[str, Board, dict[int, str]]]:
        """Each board with its anchor and those of its rows."""
        both = zip(self.boards, self.views, strict=True)
        return [(made.anchor, board, anchors_by_row(board, made)) for board, made in both]


def section(
    pair: gather.Pair,
    cells: Sequence[Cell],
    records: Sequence[Record],
    labels: Mapping[str, str],
    known: Mapping[str, Look],
    question: Question,
) -> Section:
    """The section on one (data set, model).

    Args:
        pair: the two.
        cells: all rows, with names.
        records: all records in full.
        labels: names by key.
        known: the looks of names.
        question: what the boards are asked for.
    """
    stem = gather.stem(pair)
    made = Section(" · ".join(pair), f"task-{stem}")
    taken: Counter[str] = Counter()
    every = [cell for cell in cells if (cell["dataset"], cell["model"]) == pair]
    made.boards = boards(every, question)
    made.views = [view(board, anchor_of(board, taken)) for board in made.boards]
    done = of_one_machine(gather.of_pair(cells, pair))
    if not done:
        return made
    title = gather.quantity(done)[2]
    keys = {cell["key"]: cell for cell in done}
    for unit, own in gather.by_unit(done):
        ending = "" if unit == "node" else f"_{unit}"
        some = [record for record in records if record.key in {cell["key"] for cell in own}]
        made.figures += _of_unit(own, some, labels, known, (stem, ending, gather.UNITS[unit], title))
    points = gather.heat(done)
    if points:
        caption = "Mean over seeds, for the selections that were run with two compensations or more."
        spec = charts.heat(points, title)
        made.figures.append(Figure(f"selection_x_compensation_{stem}", "Which part matters", caption, spec))
    training, _ = gather.curves([record for record in records if record.key in keys], labels)
    if training:
        spec = charts.curves(training, known, title.replace("test", "validation"))
        caption = "On the validation split; band: one standard deviation over seeds."
        legend = _legend(training, known)
        made.figures.append(Figure(f"training_{stem}", "Training of the dense network", caption, spec, legend))
    return made


def _of_unit(
    done: Sequence[Cell],
    records: Sequence[Record],
    labels: Mapping[str, str],
    known: Mapping[str, Look],
    named: tuple[str, str, str, str],
) -> list[Figure]:
    """The charts of the methods that remove nodes, or of those that mask weights."""
    stem, ending, kind, title = named
    figures = []
    names, others = gather.shown(done)
    drawn = [cell for cell in done if cell["name"] in names]
    own = [record for record in records if labels.get(record.key) in names]
    for ratio, words in gather.ratios(drawn).items():
        points = gather.trade_off(drawn, ratio)
        if points:
            measured = ratio.startswith("latency")
            spec = charts.trade_off(points, known, words, title, gather.dense_level(done), band=not measured)
            around = "Bars" if measured else "Bands"
            caption = (
                f"{around}: one standard deviation over seeds. Level line: the dense network; dotted: Pareto front. "
            )
            cut = "The axis leaves out the lowest tenth until the slider is moved down. " if "%" in title else ""
            short = words.partition(" (")[0]
            head = f"{title.partition(' (')[0].capitalize()} against {short}, {kind}"
            legend = _legend(points, known)
            figures.append(Figure(f"trade_off_{stem}_{ratio}{ending}", head, caption + cut + others, spec, legend))
    if points := gather.widths(own, labels):
        head, caption = f"What each layer keeps, {kind}", f"Mean over seeds. {others}"
        spec = charts.widths(points, known)
        figures.append(Figure(f"widths_{stem}{ending}", head, caption, spec, _legend(points, known)))
    _, tuning = gather.curves(own, labels)
    if tuning:
        spec = charts.curves(tuning, known, title.replace("test", "validation"))
        head, caption = f"Fine-tuning after pruning, {kind}", f"On the validation split. {others}"
        figures.append(Figure(f"curves_{stem}{ending}", head, caption, spec, _legend(tuning, known)))
    return figures


def _legend(points: Sequence[gather.Point], known: Mapping[str, Look]) -> list[tuple[str, Look]]:
    names = sorted({point["method"] for point in points})
    return [(name, known.get(name) or charts.look(name)) for name in names]


def theory_figures(points: Sequence[Any]) -> list[Figure]:
    """One figure for each theory, unit and scope of which there are enough points (:class:`theory.Point`)."""
    figures = []
    for name, unit, scope in sorted({(point.theory, point.unit or "its own unit", point.scope) for point in points}):
        own = [p for p in points if (p.theory, p.unit or "its own unit", p.scope) == (name, unit, scope)]
        every = [_dot(point) for point in own if point.predicted > 0 and point.measured > 0]
        rows = every[:: -(-len(every) // MOST_DOTS) or 1]
        if len(rows) >= FEWEST_PREDICTIONS:
            subject = "of each layer" if scope == "layer" else "of the network"
            caption = f"Predicted against measured, {subject}. {len(every)} of {len(own)} points are positive"
            caption += f"; {len(rows)} are drawn." if len(rows) < len(every) else "."
            spec = charts.predictions(rows, name, unit)
            figures.append(Figure(safe_name(f"predicted_{scope}_{name}_{unit}"), f"{name} ({unit})", caption, spec))
    names = Counter(figure.name for figure in figures)
    for number, figure in enumerate(figures):
        if names[figure.name] > 1:  # names that differ only where they were cut, or in what files cannot be called
            figures[number] = replace(figure, name=f"{figure.name[:72]}_{number:03}")
    return figures


def _dot(point: Any) -> dict[str, Any]:
    names = ("outcome", "layer", "dataset", "model", "method", "budget", "seed")
    return {
        **{name: getattr(point, name) for name in names},
        "predicted": float(f"{point.predicted:.4g}"),
        "measured": float(f"{point.measured:.4g}"),
    }
