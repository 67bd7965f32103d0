"""Upload finished results to W&B, once and in order, or turn a grid into a `wandb sweep` configuration.

    python -m benchmarks.track push                     upload cells that are not there yet
    python -m benchmarks.track push --offline           the same into a folder, for `wandb sync` on another machine
    python -m benchmarks.track sweep digits > sweep.yaml && wandb sweep sweep.yaml

A run's id is its cell's key, and its summary names the checksum of the record that it shows. So pushing again uploads
only what is new or changed, from whatever machine, and a cell that was tracked while it ran is not doubled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.cells.tracker import (
    BOARD,
    JOB,
    checked_online,
    inside,
    options_of,
    start,
    summary_of,
    tables_of,
    tags_of,
    wandb_table,
)
from benchmarks.records.cell_fields import title_of
from benchmarks.records.schema import Record
from benchmarks.records.store import Store
from benchmarks.storage.console import output_console
from benchmarks.storage.entry_point import Parser, end
from benchmarks.storage.paths import Paths, write_atomically
from methods.errors import BadInput, first_line

LEDGER = "pushed.json"


def push(paths: Paths, section: Mapping[str, Any], offline: bool) -> tuple[int, int]:
    """Upload every record of ``paths`` that is not there yet, oldest first, then the boards.

    Args:
        paths: the store.
        section: settings like those of the configuration's ``track``.
        offline: write runs for `wandb sync` instead.

    Returns:
        How many cells were uploaded, and how many were there already.

    Raises:
        BadInput: there is nothing to upload, or the service cannot be reached; what is up is remembered.
    """
    records, _ = Store.of(paths).load()
    if not records:
        raise BadInput(f"no records in {paths.results}; run a sweep first: python run.py -m method=spectral,random")
    folder = Path(section.get("dir") or "wandb").resolve()
    ledger = folder / ("offline-" * offline + LEDGER)
    pushed, there = _known(ledger), 0
    boards = pushed.pop(BOARD, None)
    with inside(folder, offline):
        if not offline:
            try:
                checked_online()
            except (ConnectionError, OSError) as error:
                raise BadInput(f"W&B: {error}\nnothing is lost; the same command uploads it later") from None
        for record in sorted(records, key=lambda r: (r.created, r.key)):
            mark = json.loads(record.text())["checksum"]
            if pushed.get(record.key) == mark:
                there += 1
                continue
            _upload(record, mark, section, folder, offline)
            pushed[record.key] = mark
            write_atomically(ledger, json.dumps(pushed, indent=0, sort_keys=True))
        shown = hashlib.sha256(json.dumps(sorted(pushed.items())).encode()).hexdigest()[:16]
        if boards != shown:  # also where the last push ended just before them
            _upload_boards(paths, section, folder, offline)
            write_atomically(ledger, json.dumps({**pushed, BOARD: shown}, indent=0, sort_keys=True))
    return len(records) - there, there


def _known(ledger: Path) -> dict[str, str]:
    with suppress(OSError, ValueError):
        return dict(json.loads(ledger.read_text(encoding="utf-8")))
    return {}  # then the service is asked for each run


@contextmanager
def _run(section: Mapping[str, Any], folder: Path, offline: bool, name: str, **options: Any) -> Iterator[Any]:
    """A W&B run; any failure is reported with advice, since here the upload is the purpose."""
    try:
        run = start(options_of(section, folder, name) | options, "offline" if offline else "online")
        yield run
        run.finish()
    except BadInput:
        raise
    except Exception as error:
        raise ConnectionError(
            f"W&B: {name} was not uploaded ({first_line(error)})\nthe same command goes on from here"
        ) from error


def _upload(record: Record, mark: str, section: Mapping[str, Any], folder: Path, offline: bool) -> None:

    own: dict[str, Any] = {"id": record.key, "config": record.config, "job_type": JOB}
    own["tags"] = list(dict.fromkeys([*(section.get("tags") or ()), *tags_of(record.config)]))
    own |= {} if section.get("group") else {"group": record.sweep}
    own |= {} if offline else {"resume": "allow"}
    with _run(section, folder, offline, title_of(record), **own) as run:
        before = run.summary.get("record") if run.resumed else None
        if before == mark:
            return
        if not run.resumed:  # logged curves cannot be removed, so they are logged only once
            for phase, rows in (record.history or {}).items():
                for row in rows:
                    run.log({f"{phase}/{name}": value for name, value in row.items()} | {"step": row.get("epoch")})
            for name, rows in tables_of(record).items():
                if rows:
                    run.log({name: wandb_table(rows)})
        known = {name: value for name, value in summary_of(record).items() if value is not None}
        run.summary.update(known | {"record": mark, "reason": record.reason or ""})


def _upload_boards(paths: Paths, section: Mapping[str, Any], folder: Path, offline: bool) -> None:
    """The leaderboard as a table, and it and the report page as one artifact."""
    import csv

    import wandb

    from benchmarks.boards.rendering import render

    store = Store.of(paths)
    render(store, paths.boards, output_console(stderr=True))
    own = {"job_type": BOARD} | ({} if offline else {"resume": "allow"})
    with _run(section, folder, offline, BOARD, id=f"{BOARD}-{section.get('project') or 'secateurs'}", **own) as run:
        artifact = wandb.Artifact("leaderboard", type=BOARD)
        pages = [*paths.boards.glob("leaderboard.*"), *paths.results.glob("**/report*.html")]
        for path in sorted(pages):
            artifact.add_file(str(path), name=path.name)
        with (paths.boards / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
            rows: list[Any] = list(csv.reader(file))
        run.log({"leaderboard": wandb.Table(columns=rows[0], data=rows[1:])})
        run.log_artifact(artifact)


def sweep_configuration(experiment: str, words: Sequence[str] = ()) -> dict[str, Any]:
    """The grid of conf/experiment/``experiment`` as `wandb sweep` reads it; each agent runs single cells of it."""
    from benchmarks.settings.home import CONF
    from benchmarks.sweeps.composition import Composer
    from benchmarks.sweeps.words import expand

    if not re.fullmatch(r"[\w.-]*[A-Za-z][\w.-]*", experiment):
        raise BadInput(f"'{experiment}' is no name of a grid; expected one of conf/experiment, for instance digits")
    master = Composer(CONF).master([f"+experiment={experiment}", *words])
    grid = master.hydra.sweeper.params or {}
    parameters = {
        key: {"values": [combination[0].partition("=")[2] for combination in expand([f"{key}={values}"])]}
        for key, values in grid.items()
    }
    if not parameters:
        raise BadInput(f"experiment {experiment} has no grid; expected hydra.sweeper.params in its file")
    fixed = [f"+experiment={experiment}", "track=wandb", "track.mode=online", *words]
    return {
        "name": experiment,
        "program": "run.py",
        "method": "grid",
        "metric": {"name": "tuned/accuracy", "goal": "maximize"},
        "parameters": parameters,
        "command": ["${env}", "python", "run.py", *fixed, "${args_no_hyphens}"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.track``."""
    parser = Parser(prog="python -m benchmarks.track", description="Weights & Biases afterwards.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("push", help="upload a finished store")
    up.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")
    up.add_argument("--dir", default=".cache/wandb", help="folder for W&B's own files (.cache/wandb)")
    up.add_argument("--offline", action="store_true", help="write runs for `wandb sync` instead")
    for name in ("project", "entity", "group", "notes"):
        up.add_argument(f"--{name}", default=None)
    grid = verbs.add_parser("sweep", help="print a `wandb sweep` configuration of a grid")
    grid.add_argument("experiment")
    grid.add_argument("words", nargs="*", help="further KEY=VALUE words for every cell")
    chosen = vars(parser.parse_args(arguments))
    if chosen["verb"] == "push":
        new, there = push(Paths(chosen["results"]), chosen, chosen["offline"])
        output_console().print(f"{new} cells uploaded, {there} were there already", highlight=False)
    else:
        import yaml

        text = yaml.safe_dump(sweep_configuration(chosen["experiment"], chosen["words"]), sort_keys=False)
        output_console().out(text, end="", highlight=False)
    return 0


if __name__ == "__main__":
    end(main)
