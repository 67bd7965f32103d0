"""Store records: writes are atomic, reads are validated; this machine's runs are kept apart from the reviewed cells.

A record lies in ``<root>/<dataset>/<model>/<key>.json`` under one of two roots: ``runs`` (what this machine computed)
and ``cells`` (reviewed, under version control).
"""

import logging
import os
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.records.schema import LATEST_VERSION, UNSIGNED, Record, checksum
from benchmarks.storage.console import printable
from benchmarks.storage.lease import Lost
from benchmarks.storage.paths import Paths, safe_name, write_atomically, write_first
from benchmarks.storage.reading import Unfit, content_of, fault_of, plain_json

LOG = logging.getLogger(__name__)
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Problem:
    """A file in the store that is not a usable record, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}".encode(errors="replace").decode()


class Unreadable(ValueError):
    """A file is not a record that this version can read; ``keep`` says that the file must not be moved away."""

    def __init__(self, message: str, keep: bool = False) -> None:
        super().__init__(message)
        self.keep = keep


def read(path: Path, named: bool = True) -> Record:
    """The record in ``path``, which is not trusted: whatever is wrong with the file is reported.

    Args:
        path: the file.
        named: whether the file has to be named by the record's key, as in a store.

    Raises:
        FileNotFoundError: there is no such file.
        Unreadable: it is not a plain file, is corrupt, foreign, impossible, or was written by a later version.
    """
    try:
        str(path).encode()
        content = plain_json(content_of(path))
    except UnicodeEncodeError:
        raise Unreadable("its path is not UTF-8", keep=True) from None
    except Unfit as error:
        raise Unreadable(str(error) if error.unread else f"corrupt: {error}", keep=error.unread) from None
    version = content.get("version") if isinstance(content, dict) else None
    if type(version) is not int or "key" not in content:
        raise Unreadable("foreign: not a record of this benchmark")
    if version > LATEST_VERSION:
        raise Unreadable(
            f"written by a later version (schema {version}, this version reads {LATEST_VERSION})", keep=True
        )
    record, ahead = _sound(content)
    if ahead:
        # This machine's clock may be the one that is wrong, so the file stays.
        raise Unreadable(f"impossible: made in the future ({record.created})", keep=True)
    if named and record.key != path.stem:
        raise Unreadable(f"foreign: holds the key {record.key}")
    return record


def _sound(content: dict[str, Any]) -> tuple[Record, bool]:
    """The record in ``content``, and whether it is dated later than now.

    Its checksum is verified if it has one, which version 2 and later require.
    """
    signature = content.pop("checksum", None)
    if "unsigned" in content:
        raise Unreadable("corrupt: unsigned: no field of a record's file")
    if signature is None and content["version"] > UNSIGNED:
        raise Unreadable("corrupt: it has no checksum, which every record of its version has")
    try:
        record = Record.model_validate(content)
        damaged = signature is not None and signature != checksum(content)
        ahead = _ahead(record.created)
    except Exception as error:  # values of a wrong type can raise anything
        raise Unreadable(f"corrupt: {fault_of(error)}") from None
    if damaged:
        raise Unreadable("corrupt: the content does not have the checksum that the file names")
    return record.model_copy(update={"unsigned": signature is None}), ahead


def _ahead(created: str) -> bool:
    """Whether a time is more than a day later than now: clocks of other machines may be ahead by less."""
    when = datetime.fromisoformat(created)
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return when > datetime.now(UTC) + timedelta(days=1)


@dataclass(frozen=True)
class Store:
    """The records under ``runs`` and ``cells``.

    Where both hold a cell, a finished record is preferred to a failed one, then one with a checksum to one without,
    then the newer one, then the committed one.
    """

    runs: Path
    cells: Path

    @classmethod
    def of(cls, paths: Paths) -> "Store":
        """The store in the folders ``paths``."""
        return cls(paths.runs, paths.cells)

    def path_of(self, record: Record, root: Path | None = None) -> Path:
        """Where ``record`` lies under ``root`` (``runs`` unless given)."""
        return (root or self.runs) / safe_name(record.dataset) / safe_name(record.model) / f"{record.key}.json"

    def write(self, record: Record, root: Path | None = None) -> Path:
        """Write ``record`` under ``root`` (``runs`` unless given), whole or not at all, and return its path."""
        path = self.path_of(record, root)
        write_atomically(path, record.text())
        return path

    def write_result(
        self, record: Record, holds: Callable[[], bool] | None = None, replaced: str | None = None
    ) -> Path:
        """Write the result of a cell under ``runs``, but never over a finished one, unless it is the one to replace.

        A worker that was suspended for long may have lost its lease, so ``holds`` is checked before the write. If the
        worker is suspended between this check and the write, the file system decides: a record is only placed where
        there is none, and an existing one is removed before only if it is not a result.

        Args:
            record: the result.
            holds: whether this worker still holds the lease of the cell; None where there is none.
            replaced: the stamp of a finished record, which this one replaces atomically.

        Raises:
            Lost: the worker no longer holds the lease, or another finished record is there.
        """
        path = self.path_of(record)
        while True:
            if holds is not None and not holds():
                raise Lost(f"{record.key} is another worker's by now")
            if write_first(path, record.text()):
                return path
            if replaced is not None and _stamp_at(path) == replaced:
                write_atomically(path, record.text())
                return path
            self.take_away(path)

    def remove_failure(self, key: str, holds: Callable[[], bool] | None = None) -> None:
        """Remove what an earlier failure of the cell ``key`` left under ``runs``.

        Args:
            key: the key of the cell.
            holds: whether this worker still holds the lease of the cell; None where there is none.

        Raises:
            Lost: the worker no longer holds the lease, or a finished record is there.
        """
        if holds is not None and not holds():
            raise Lost(f"{key} is another worker's by now")
        for path in self.runs.glob(f"*/*/{key}.json"):
            self.take_away(path)

    def take_away(self, path: Path) -> None:
        """Remove the file at ``path``, which must not be a result.

        Raises:
            Lost: it is a result.
        """
        aside = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
        for place in (path, aside):
            try:
                if place == aside:
                    path.rename(aside)
                held = read(place, named=False).finished
            except FileNotFoundError:
                return
            except Unreadable as error:
                held = error.keep
            if held:
                if place == aside:  # a result was written in between
                    with suppress(FileExistsError):
                        os.link(aside, path)
                    aside.unlink()
                raise Lost(f"{path} has a result")
        if aside.is_dir():
            aside.rename(path.with_name(f"{path.name}.{os.urandom(4).hex()}.corrupt"))
        else:
            aside.unlink()

    def find(self, key: str, committed: bool = False) -> Record | None:
        """The record ``key`` of this machine's runs (with ``committed`` also of the cells), if there is a valid one.

        By default committed cells are ignored, so that a sweep in a fresh clone really runs.
        """
        roots = (self.runs, self.cells) if committed else (self.runs,)
        return self._best(path for root in roots for path in sorted(root.glob(f"*/*/{key}.json")))

    def find_all(self, keys: Iterable[str]) -> dict[str, Record]:
        """The results of :meth:`find` for ``keys``, in one pass over the folders, without keys that have no record."""
        wanted: dict[str, list[Path]] = {key: [] for key in keys}
        for path in _files(self.runs):
            if path.stem in wanted:
                wanted[path.stem].append(path)
        found = {key: self._best(paths) for key, paths in wanted.items() if paths}
        return {key: record for key, record in found.items() if record is not None}

    def reviewed(self) -> set[str]:
        """The keys of all files among the reviewed cells, unread."""
        return {path.stem for path in _files(self.cells)}

    def _best(self, paths: Iterable[Path]) -> Record | None:
        found = []
        for path in paths:
            record = self.open(path)
            if isinstance(record, Record):
                found.append((path.is_relative_to(self.cells), record))
            elif record is not None:
                LOG.warning("left out: %s", printable(str(record)))
        return max(found, key=_preference)[1] if found else None

    def remove_leftovers(self, key: str) -> None:
        """Remove what a killed writer of the record ``key`` left; only the holder of the cell's lease may call this."""
        for path in self.runs.glob(f"*/*/.{key}.json.*.tmp"):
            path.unlink(missing_ok=True)

    def drop_second_names(self, keys: Container[str]) -> None:
        """Remove temporary hard links to the records ``keys``, left by writers that died after placing the record.

        This needs no lease: a second name of a file that is in place is not needed.
        """
        for path in self.runs.glob("*/*/.*.json.*.tmp"):
            placed = path.with_name(path.name[1:].rpartition(".json.")[0] + ".json")
            with suppress(OSError):
                if placed.stem in keys and placed.samefile(path):
                    path.unlink()

    def load(self) -> tuple[list[Record], list[Problem]]:
        """All records, sorted by data set, model, method and key, and the files that could not be used.

        A corrupt file in ``runs`` is renamed to ``*.json.corrupt``, so that its cell runs again.
        """
        found, problems = [], []
        for committed, path in self.files():
            record = self.open(path)
            if isinstance(record, Problem):
                problems.append(record)
            elif record is not None:
                found.append((committed, path, record))
        kept, doubles = once(found, lambda committed, record: (record.key, _preference((committed, record))))
        return sorted(kept, key=lambda r: (r.dataset, r.model, r.method, r.key)), [*problems, *doubles]

    def files(self) -> Iterator[tuple[bool, Path]]:
        """Every file that should be a record, and whether it is a committed one."""
        for root in dict.fromkeys((self.cells, self.runs)):
            for path in _files(root):
                yield root == self.cells, path

    def open(self, path: Path) -> Record | Problem | None:
        """The record in ``path``, what is wrong with it, or None when another process has just taken it away."""
        try:
            return read(path)
        except Unreadable as error:
            return Problem(path if error.keep else self._set_aside(path), str(error))
        except FileNotFoundError:  # replaced or submitted
            return None

    def _set_aside(self, path: Path) -> Path:
        if not path.is_relative_to(self.runs):
            return path  # committed files are left for their authors to fix
        aside = path.with_name(f"{path.name}.corrupt")
        try:
            path.replace(aside)
        except OSError:
            return path
        return aside


