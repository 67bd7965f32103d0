"""Measure how fast the suite itself is: every claim is timed side by side with its reference, in one run.

    python -m benchmarks.speed                  all claims, a few minutes on an otherwise idle machine
    python -m benchmarks.speed epoch kfac       only these
    python -m benchmarks.speed --quick          small sizes: does everything run, do the results agree
    python -m benchmarks.speed --save           also write results/speed.json and results/speed.md

A ratio is ours / theirs, the median over pairs that ran one right after the other. With SECATEURS_DATA=FOLDER training
is timed on real images; without it on random ones of the same shape, and a note says so.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from benchmarks import speeds
from benchmarks.boards.tables import Table
from benchmarks.measure.lock import one_at_a_time
from benchmarks.measure.side_by_side import Finding, as_ratio, as_seconds
from benchmarks.storage.console import output_console
from benchmarks.storage.entry_point import Parser, end
from benchmarks.storage.paths import write_atomically
from methods.errors import BadInput

Measure = Callable[[bool], Iterator[Finding]]
COLUMNS = ["what", "ours", "compared with", "theirs", "ratio", "promise", "holds?", "same result?"]
WORDS = {"what", "compared with", "promise", "holds?", "same result?"}
YES_NO = {True: "yes", False: "NO", None: "–"}


def claims() -> list[str]:
    """Names of all claims: the modules of ``benchmarks.speeds``."""
    return sorted(module.name for module in iter_modules(speeds.__path__) if not module.name.startswith("_"))


def measure(name: str, quick: bool) -> Iterator[Finding]:
    """The findings of one claim, as they are measured."""
    yield from import_module(f"{speeds.__name__}.{name}").measure(quick)


def table(findings: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Findings (as plain values) as a table of text."""
    rows = []
    for row in findings:
        times = row["times"]
        ratio = as_ratio(times["ratio"])
        if times["ratio"] is not None and times["pairs"] > 2:
            ratio += f" [{as_ratio(times['low'])}, {as_ratio(times['high'])}]"
        rows.append(
            [
                row["what"],
                as_seconds(times["ours"]),
                row["against"],
                as_seconds(times["theirs"]),
                ratio,
                row["promise"] or "–",
                YES_NO[row["holds"]],
                YES_NO[row["agree"]],
            ]
        )
    notes = [f"{row['what']}: {row['note']}." for row in findings if row["note"]]
    return Table(title, COLUMNS, rows, left=WORDS, notes=list(dict.fromkeys(notes)))


def run(names: Sequence[str], quick: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure the named claims; for each its findings as plain values, the machine, and how busy that was before."""
    from benchmarks.records.fingerprint import fingerprint

    console = output_console(stderr=True)
    for number, name in enumerate(names, 1):
        console.print(f"({number}/{len(names)}) {name} ...", markup=False)
        busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        rows = []
        with one_at_a_time() as undisturbed:
            for finding in measure(name, quick):
                rows.append(finding.plain())
                ratio = f", ratio {as_ratio(finding.times.ratio)}" if finding.times.ratio is not None else ""
                console.print(f"    {finding.what}: {as_seconds(finding.times.ours)}{ratio}", markup=False)
        yield name, {"findings": rows, "fingerprint": fingerprint(), "load": busy, "undisturbed": undisturbed}


def save(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``speed.json`` and ``speed.md``; claims that were not measured this time keep their earlier figures."""
    source = folder / "speed.json"
    earlier: dict[str, Any] = {}
    if source.exists():
        try:
            earlier = {name: entry for name, entry in json.loads(source.read_text()).items() if name in claims()}
        except (ValueError, AttributeError) as error:
            raise BadInput(f"{source} is not a table of speeds ({error}); move it away or choose --results") from None
    every = dict(sorted((earlier | dict(results)).items()))
    write_atomically(source, json.dumps(every, indent=1, ensure_ascii=False) + "\n")
    page = folder / "speed.md"
    write_atomically(page, markdown(every))
    return [source, page]


def markdown(results: Mapping[str, Any]) -> str:
    """One table of everything, and the machines it was measured on."""
    rows = [row for entry in results.values() for row in entry["findings"]]
    machines: dict[str, list[str]] = {}
    for name, entry in results.items():
        mark = entry["fingerprint"]
        busy = "unknown" if entry["load"] is None else f"{entry['load']:.1f}"
        text = f"{mark['cpu']}, {mark['threads']} threads, torch {mark['torch']}, load before {busy}"
        machines.setdefault(text, []).append(name)
    notes = ["Command: `python -m benchmarks.speed --save`; claims can be named one by one."]
    notes += ["A ratio is ours / theirs: the median over pairs run in turn in one process, with a 95 % interval."]
    notes += [f"{', '.join(names)}: {text}." for text, names in machines.items()]
    text = table(rows, "Speed").markdown()
    return f"{text}\n" + "".join(f"- {note}\n" for note in notes)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.speed``; exit code 1 only where results differ, never for a time."""
    parser = Parser(
        prog="python -m benchmarks.speed", description="Measure the suite's own speed side by side with alternatives."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"claims, of: {', '.join(claims())}; all unless given")
    parser.add_argument("--quick", action="store_true", help="small sizes, no promises")
    parser.add_argument("--save", action="store_true", help="write speed.json and speed.md into the results folder")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the results folder (results)")
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.names if name not in claims()]
    if unknown:
        raise BadInput(f"unknown claim '{unknown[0]}'; choose from {', '.join(claims())}")
    if chosen.quick and chosen.save:
        raise BadInput("--quick measures small sizes, which are no results to keep; leave out --quick or --save")
    results: dict[str, dict[str, Any]] = {}
    for name, entry in run(chosen.names or claims(), chosen.quick):
        results[name] = entry
        written = save(results, chosen.results) if chosen.save else []  # at once, lest an interruption loses minutes
    console = output_console()
    findings = [row for entry in results.values() for row in entry["findings"]]
    table(findings, "Speed, small sizes" if chosen.quick else "Speed").show(console)
    broken = [row["what"] for row in findings if row["holds"] is False]
    differing = [row["what"] for row in findings if row["agree"] is False]
    kept = sum(row["holds"] is True for row in findings)
    if not chosen.quick:
        console.print(f"{kept} of {kept + len(broken)} promises hold")
    if differing:
        console.print(f"results differ: {'; '.join(differing)}", markup=False)
    if chosen.save:
        console.print("wrote " + ", ".join(str(path) for path in written), markup=False)
    return 1 if differing else 0


if __name__ == "__main__":
    end(main)
