"""Folders of results and caches, safe file names, and atomic writing of files."""

import errno
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from methods.errors import BadInput

REPOSITORY = Path(__file__).resolve().parents[2]
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR}
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}  # FAT and some network shares
LONG_AGO = 3600.0  # seconds; no file takes as long to write
LONGEST_NAME = 80  # of one path component, well inside the 255 bytes of common file systems
NAME = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"  # of data sets, networks and methods, which become parts of paths


@dataclass(frozen=True)
class Paths:
    """The folders of one store of results.

    Attributes:
        results: everything that is kept: ``runs``, ``cells``, ``dense``, ``boards``.
        cache: what can be computed again (decoded data, dense networks, offline tracker runs).
    """

    results: Path = Path("results")
    cache: Path = Path(".cache")

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> "Paths":
        """The folders named in the configuration's ``paths`` section."""
        return cls(Path(section["results"]).expanduser(), Path(section["cache"]).expanduser())

    @property
    def runs(self) -> Path:
        """Records of this machine, not under version control."""
        return self.results / "runs"

    @property
    def cells(self) -> Path:
        """Reviewed records, under version control."""
        return self.results / "cells"

    @property
    def dense(self) -> Path:
        """Dense networks of reviewed records that are expensive to train, under version control."""
        return self.results / "dense"

    @property
    def boards(self) -> Path:
        """Leaderboards rendered from this machine's runs and the reviewed records, not under version control."""
        return self.results / "boards"

    @property
    def committed_boards(self) -> Path:
        """Leaderboards rendered from the reviewed records alone, under version control."""
        return self.boards / "reviewed"

    def boards_of(self, committed: bool, otherwise: bool) -> Path:
        """The default folder of boards; refuse to replace the reviewed boards by unusual ones."""
        if committed and otherwise:
            raise BadInput(
                f"With --committed these files would replace the reviewed ones in {self.committed_boards}, which show "
                "all records in the usual way.\nType for instance --out results/boards/mine."
            )
        return self.committed_boards if committed else self.boards


def safe_name(text: str) -> str:
    """``text`` as one path component: no separators, no leading dot, never empty, of bounded length."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".")[:LONGEST_NAME]
    return name or "_"


def require_name(text: object, key: str) -> str:
    """``text`` if it can be part of a path as it is.

    Args:
        text: the name of a data set, network or method.
        key: where it was given, for the message.

    Raises:
        BadInput: it is no text, has other characters than those of names, or is too long.
    """
    if isinstance(text, str) and len(text) <= LONGEST_NAME and re.fullmatch(NAME.strip("^$"), text):
        return text
    raise BadInput(
        f"{key}={str(text)[:LONGEST_NAME]!r} is no name: expected at most {LONGEST_NAME} letters, digits, dots, dashes "
        f"and underscores, and no dot first\ntype for instance {key}={safe_name(str(text))}"
    )


def remove_temporaries(folder: Path) -> None:
    """Remove old files of killed writers; younger ones may belong to a process that is still writing."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):
            if abs(time.time() - path.stat().st_mtime) > LONG_AGO:
                path.unlink()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path`` so that a reader, or a crash, sees the old content or the new and never a part.

    Args:
        path: the file; its folder is created if needed.
        content: bytes, or text, which becomes UTF-8 with the line ends that it has.

    Raises:
        BadInput: the folder cannot be made or written.
        OSError: the disk is full, or another fault of the file system; no temporary file is left.
    """
    with _beside(path, content) as temporary:
        temporary.replace(path)


def write_first(path: Path, content: str | bytes) -> bool:
    """Write ``content`` to ``path`` if nothing is there; False, and nothing is changed, if something is.

    Of several writers exactly one succeeds, where the file system has hard links.

    Raises:
        BadInput: the folder cannot be made or written.
        OSError: the disk is full, or another fault of the file system; no temporary file is left.
    """
    with _beside(path, content) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if os.path.lexists(path):
                return False
            temporary.replace(path)
    return True


@contextmanager
def _beside(path: Path, content: str | bytes) -> Iterator[Path]:
    """A temporary file with ``content`` in the folder of ``path``, all of it on the disk; gone afterwards."""
    # The same folder, since os.replace is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = temporary.open("xb")
    except OSError as error:
        if error.errno in UNWRITABLE:
            raise _unwritable(path, error) from None
        raise _unsaved(path, error) from error
    try:
        with file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    except OSError as error:
        raise _unsaved(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> BadInput:
    return BadInput(
        f"Cannot write in {path.parent} ({error.strerror}).\n"
        "Expected a writable folder: change its permissions, or type paths.results=FOLDER or paths.cache=FOLDER."
    )


def _unsaved(path: Path, error: OSError) -> OSError:
    return OSError(error.errno, f"{error.strerror}: {path} was not saved", str(path))