def once(
    found: Iterable[tuple[bool, Path, Kind]], order: Callable[[bool, Kind], tuple[str, Any]]
) -> tuple[list[Kind], list[Problem]]:
    """Each cell once, and the files that repeat one.

    A reviewed cell may also be among this machine's runs. It is a fault if two files under one root hold the same cell.

    Args:
        found: for each record, whether it is committed, its file, and what was read from it.
        order: gives a cell's key and its rank among records with the same key; the highest rank is kept.
    """
    best: dict[str, tuple[Any, bool, Path, Kind]] = {}
    doubles = []
    for committed, path, one in found:
        key, rank = order(committed, one)
        other = best.get(key)
        if other is not None and other[1] == committed:
            first, second = (path, other[2]) if rank <= other[0] else (other[2], path)
            doubles.append(Problem(first, f"the same cell as {second}, which counts"))
        if other is None or rank > other[0]:
            best[key] = (rank, committed, path, one)
    return [one for *_, one in best.values()], doubles


def _stamp_at(path: Path) -> str | None:
    """The stamp of the record in ``path``; None if there is no valid one."""
    try:
        return read(path).stamp
    except (FileNotFoundError, Unreadable):
        return None


def _preference(candidate: tuple[bool, Record]) -> tuple[bool, bool, str, bool]:
    committed, record = candidate
    return record.finished, not record.unsigned, record.created, committed


def _files(root: Path) -> Iterator[Path]:
    """All files under ``root`` that are named like a record, sorted."""
    for dataset in _inside(root):
        if not dataset.name.startswith("."):
            for model in _inside(dataset):
                yield from (path for path in _inside(model) if path.suffix == ".json")


def _inside(folder: Path) -> list[Path]:
    with suppress(OSError), os.scandir(folder) as entries:
        return [folder / name for name in sorted(entry.name for entry in entries)]
    return []
