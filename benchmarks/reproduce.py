"""Reproduce a published table or figure: ``python -m benchmarks.reproduce NAME``; without a name, list them all."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.command import end
from benchmarks.fingerprint import fingerprint
from benchmarks.paths import write_atomically
from benchmarks.reproductions import Outcome, Workplace, module_of, names, summary
from benchmarks.tables import output_console
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


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def _list(console: Console, results: Path) -> int:
    for name in names():
        try:
            content = json.loads((results / "reproductions" / name / OUTCOME).read_text())
            states = [claim["seen"] for claim in content["claims"]]
            state = f"run: {states.count(True)} claims seen, {states.count(False)} not, {states.count(None)} undecided"
        except (OSError, ValueError, KeyError):
            state = "not run"
        console.print(f"{name:<26}{state:<52}{summary(module_of(name))}", markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    end(main)
