"""The page: sections, charts, tables and the library that draws them, in one file that loads nothing."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.boards import checklist, overall
from benchmarks.boards.board import Question, boards
from benchmarks.boards.frame import Row as Cell
from benchmarks.boards.latencies import of_one_machine
from benchmarks.boards.layout import RULE, table_of
from benchmarks.boards.naming import task_of, with_names
from benchmarks.boards.tables import Table
from benchmarks.records.record import Record
from benchmarks.records.store import Problem
from benchmarks.report import charts, gather
from benchmarks.report.methods import methods
from benchmarks.reproductions import published
from benchmarks.storage.paths import safe_name, sweep_up_temporaries, write_atomically
from methods.progress import track

HERE = Path(__file__).parent
FEWEST_PREDICTIONS = 3
MOST_DOTS = 1200  # of one chart
SEEN = {True: "yes", False: "no", None: "undecided"}


@dataclass
class Figure:
    """One chart: a name fit for a file, a caption, and its Vega-Lite specification."""

    name: str
    caption: str
    spec: dict[str, Any]


@dataclass
class Ranking:
    """A comparison over networks: its table, and its diagram for the page and as a file."""

    name: str
    table: Table
    svg: str
    png: bytes


@dataclass
class Section:
    """All there is on one (data set, model): charts, and a table per budget."""

    title: str
    anchor: str
    figures: list[Figure] = field(default_factory=list)
    tables: list[tuple[str, Table]] = field(default_factory=list)


@dataclass
class Report:
    """Everything on the page."""

    summary: list[tuple[str, str]]
    sections: list[Section]
    theory_figures: list[Figure]
    theory_tables: list[Table]
    rankings: list[Ranking]
    checklist: Table
    methods: list[Any]
    problems: list[str]
    reproductions: list[Table] = field(default_factory=list)
    published: Table | None = None

    @property
    def figures(self) -> list[Figure]:
        """All charts."""
        return [figure for section in self.sections for figure in section.figures] + self.theory_figures


def make(
    cells: Sequence[Cell],
    records: Sequence[Record],
    problems: Sequence[Problem] = (),
    baseline: str | None = None,
    results: Path | None = None,
) -> Report:
    """The report on ``cells``; ``records`` are the same cells in full.

    Args:
        cells: the records as rows.
        records: the same in full.
        problems: files that could not be used.
        baseline: the method that the others are compared with.
        results: where published numbers and reproductions lie; without it the page has none.
    """
    count = len(cells)
    cells = with_names(cells)
    labels = {cell["key"]: cell["name"] for cell in cells}
    looks = charts.Looks(sorted(set(labels.values())))
    question = Question(baseline=baseline)
    from benchmarks.boards import theory

    pairs, found = gather.pairs(cells), theory.points(records)
    steps: list[Callable[[], Any]] = [
        *(partial(_section, pair, cells, records, labels, looks, question) for pair in pairs),
        lambda: theory_figures(found),
        lambda: theory.tables(found),
        lambda: _rankings(overall.comparisons(cells, question)),
        lambda: checklist.table_of(checklist.examine(cells)),
        lambda: methods(cells),
    ]
    made = [step() for step in track(steps, "drawing the parts of the page")]
    figures, tables, rankings, examined, listed = made[len(pairs) :]
    return Report(
        summary=_summary(cells, count),
        sections=made[: len(pairs)],
        theory_figures=figures,
        theory_tables=tables,
        rankings=rankings,
        checklist=examined,
        methods=listed,
        problems=[str(problem) for problem in problems],
        reproductions=reproductions(results / "reproductions") if results else [],
        published=_published(results / "published") if results else None,
    )


def _rankings(found: Sequence[overall.Overall]) -> list[Ranking]:
    return [
        Ranking(
            f"mean_ranks_{each.name}".rstrip("_"),
            overall.table_of(each),
            _inline_svg(overall.diagram(each).decode()),
            overall.diagram(each, "png"),
        )
        for each in found
    ]


def reproductions(folder: Path) -> list[Table]:
    """What each reproduction that has been run has seen of its paper's claims."""
    tables = []
    for path in sorted(folder.glob("*/outcome.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            claims = [(str(c["text"]), SEEN[c["seen"]], str(c["evidence"])) for c in content["claims"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        columns = ["claim", "seen here", "evidence"]
        notes = [str(content.get("setting") or ""), f"python -m benchmarks.reproduce {path.parent.name}"]
        tables.append(
            Table(path.parent.name, columns, [list(c) for c in claims], set(columns), [n for n in notes if n])
        )
    return tables


def _published(folder: Path) -> Table | None:
    numbers = published.load(folder)
    return published.table_of(numbers) if numbers else None


def _summary(cells: Sequence[Cell], records: int) -> list[tuple[str, str]]:
    """What there is, from the rows that are shown and the number of records that they were made from."""
    again = f"; of {records}, since what was measured again counts once" if records > len(cells) else ""
    done = sum(cell["status"] == "done" for cell in cells)
    committed = sum(bool(cell.get("_committed")) for cell in cells)
    return [
        (
            "records",
            f"{len(cells)} ({committed} committed, {len(cells) - committed} of this machine's own runs){again}",
        ),
        ("done", f"{done}; {len(cells) - done} failed, collapsed or skipped"),
        ("tasks", f"{len({task_of(cell) for cell in cells})} (data set × model × budget)"),
        ("methods", f"{len({cell['method'] for cell in cells})}, in {len({cell['name'] for cell in cells})} settings"),
        ("seeds", ", ".join(map(str, sorted({cell["seed"] for cell in cells})))),
        ("numbers", f"{RULE}; mean ± sample standard deviation over seeds"),
        ("checklist", checklist.line(checklist.examine(cells)).removeprefix("checklist: ")),
    ]


def _section(
    pair: gather.Pair,
    cells: Sequence[Cell],
    records: Sequence[Record],
    labels: dict[str, str],
    looks: charts.Looks,
    question: Question,
) -> Section:
    stem = gather.stem(pair)
    section = Section(" · ".join(pair), f"task-{stem}")
    done = of_one_machine(gather.of_pair(cells, pair))
    keys = {cell["key"] for cell in done}
    own = [record for record in records if record.key in keys]
    if done:
        title = gather.quantity(done)[2]
        names, others = gather.shown(done)
        drawn = [cell for cell in done if cell["name"] in names]
        own = [record for record in own if labels.get(record.key) in names]
        for ratio, words in gather.ratios(drawn).items():
            points = gather.trade_off(drawn, ratio)
            if points:
                measured = ratio.startswith("latency")
                spec = charts.trade_off(points, looks, words, title, gather.dense_level(done), band=not measured)
                how = ", dense / pruned time" if measured else ""
                around = "bars" if measured else "bands"
                caption = f"Trade-off: {title} against {words}{how}; {around}: one standard deviation over seeds. "
                caption += "Level line: the dense network; dotted: Pareto front. "
                cut = "The axis leaves out the lowest tenth until the slider is moved down. " if "%" in title else ""
                caption += cut + others
                section.figures.append(Figure(f"trade_off_{stem}_{ratio}", caption, spec))
        points = gather.heat(done)
        if points:
            caption = "Which part matters: selection × compensation, mean over seeds."
            section.figures.append(Figure(f"selection_x_compensation_{stem}", caption, charts.heat(points, title)))
        points = gather.widths(own, labels)
        if points:
            section.figures.append(
                Figure(f"widths_{stem}", f"What each layer keeps. {others}", charts.widths(points, looks))
            )
        training, tuning = gather.curves(own, labels)
        for name, points, caption in (
            ("training", training, "Training of the dense network, on the validation split. "),
            ("curves", tuning, f"Fine-tuning after pruning, on the validation split. {others}"),
        ):
            if points:
                spec = charts.curves(points, looks, title.replace("test", "validation"))
                section.figures.append(Figure(f"{name}_{stem}", caption, spec))
    every = [cell for cell in cells if (cell["dataset"], cell["model"]) == pair]
    for board in boards(every, question):
        section.tables.append((gather.budget_name(board.group["budget"], board.group["value"]), table_of(board)))
    return section


def theory_figures(points: Sequence[Any]) -> list[Figure]:
    """One figure for each theory, unit and scope of which there are enough points (:class:`theory.Point`)."""
    figures = []
    for name, unit, scope in sorted({(point.theory, point.unit or "its own unit", point.scope) for point in points}):
        own = [p for p in points if (p.theory, p.unit or "its own unit", p.scope) == (name, unit, scope)]
        every = [_dot(point) for point in own if point.predicted > 0 and point.measured > 0]
        rows = every[:: -(-len(every) // MOST_DOTS) or 1]
        if len(rows) >= FEWEST_PREDICTIONS:
            subject = "of each layer" if scope == "layer" else "of the network"
            caption = f"{name}, {subject}: predicted against measured. {len(every)} of {len(own)} points are positive"
            caption += f"; {len(rows)} are drawn." if len(rows) < len(every) else "."
            spec = charts.predictions(rows, name, unit)
            figures.append(Figure(safe_name(f"predicted_{scope}_{name}_{unit}"), caption, spec))
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


def _inline_svg(text: str) -> str:
    """The SVG element alone, in the colours of the page."""
    element = text[text.index("<svg") :]
    for ink in ("#000000", "black"):
        element = element.replace(ink, "currentColor")
    return element.replace("<svg", '<svg role="img" aria-label="mean ranks" fill="currentColor"', 1)


@cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that defines ``vegaEmbed``."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def html(report: Report, mark: str = "", title: str = "Secateurs: pruning methods compared") -> str:
    """The page as one HTML file; ``mark`` says which records it was made from."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["spec"] = _script_json
    return environment.get_template("page.html.j2").render(
        report=report,
        title=title,
        mark=mark,
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
        library=library() if report.figures else "",
    )


def _script_json(spec: dict[str, Any]) -> str:
    """JSON that cannot leave its script element."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def save_figures(report: Report, folder: Path) -> list[Path]:
    """Every chart as SVG and PNG, for papers; returns the files."""
    import vl_convert

    folder.mkdir(parents=True, exist_ok=True)
    sweep_up_temporaries(folder)
    written = []
    for figure in track(report.figures, "drawing figures"):
        spec = {**figure.spec, "background": "white", "width": 560}
        for ending, content in (
            ("svg", _numbered_afresh(vl_convert.vegalite_to_svg(_black(spec))).encode()),
            ("png", vl_convert.vegalite_to_png(_black(spec), scale=2)),
        ):
            written.append(folder / f"{figure.name}.{ending}")
            write_atomically(written[-1], content)
    for ranking in report.rankings:
        svg = ranking.svg.replace("currentColor", "#000000")
        for ending, content in (("svg", svg.encode()), ("png", ranking.png)):
            written.append(folder / f"{ranking.name}.{ending}")
            write_atomically(written[-1], content)
    return written


def _numbered_afresh(svg: str) -> str:
    """Gradients and clips counted from 0: Vega goes on counting over all charts of a process."""
    names: dict[str, str] = {}

    def renamed(found: re.Match[str]) -> str:
        return names.setdefault(found[0], f"{found[1]}{len(names)}")

    return re.sub(r"\b(gradient_|clip)\d+\b", renamed, svg)


def _black(spec: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(spec).replace("currentColor", "#222222"))
