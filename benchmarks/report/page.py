"""The pages, all self-contained: the report with its boards, and one each for the theories, the methods and the papers.

The library that draws the charts and the specifications of all charts of a page lie in it, compressed.
"""

import base64
import gzip
import json
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.boards import checklist, overall
from benchmarks.boards.board import Question
from benchmarks.boards.frame import Row as Cell
from benchmarks.boards.layout import RULE
from benchmarks.boards.naming import task_of, with_names
from benchmarks.boards.tables import Table
from benchmarks.figures.looks import PATHS, Look, look
from benchmarks.records.schema import Record
from benchmarks.records.store import Problem
from benchmarks.report import answers, charts, gather
from benchmarks.report.board_view import common_notes
from benchmarks.report.methods import methods
from benchmarks.report.sections import Figure, Section, section, theory_figures
from benchmarks.reproductions import published
from benchmarks.storage.paths import remove_temporaries, safe_name, write_atomically
from methods.progress import track

HERE = Path(__file__).parent
SEEN = {True: "yes", False: "no", None: "undecided"}
TITLE = "Secateurs: pruning methods compared"
LETTERS = 66  # of a line of a chart's title in a file


@dataclass
class Ranking:
    """A comparison over networks: its table, and its diagram for the page and as a file."""

    name: str
    table: Table
    svg: str
    png: bytes


@dataclass
class Report:
    """Everything on the pages."""

    summary: list[tuple[str, str]]
    picks: list[answers.Pick]
    faster: answers.Faster
    trust: answers.Trust
    sections: list[Section]
    notes: list[str]
    theory_figures: list[Figure]
    theory_tables: list[Table]
    rankings: list[Ranking]
    checklist: Table
    methods: list[Any]
    problems: list[str]
    reproductions: list[Table]
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
    known = charts.looks(labels.values())
    question = Question(baseline=baseline)
    from benchmarks.boards import theory

    pairs, found = gather.pairs(cells), theory.points(records)
    steps: list[Callable[[], Any]] = [
        *(partial(section, pair, cells, records, labels, known, question) for pair in pairs),
        lambda: theory_figures(found),
        lambda: theory.tables(found),
        lambda: _rankings(overall.comparisons(cells, question)),
        lambda: checklist.table_of(checklist.examine(cells)),
    ]
    made = [step() for step in track(steps, "drawing the parts of the page")]
    sections: list[Section] = made[: len(pairs)]
    figures, tables, rankings, examined = made[len(pairs) :]
    boards = [board for each in sections for board in each.boards]
    return Report(
        summary=_summary(cells, count),
        picks=answers.picks([found for each in sections for found in each.found]),
        faster=answers.faster(boards, cells),
        trust=answers.trust(boards, cells),
        sections=sections,
        notes=common_notes([view for each in sections for view in each.views]),
        theory_figures=figures,
        theory_tables=tables,
        rankings=rankings,
        checklist=examined,
        methods=methods(cells, boards),
        problems=[str(problem) for problem in problems],
        reproductions=reproductions(results / "reproductions") if results else [],
        published=_published(results / "published") if results else None,
    )


def _rankings(found: Sequence[overall.Overall]) -> list[Ranking]:
    return [
        Ranking(
            f"mean_ranks_{each.name}".rstrip("_"),
            overall.table_of(each),
            _inline_svg(overall.diagram(each).decode(), f"{each.name or 'all'}: mean ranks over networks"),
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
            f"{len(cells)} ({committed} reviewed, {len(cells) - committed} of this machine's own runs){again}",
        ),
        ("done", f"{done}; {len(cells) - done} failed, collapsed or skipped"),
        ("tasks", f"{len({task_of(cell) for cell in cells})} (data set × network × budget)"),
        ("methods", f"{len({cell['method'] for cell in cells})}, in {len({cell['name'] for cell in cells})} settings"),
        ("seeds", ", ".join(map(str, sorted({cell["seed"] for cell in cells})))),
        ("numbers", f"{RULE}; mean ± sample standard deviation over seeds"),
    ]


def _inline_svg(text: str, label: str) -> str:
    """The SVG element alone, in the colours of the page."""
    element = text[text.index("<svg") :]
    for ink in ("#000000", "black"):
        element = element.replace(ink, "currentColor")
    return element.replace("<svg", f'<svg role="img" aria-label="{label}" fill="currentColor"', 1)


@cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that defines ``vegaEmbed``."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


@cache
def _packed_library() -> str:
    return packed(library())


def packed(text: str) -> str:
    """``text`` as gzip in base 64, which the page's script unpacks; the same text gives the same bytes."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def html(report: Report, mark: str = "", title: str = TITLE) -> dict[str, str]:
    """The pages as HTML files by name; ``mark`` says which records they were made from."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"look": look, "outline": PATHS, "units": gather.UNITS, "slug": safe_name}
    style, script = ((HERE / f"page.{ending}").read_text(encoding="utf-8") for ending in ("css", "js"))
    drawn = {
        "report": [figure for section in report.sections for figure in section.figures],
        "theory": report.theory_figures,
        "methods": [],
        "papers": [],
    }
    return {
        f"{name}.html": environment.get_template(f"{name}.html.j2").render(
            report=report,
            title=title,
            mark=mark,
            style=style,
            script=script,
            library=_packed_library() if figures else "",
            specs=packed(_json({figure.name: figure.spec for figure in figures})) if figures else "",
        )
        for name, figures in drawn.items()
    }


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def save_figures(report: Report, folder: Path) -> list[Path]:
    """Every chart as SVG and PNG, for papers; returns the files."""
    import vl_convert

    folder.mkdir(parents=True, exist_ok=True)
    remove_temporaries(folder)
    written = []
    for figure in track(report.figures, "drawing figures"):
        heading = {"text": textwrap.wrap(figure.title, LETTERS), "anchor": "start", "fontSize": 14, "color": "#222222"}
        spec = {**figure.spec, "background": "white", "width": 560, "title": heading}
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
    """Renumber gradients and clips from 0, since Vega numbers them across all charts of a process."""
    names: dict[str, str] = {}

    def renamed(found: re.Match[str]) -> str:
        return names.setdefault(found[0], f"{found[1]}{len(names)}")

    return re.sub(r"\b(gradient_|clip)\d+\b", renamed, svg)


def _black(spec: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(spec).replace("currentColor", "#222222"))


__all__ = ["Figure", "Look", "Report", "html", "library", "make", "packed", "save_figures", "theory_figures"]
