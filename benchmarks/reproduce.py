"""Reproduce a published table or figure: ``python -m benchmarks.reproduce NAME``; without a name, list them all."""

from __future__ import annotations

import argparse
import csv
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.boards.stats import Spread
from benchmarks.boards.tables import NONE, Table
from benchmarks.figures.files import FORMS
from benchmarks.figures.sheet import RuleBroken
from benchmarks.reproductions import NotStored, Outcome, Workplace, module_of, names, stored, summary
from benchmarks.reproductions.published import TOLERANCE, agrees
from benchmarks.storage.console import output_console
from benchmarks.storage.entry_point import Parser, end
from benchmarks.storage.paths import write_atomically
from methods.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

PAGE = "README.md"
NOISE = 1e-12  # relative to the largest number of a column: what is smaller is the rounding of a zero
TITLE = re.compile(r"<dc:title>(.*?)</dc:title>", re.DOTALL)
MARKS = {True: "seen", False: "not seen", None: "undecided"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.reproduce``."""
    parser = Parser(prog="python -m benchmarks.reproduce", description=__doc__)
    parser.add_argument("name", nargs="*", help="what to reproduce; nothing lists all, with their state")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="folder of the caches (.cache)")
    parser.add_argument(
        "--quick", action="store_true", help="a small version, to try out; nothing is stored in results/"
    )
    parser.add_argument(
        "--page", action="store_true", help="run nothing, only write the page (or all pages) again from stored results"
    )
    parser.add_argument("--draw", action="store_true", help="the same, and draw its figures again")
    options = parser.parse_args(arguments)
    console = output_console()
    again = options.page or options.draw
    if not options.name and not again:
        return _list(console, options.results)
    done = [name for name in names() if (options.results / "reproductions" / name / stored.OUTCOME).is_file()]
    chosen = options.name or done
    for name in chosen:
        if name not in names():
            raise BadInput(f"unknown reproduction '{name}'; choose from {', '.join(names())}")
    if again and options.quick:
        raise BadInput("--page and --draw are about stored results, and --quick stores none; leave out one of them")
    missing = 0
    for name in chosen:
        if again:
            missing += not _again(options.results / "reproductions" / name, options.draw, console)
        else:
            missing += not _run(name, options, console)
    return 1 if missing else 0


def _again(folder: Path, draw: bool, console: Console) -> bool:
    """Whether the page, and the figures before it, could be made from what is stored."""
    if draw and not _drawn(folder, console):
        return False
    write_atomically(folder / PAGE, stored_page(folder))
    console.print(f"written: {folder / PAGE}", markup=False)
    return True


def _drawn(folder: Path, console: Console) -> bool:
    """Draw the figures from what is stored; return whether that was possible, and print why if it was not."""
    try:
        for path in stored.draw(folder):
            console.print(f"drawn: {path}", markup=False)
    except NotStored as problem:
        remedy = f"Run it again: python -m benchmarks.reproduce {folder.name}"
        console.print(f"cannot be drawn: {folder.name}: {problem}. {remedy}", markup=False)
        return False
    except RuleBroken as problem:
        console.print(f"cannot be drawn: {folder.name}: {problem}. Its numbers are in {folder}", markup=False)
        return False
    return True


def _run(name: str, options: argparse.Namespace, console: Console) -> bool:
    """Run it and write its page; return whether its figures could be drawn, too."""
    root = options.cache / "quick" if options.quick else options.results
    work = Workplace(root / "reproductions" / name, root, options.cache, options.quick)
    work.folder.mkdir(parents=True, exist_ok=True)
    module = module_of(name)
    console.print(f"{name}: {summary(module)}", highlight=False)
    stored.write(module.run(work), work.folder)
    drawn = _drawn(work.folder, console)
    if not drawn:  # figures of earlier numbers would be mixed with these
        stored.remove_figures(work.folder)
    text = stored_page(work.folder)
    write_atomically(work.folder / PAGE, text)
    console.print(text, markup=False, highlight=False)
    console.print(f"stored in {work.folder}", highlight=False)
    return drawn


def stored_page(folder: Path) -> str:
    """The page of a reproduction from its stored outcome, table and figures.

    Raises:
        BadInput: it has not been run, or its files are damaged.
    """
    module = module_of(folder.name)
    outcome = stored.read(folder)
    drawn = sorted(path for path in folder.iterdir() if path.suffix.removeprefix(".") in FORMS)
    figures = [path for path in drawn if path.suffix == ".svg" or path.with_suffix(".svg") not in drawn]
    short = in_short(outcome, agreement(folder / stored.TABLE))
    brief = module.brief(outcome) if hasattr(module, "brief") else None
    return document(folder.name, module.PAPER, summary(module), outcome, figures, short, brief)


def document(
    name: str,
    paper: str,
    what: str,
    outcome: Outcome,
    figures: Sequence[Path] = (),
    short: str = "",
    brief: tuple[str, pd.DataFrame] | None = None,
) -> str:
    """The reproduction as a Markdown page: claims, figures, and the whole table.

    Args:
        name: the name of the reproduction.
        paper: the paper that it is about.
        what: what it reproduces, in a line.
        outcome: what was found.
        figures: files beside the page.
        short: what agrees and what does not, in a sentence.
        brief: a sentence and a short table of numbers that a figure would not show better.
    """
    lines = [f"# {name}", "", what, "", f"Paper: {paper}", "", f"Command: `python -m benchmarks.reproduce {name}`", ""]
    lines += [text for part in (short, outcome.setting) if part for text in (part, "")]
    if outcome.claims:
        lines += ["| claim | seen here | evidence |", "|---|---|---|"]
        lines += [f"| {claim.text} | {MARKS[claim.seen]} | {claim.evidence} |" for claim in outcome.claims]
        lines.append("")
    for figure in figures:
        lines += [f"![{title_of(figure)}]({figure.name})", ""]
    if brief is not None:
        lines += [brief[0], "", _markdown(brief[1]), ""]
    return "\n".join([*lines, _markdown(outcome.table)]) + "\n"


def in_short(outcome: Outcome, agreed: str) -> str:
    """How many claims were seen and how many published numbers agree, in a sentence."""
    counts = [sum(claim.seen is mark for claim in outcome.claims) for mark in MARKS]
    numbers = "no published number may be compared" if agreed == "none to compare" else f"published numbers: {agreed}"
    if not outcome.claims:
        return f"In short: {numbers}."
    words = ", ".join(f"{count} {word}" for count, word in zip(counts, MARKS.values(), strict=True))
    return f"In short: of {len(outcome.claims)} claims {words}; {numbers}."


def title_of(figure: Path) -> str:
    """The title in a figure's file, for readers who do not see it; its name where it has none."""
    found = TITLE.search(figure.read_text(encoding="utf-8")) if figure.suffix == ".svg" else None
    return html.unescape(found.group(1)) if found else figure.stem


def _markdown(table: pd.DataFrame) -> str:
    """The table as Markdown, without columns that say nothing."""
    shown = table.apply(_written)
    shown = shown.loc[:, [bool((shown[name] != "").any()) for name in shown.columns]]
    head = "| " + " | ".join(map(str, shown.columns)) + " |"
    rows = ["| " + " | ".join(row) + " |" for row in shown.itertuples(index=False, name=None)]
    return "\n".join([head, "|" + "---|" * len(shown.columns), *rows])


def _written(column: pd.Series) -> pd.Series:
    """The column as texts for people."""
    import pandas as pd

    def text(value: object) -> str:
        if value is None or value is pd.NA or value != value:
            return ""
        if pd.api.types.is_bool(value):
            return "yes" if value else "no"
        if not isinstance(value, float):
            return str(value)
        return "≈ 0" if 0 < abs(value) < NOISE * largest else f"{value:.4g}"

    numbers = pd.to_numeric(column, errors="coerce").abs()
    largest = float(numbers.max()) if numbers.notna().any() else 0.0
    return column.map(text)


def _list(console: Console, results: Path) -> int:
    rows = []
    for name in names():
        folder, what = results / "reproductions" / name, summary(module_of(name)).partition(":")[0]
        try:
            claims = [
                claim["seen"] for claim in json.loads((folder / stored.OUTCOME).read_text(encoding="utf-8"))["claims"]
            ]
            seen = " / ".join(str(claims.count(mark)) for mark in MARKS)
            rows.append([name, agreement(folder / "table.csv"), seen, what])
        except (OSError, ValueError, KeyError):
            rows.append([name, "not run", NONE, what])
    notes = [
        f"published numbers agree within {TOLERANCE:.0%} of the published value, or two standard errors of our mean; "
        "those from memory are not compared",
        "the tables, published | ours ± std | difference, are in results/reproductions/NAME/README.md",
    ]
    columns = ["reproduction", "published numbers", f"claims {' / '.join(MARKS.values())}", "what"]
    Table("Reproductions", columns, rows, set(columns), notes).show(console)
    return 0


def agreement(path: Path) -> str:
    """How many of the published numbers in the table ``path`` ours agree with, in words."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("published") and row.get("certainty") != "memory"]
    within = [agrees(float(row["published"]), _ours(row)) for row in rows if row["ours"]]
    if not within:
        return "none to compare"
    return (
        f"reproduced within tolerance: all {len(within)}"
        if all(within)
        else f"differs: {sum(within)} of {len(within)} agree"
    )


def _ours(row: Mapping[str, str]) -> Spread:
    std = float(row["std"]) if row["std"] else None
    return Spread(int(float(row["n"])), float(row["ours"]), std)


if __name__ == "__main__":
    end(main)
