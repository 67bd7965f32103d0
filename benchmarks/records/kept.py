"""Cache the few facts that are needed of every record; only records that have changed are read again.

An entry is valid while its file has the same modification time, size and inode, and all entries are valid while the
code and presets that they are derived with are the same. Between processes the entries are kept in one JSON file next
to the records. It can be deleted at any time; where it cannot be written, the next process reads everything again.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.records.code import FIELD, changed, targets_of
from benchmarks.records.schema import Record
from benchmarks.records.store import Problem, Store, once
from benchmarks.settings.home import CONF
from benchmarks.storage.paths import REPOSITORY, write_atomically
from benchmarks.storage.reading import Unfit, content_of, plain_json
from methods.errors import BadInput

FILE = ".status.json"
LONGEST = 500_000_000  # bytes; an entry has some three hundred
MADE_BY = (
    "records/kept",
    "records/schema",
    "records/store",
    "records/keys",
    "records/names",
    "records/code",
    "boards/labels",
)
Stamp = tuple[int, int, int]


class Spent(NamedTuple):
    """Seconds that a cell took, as far as they were measured."""

    dense_seconds: float | None
    prune_seconds: float | None
    tune_seconds: float | None


class Known(NamedTuple):
    """The facts that are kept of one record; ``label`` is the name of its row on a board."""

    key: str
    dataset: str
    model: str
    method: str
    seed: int
    status: str
    reason: str | None
    created: str
    unsigned: bool
    finished: bool
    label: str
    code: str | None
    parts: Sequence[str]
    cost: Spent

    @property
    def stale(self) -> bool:
        """Whether it has a result and its method's code has changed since; False where the old code is unknown."""
        return self.finished and bool(changed(self.code, self.parts))

    @classmethod
    def of(cls, record: Record, label: Callable[[Record], str]) -> "Known":
        """The part of ``record`` that is kept."""
        cost = record.cost
        return cls(
            record.key,
            record.dataset,
            record.model,
            record.method,
            record.seed,
            record.status,
            record.reason,
            record.created,
            record.unsigned,
            record.finished,
            label(record),
            record.fingerprint.get(FIELD),  # type: ignore[arg-type]  # a text, as the record has been checked
            list(targets_of(record.config)),
            Spent(cost.dense_seconds, cost.prune_seconds, cost.tune_seconds),
        )


@dataclass
class Kept:
    """The records of ``store``, of which only those that have changed since the last look are read.

    Args:
        store: the records.
        label: gives the name of a record's row on a board.
    """

    store: Store
    label: Callable[[Record], str]

    def __post_init__(self) -> None:
        self._digest = _digest()
        self._entries = self._stored()
        self.read = 0  # files that were read because they were not known

    def look(self) -> tuple[list[Known], list[Problem]]:
        """All records in a fixed order, each cell once, and the files that could not be used."""
        entries: dict[str, tuple[Stamp, Known]] = {}
        found, problems = [], []
        for committed, path in self.store.files():
            try:
                status = path.stat()
            except OSError:
                status = None  # the store knows how to say what is wrong with it
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino) if status else (0, 0, 0)
            stamped = self._entries.get(str(path))
            if stamped is None or stamped[0] != stamp:
                record = self.store.open(path)
                if isinstance(record, Problem):
                    problems.append(record)
                if not isinstance(record, Record):
                    continue
                self.read += 1
                stamped = stamp, Known.of(record, self.label)
            entries[str(path)] = stamped
            found.append((committed, path, stamped[1]))
        self._entries = entries
        kept, doubles = once(found, lambda committed, one: (one.key, _preference(committed, one)))
        return sorted(kept, key=lambda one: (one.dataset, one.model, one.method, one.key)), [*problems, *doubles]

    def save(self) -> None:
        """Save the entries for the next process, where that is possible."""
        if self.read:
            rows = [[path, *stamp, *known] for path, (stamp, known) in self._entries.items()]
            with suppress(BadInput, OSError, ValueError):
                write_atomically(self.store.runs / FILE, json.dumps({"digest": self._digest, "rows": rows}))
            self.read = 0

    def _stored(self) -> dict[str, tuple[Stamp, Known]]:
        try:
            content = plain_json(content_of(self.store.runs / FILE, LONGEST))
            if content["digest"] != self._digest:
                return {}
            return {row[0]: ((row[1], row[2], row[3]), _known(row[4:])) for row in content["rows"]}
        except (OSError, Unfit, KeyError, IndexError, TypeError, ValueError):
            return {}


def _known(values: Sequence[Any]) -> Known:
    return Known._make([*values[:-1], Spent(*values[-1])])


def _preference(committed: bool, one: Known) -> tuple[bool, bool, str, bool]:
    return one.finished, not one.unsigned, one.created, committed


def _digest() -> str:
    """A digest of the code and the presets that entries are derived with."""
    code = [REPOSITORY / "benchmarks" / f"{name}.py" for name in MADE_BY]
    parts = [path.read_bytes() for path in (*code, *sorted(Path(CONF).glob("**/*.yaml"))) if path.is_file()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
