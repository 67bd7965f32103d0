"""Allow one time measurement at a time per machine, so that parallel cells do not disturb each other's measurements."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # checked before each use

NAME = "secateurs-timing.lock"
PATIENCE = 60.0  # seconds; a suspended holder must not block everybody forever
PAUSE = 0.02


@contextmanager
def one_at_a_time(folder: Path | None = None, patience: float = PATIENCE) -> Iterator[bool]:
    """Wait until no other process of this machine is in this context; the lock ends with its process.

    Args:
        folder: where the lock file lies; by default the system's folder for temporary files.
        patience: seconds after which to go on without the lock.

    Yields:
        Whether no other process is in the context, as far as can be known.
    """
    descriptor = _open((folder or Path(tempfile.gettempdir())) / NAME)
    if descriptor is None:
        yield True  # no lock is available: a platform without fcntl, or a folder of another user
        return
    try:
        yield _acquired(descriptor, patience)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int | None:
    if fcntl is None:
        return None
    try:
        # Opening for reading suffices for a lock, and works for a file that another user has created.
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError:
        return None


def _acquired(descriptor: int, patience: float) -> bool:
    limit = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= limit:
                return False
            time.sleep(PAUSE)
        except OSError:  # a file system without locks
            return True
