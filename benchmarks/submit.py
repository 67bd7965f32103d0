"""Move finished records of this machine (``results/runs``) to the reviewed ones (``results/cells``).

    python -m benchmarks.submit
    python -m benchmarks.submit --where "dataset == 'mnist'"
    python -m benchmarks.submit --refused     also cells that cannot be run, such as a budget beyond a method's reach
    python -m benchmarks.submit --networks    also the dense networks that took a minute or more to train

A record is moved when its cell is finished, its file has a checksum, its configuration has the key it is filed under
and says what the record says of itself, and nothing in it names a folder of this machine. Where a reviewed record of
the cell is there already, the new one must repeat its result. The copy is complete before the original goes, so that an
interruption loses nothing.

Networks go from the cache to ``results/dense``, where every cell looks first: so that anybody can repeat a cell
without training again, and with the very same weights on other processors. Together they may have 20 MB.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.boards.frame import select
from benchmarks.records.agreement import first_difference
from benchmarks.records.keys import cell_key, dense_key
from benchmarks.records.manifest import RUNNING
from benchmarks.records.schema import Record
from benchmarks.records.store import Problem, Store, Unreadable, read
from benchmarks.storage.console import output_console
from benchmarks.storage.entry_point import Parser, end
from benchmarks.storage.lease import holders
from benchmarks.storage.paths import Paths, remove_temporaries
from methods.errors import BadInput

SAME_ACCURACY = 0.01  # rounding on another machine changes the training, by less than about a percentage point
SAME_COUNT = 0.01  # of parameters and MACs, in proportion
SAME_LOSS = 1e-5  # in proportion; records round to seven digits
DEAR = 60.0  # seconds of training from which a network is kept
ROOM = 20_000_000  # bytes of all kept networks
STAGES, COUNTS = ("dense", "pruned", "tuned"), ("parameters", "nonzero", "macs")


def objection(record: Record) -> str | None:
    """Why the finished ``record`` cannot be submitted, or None."""
    if record.unsigned:
        return "unsigned: it has no checksum, so that nobody can see whether it was edited; run its cell again"
    if cell_key(record.config) != record.key:
        return "its configuration has another key: it was edited, or the rule of keys has changed"
    local = next((text for text in _texts(record.config) if Path(text).is_absolute() or text.startswith("~")), None)
    if local is not None:
        return f"its configuration names a folder of this machine ({local})"
    for name, said in (("dataset", record.dataset), ("model", record.model), ("method", record.method)):
        section = record.config.get(name)
        if isinstance(section, dict) and section.get("name") not in (None, said):
            return f"it says {name} {said}, but its configuration says {section['name']}"
    if record.config.get("seed", record.seed) != record.seed:
        return f"it says seed {record.seed}, but its configuration says {record.config['seed']}"
    return None


def disagreement(record: Record, reviewed: Record) -> str | None:
    """The first figure in which ``record`` does not repeat the ``reviewed`` result of the same cell, or None."""
    return first_difference(record, reviewed, SAME_ACCURACY, SAME_COUNT, STAGES, COUNTS)


def submit(store: Store, where: str | None = None, refused: bool = False) -> tuple[list[Record], list[Problem]]:
    """Move the finished records; return the moved ones, and the objection to each of the others.

    Args:
        store: records move from its runs to its cells.
        where: a pandas query over the records.
        refused: move failed cells, too, if they failed for a reason that the suite itself gave: that is a result.
    """
    records, problems = Store(store.runs, store.runs).load()
    moved = []
    ready = [record for record in records if record.finished or (refused and record.traceback is None)]
    for record in select(ready, where):
        reason = objection(record) or _replaces(record, store)
        if reason is not None:
            problems.append(Problem(store.path_of(record), reason))
            continue
        remove_temporaries(store.path_of(record, store.cells).parent)
        store.write(record, store.cells)
        store.path_of(record).unlink(missing_ok=True)
        moved.append(record)
    return moved, problems


def keep_networks(store: Store, paths: Paths) -> tuple[list[Path], list[str]]:
    """Copy the dense networks of reviewed records that took long to train from the cache to ``paths.dense``.

    Only the very network that a reviewed record began with is copied: training with the same key on another machine
    gives other weights, which its losses reveal. A kept network that no reviewed record began with is replaced.

    Returns:
        The folders that are new, and why others were left out, in words.
    """
    from benchmarks.storage import checkpoint
    from benchmarks.training.dense import NAME  # PyTorch is not needed for records

    records, _ = Store(store.cells, store.cells).load()
    used = sum(path.stat().st_size for path in paths.dense.glob("*/*")) if paths.dense.is_dir() else 0
    kept, left = [], []
    trainings: dict[str, list[Record]] = {}
    for record in records:
        trainings.setdefault(dense_key(record.config), []).append(record)
    for key, begun in trainings.items():
        source, target = paths.cache / "dense" / key, paths.dense / key
        facts = checkpoint.facts_of(source, NAME)
        if facts is None or facts.get("seconds", 0.0) < DEAR or not _began_with(begun, facts):
            continue  # most are cheap or of another training: their weights need not be read
        there = checkpoint.load(target, NAME)
        if there and _began_with(begun, there[1]):
            continue
        stored = checkpoint.load(source, NAME)
        if stored is None:
            continue
        size = sum(path.stat().st_size for path in source.iterdir())
        if used + size > ROOM:
            left.append(f"{source}: with its {size / 1e6:.1f} MB all would have more than {ROOM / 1e6:.0f} MB")
            continue
        checkpoint.save(target, NAME, *stored)
        used += size
        kept.append(target)
    return kept, left


def _began_with(records: Sequence[Record], facts: Mapping[str, Any]) -> bool:
    """Whether the training of a network that ``facts`` tell of is the one that one of ``records`` tells of."""
    losses = [row.get("train_loss") for row in (facts.get("history") or {}).get("epochs") or ()]
    for record in records:
        told = [row.get("train_loss") for row in (record.history or {}).get("train") or ()]
        if (
            told
            and len(told) == len(losses)
            and all(
                a is not None and b is not None and math.isclose(a, b, rel_tol=SAME_LOSS)
                for a, b in zip(told, losses, strict=True)
            )
        ):
            return True
    return False


def _replaces(record: Record, store: Store) -> str | None:
    """Why the reviewed file of the cell must stay as it is, or None."""
    path = store.path_of(record, store.cells)
    try:
        reviewed = read(path)
    except FileNotFoundError:
        return None
    except Unreadable as error:
        return f"the reviewed {path} cannot be read ({error}), so they cannot be compared; remove that file first"
    differs = disagreement(record, reviewed)
    if differs is None:
        return None
    return (
        f"it does not repeat the reviewed record of the cell ({differs}), which stays; "
        f"if that one is wrong, remove it first: {path}"
    )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.submit``; 1 when a finished record could not be moved."""
    parser = Parser(prog="python -m benchmarks.submit", description="Move finished records to cells/.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the records (results)")
    parser.add_argument("--where", default=None, help="pandas query, e.g. \"dataset == 'mnist'\"")
    parser.add_argument("--refused", action="store_true", help="also cells that the suite refused with a reason")
    parser.add_argument("--networks", action="store_true", help="also dense networks that took a minute to train")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="folder of the cached networks (.cache)")
    chosen = parser.parse_args(arguments)
    paths, console = Paths(chosen.results, chosen.cache), output_console()
    busy = [holder for holder in holders(paths.runs / RUNNING) if holder.alive]
    if busy:  # it would miss the moved records and compute them again
        raise BadInput(
            f"a sweep is running here ({busy[0].label}, process {busy[0].pid} on {busy[0].host}); "
            "submit when it has ended: python -m benchmarks.status --watch"
        )
    store = Store.of(paths)
    moved, problems = submit(store, chosen.where, chosen.refused)
    for problem in problems:
        console.print(f"not moved: {problem}", markup=False)
    uncommitted = sum(bool(record.fingerprint.get("dirty")) for record in moved)
    console.print(f"moved {len(moved)} records to {store.cells}", markup=False)
    if uncommitted:
        console.print(f"{uncommitted} of them were made by code with uncommitted changes", markup=False)
    if chosen.networks:
        kept, left = keep_networks(store, paths)
        console.print(f"kept {len(kept)} dense networks in {paths.dense}", markup=False)
        for reason in left:
            console.print(f"not kept: {reason}", markup=False)
    return 1 if problems else 0


if __name__ == "__main__":
    end(main)
