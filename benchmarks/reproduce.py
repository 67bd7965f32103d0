"""Reproduce a published table or figure: ``python -m benchmarks.reproduce NAME``; without a name, list them all."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.command import end
from benchmarks.fingerprint import fingerprint
from benchmarks.paths import write_atomically
from benchmarks.published import TOLERANCE, agrees
from benchmarks.reproductions import Outcome, Workplace, module_of, names, summary
from benchmarks.stats import Spread
from benchmarks.tables import NONE, Table, output_console
from methods.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

OUTCOME = "outcome.json"
MARKS = {True: "seen", False: "not seen", None: "undecided"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.reproduce``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduce", description=__doc__)
    parser.add_argument("name", nargs="*", help="what to reproduce; nothing lists all, with their state")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="folder of the caches (.cache)")
    parser.add_argument(
        "--quick", action="store_true", help="a small version, to try out; nothing is stored in results/"
    )
    given = parser.parse_args(arguments)
    console = output_console()
    if not given.name:
        return _list(console, given.results)
    for name in given.name:
        if name not in names():
            raise BadInput(f"unknown reproduction '{name}'; choose from {', '.join(names())}")
    for name in given.name:
        _run(name, given, console)
    return 0


def _run(name: str, given: argparse.Namespace, console: Console) -> None:
    root = given.cache / "quick" if given.quick else given.results
    work = Workplace(root / "reproductions" / name, root, given.cache, given.quick)
    work.folder.mkdir(parents=True, exist_ok=True)
    module = module_of(name)
    console.print(f"{name}: {summary(module)}", highlight=False)
    outcome: Outcome = module.run(work)
    text = document(name, module.PAPER, summary(module), outcome)
    outcome.table.to_csv(work.folder / "table.csv", index=False, float_format="%.6g")
    content = {
        "name": name,
        "claims": [asdict(claim) for claim in outcome.claims],
        "setting": outcome.setting,
        "fingerprint": fingerprint(),
    }
    write_atomically(work.folder / "README.md", text)
    write_atomically(work.folder / OUTCOME, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    console.print(text, markup=False, highlight=False)
    console.print(f"stored in {work.folder}", highlight=False)


def document(name: str, paper: str, what: str, outcome: Outcome) -> str:
    """The reproduction as a Markdown page."""
    lines = [f"# {name}", "", what, "", f"Paper: {paper}", "", f"Command: `python -m benchmarks.reproduce {name}`", ""]
    if outcome.setting:
        lines += [outcome.setting, ""]
    if outcome.claims:
        lines += ["| claim | seen here | evidence |", "|---|---|---|"]
        lines += [f"| {claim.text} | {MARKS[claim.seen]} | {claim.evidence} |" for claim in outcome.claims]
        lines.append("")
    lines += [_markdown(outcome.table), ""]
    lines += [f"![{figure.stem}]({figure.name})" for figure in outcome.figures if figure.suffix in (".svg", ".png")]
    return "\n".join(lines) + "\n"


def _markdown(table: pd.DataFrame) -> str:
    shown = table.map(
        lambda value: f"{value:.4g}" if isinstance(value, float) else ("" if value is None else str(value))
    )
    shown = shown.replace("nan", "")
    head = "| " + " | ".join(map(str, shown.columns)) + " |"
    rows = ["| " + " | ".join(row) + " |" for row in shown.itertuples(index=False, name=None)]
    return "\n".join([head, "|" + "---|" * len(shown.columns), *rows])


def _list(console: Console, results: Path) -> int:
    rows = []
    for name in names():
        folder, what = results / "reproductions" / name, summary(module_of(name)).partition(":")[0]
        try:
            claims = [claim["seen"] for claim in json.loads((folder / OUTCOME).read_text(encoding="utf-8"))["claims"]]
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
