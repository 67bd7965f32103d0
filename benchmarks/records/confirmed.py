"""Record which code reproduces the results of older code, so that a mere renaming does not mark records as stale.

A record holds a digest of its method's code (:mod:`benchmarks.records.code`), and almost any edit below ``methods``
changes it, even if only a name changes. ``python -m benchmarks.status --confirm`` runs some of the cells again that
were made with the old code. If all of them reproduce the numbers of their records, the pair of digests is noted in
``results/confirmed.json``, and records with the old digest count as made by today's code.

This is evidence for the cells that were run again, not a proof for all.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.storage.paths import REPOSITORY, write_atomically
from benchmarks.storage.reading import Unfit, content_of, plain_json

if TYPE_CHECKING:
    from benchmarks.records.kept import Known

FILE = REPOSITORY / "results" / "confirmed.json"
LONGEST = 5_000_000  # bytes


class Pair(NamedTuple):
    """Digests of a method's code, as it was when a record was made and as it was when the cell was run again."""

    was: str
    now: str


def confirmed(pair: Pair) -> bool:
    """Whether cells of the old code were run again with the newer code, with equal results."""
    return pair in _pairs()


@cache
def _pairs() -> frozenset[Pair]:
    return frozenset(Pair(entry["was"], entry["now"]) for entry in _entries())


def _entries() -> list[dict[str, Any]]:
    """The entries of the file; none if there is no file, or its content does not fit."""
    try:
        found = plain_json(content_of(FILE, LONGEST))
        return [{"was": str(one["was"]), "now": str(one["now"]), "cells": list(one["cells"])} for one in found]
    except (OSError, Unfit, KeyError, TypeError, ValueError):
        return []


def note(pairs: Iterable[tuple[Pair, Sequence[str]]]) -> None:
    """Add ``pairs``, each with the keys of the cells that were run again, to the file."""
    entries = {Pair(one["was"], one["now"]): one["cells"] for one in _entries()}
    entries |= {pair: list(cells) for pair, cells in pairs}
    lines = [json.dumps({"was": pair.was, "now": pair.now, "cells": cells}) for pair, cells in sorted(entries.items())]
    write_atomically(FILE, "[\n" + ",\n".join(lines) + "\n]\n")
    forget()


def forget() -> None:
    """Clear the cache, so that the file is read again when next needed; otherwise a process reads it once."""
    _pairs.cache_clear()


def samples(stale: Iterable[tuple[Pair, Known]], count: int) -> dict[Pair, list[Known]]:
    """The ``stale`` records to run again: for each pair ``count`` cells, on different networks where possible.

    Cells that took less time to prune and train come first.
    """
    groups: dict[Pair, dict[tuple[str, str], list[Known]]] = defaultdict(lambda: defaultdict(list))
    for pair, known in stale:
        groups[pair][known.dataset, known.model].append(known)
    chosen = {}
    for pair, tasks in groups.items():
        for cells in tasks.values():
            cells.sort(key=lambda one: ((one.cost.prune_seconds or 0.0) + (one.cost.tune_seconds or 0.0), one.key))
        turns = [(turn, cell) for cells in tasks.values() for turn, cell in enumerate(cells)]
        chosen[pair] = [cell for _, cell in sorted(turns, key=lambda each: each[0])][:count]
    return chosen
