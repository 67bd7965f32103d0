"""Where records lie: written whole or not at all, read with suspicion, this machine's runs beside the reviewed cells.

A record lies in ``<root>/<dataset>/<model>/<key>.json`` under one of two roots: ``runs`` (what this machine computed)
and ``cells`` (reviewed, under version control).
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from benchmarks.records.record import SCHEMA, Record, checksum
from benchmarks.storage.paths import Paths, safe_name, write_atomically


@dataclass(frozen=True)
class Problem:
    """A file in the store that is not a usable record, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Unreadable(ValueError):
    """A file is not a record this version can read; ``later`` when a later version can."""

    def __init__(self, message: str, later: bool = False) -> None:
        super().__init__(message)
        self.later = later


def read(path: Path) -> Record:
    """The record in ``path``.

    Raises:
        Unreadable: it is corrupt, foreign, or written by a later version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise Unreadable(f"corrupt: not JSON ({error})") from None
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, int) or "key" not in content:
        raise Unreadable("foreign: not a record of this benchmark")
    if version > SCHEMA:
        raise Unreadable(f"written by a later version (schema {version}, this version reads {SCHEMA})", later=True)
    named = content.pop("checksum", None)  # older records have none
    try:
        record = Record.model_validate(content)
    except (ValidationError, TypeError) as error:
        raise Unreadable(f"corrupt: {_first(error)}") from None
    if named is not None and named != checksum(content):
        raise Unreadable("corrupt: the content does not have the checksum that the file names")
    if record.key != path.stem:
        raise Unreadable(f"foreign: holds the key {record.key}")
    return record


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'record'}: {fault['msg']}"


@dataclass(frozen=True)
class Store:
    """The records under ``runs`` and ``cells``.

    Where both hold a cell, a finished record is preferred to a failed one, then the newer one, then the committed one.
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

    def find(self, key: str, committed: bool = False) -> Record | None:
        """The record ``key`` of this machine's runs (with ``committed`` also of the cells), if there is a sound one.

        By default committed cells are not looked at, so that a sweep in a fresh clone really runs.
        """
        roots = (self.runs, self.cells) if committed else (self.runs,)
        return self._best(path for root in roots for path in sorted(root.glob(f"*/*/{key}.json")))

    def find_all(self, keys: Iterable[str]) -> dict[str, Record]:
        """What :meth:`find` gives for each of ``keys``, in one pass over the folders; without those that have none."""
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
            try:
                found.append((path.is_relative_to(self.cells), read(path)))
            except Unreadable:
                self._set_aside(path)
            except FileNotFoundError:
                continue
        return max(found, key=_preference)[1] if found else None

    def sweep_up(self, key: str) -> None:
        """Remove what a killed writer of the record ``key`` left; only for who holds the cell's lease."""
        for path in self.runs.glob(f"*/*/.{key}.json.*.tmp"):
            path.unlink(missing_ok=True)

    def load(self) -> tuple[list[Record], list[Problem]]:
        """All records, sorted by data set, model, method and key, and the files that could not be used.

        A corrupt file in ``runs`` is renamed to ``*.json.corrupt``, so that its cell runs again.
        """
        best: dict[str, tuple[bool, Record]] = {}
        problems = []
        for committed, path in self.files():
            found = self.open(path)
            if isinstance(found, Problem):
                problems.append(found)
            elif found is not None:
                candidate = (committed, found)
                best[found.key] = max(best.get(found.key, candidate), candidate, key=_preference)
        records = [record for _, record in best.values()]
        return sorted(records, key=lambda r: (r.dataset, r.model, r.method, r.key)), problems

    def files(self) -> Iterator[tuple[bool, Path]]:
        """Every file that should be a record, and whether it is a committed one."""
        for root in (self.cells, self.runs):
            for path in _files(root):
                yield root == self.cells, path

    def open(self, path: Path) -> Record | Problem | None:
        """The record in ``path``, what is wrong with it, or None when another process has just taken it away."""
        try:
            return read(path)
        except Unreadable as error:
            return Problem(path if error.later else self._set_aside(path), str(error))
        except FileNotFoundError:  # replaced or submitted
            return None
        except OSError as error:
            return Problem(path, f"cannot be read: {error.strerror}")

    def _set_aside(self, path: Path) -> Path:
        if not path.is_relative_to(self.runs):
            return path  # committed files are for their authors to mend
        aside = path.with_name(f"{path.name}.corrupt")
        try:
            path.replace(aside)
        except OSError:
            return path
        return aside


def _preference(candidate: tuple[bool, Record]) -> tuple[bool, str, bool]:
    committed, record = candidate
    return record.finished, record.created, committed


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.glob("*/*/*.json")):
        if not path.parent.parent.name.startswith("."):
            yield path
