"""One worker does a piece of work and the others wait for it, across processes and machines that share a folder.

The lease is a plain file, no lock of the operating system: such locks are unreliable on network file systems. Terms are
numbered, ``lease.0``, ``lease.1``, ...; the highest number holds. A term begins by creating its file with ``O_EXCL``,
which exactly one worker can do. The holder touches its file every few seconds; a term whose file has not been touched
for ``stale`` seconds has ended, whatever became of its holder, and the next number may be created. While the work is
not finished nobody deletes a file, so no two workers can take over from the same dead holder.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOG = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
POLL_SECONDS = 0.5


@contextmanager
def first_come(
    folder: Path,
    finished: Callable[[], bool],
    label: str,
    *,
    heartbeat: float = HEARTBEAT_SECONDS,
    stale: float = STALE_SECONDS,
    poll: float = POLL_SECONDS,
) -> Iterator[bool]:
    """Give the work to one worker.

    Args:
        folder: where the result will lie; the lease files lie there too.
        finished: whether the result is there. Asked again after the lease was won: the former holder may just have
            ended.
        label: what is being worked on, for the message of those who wait.
        heartbeat: seconds between two signs of life.
        stale: seconds without a sign of life after which another worker takes over.
        poll: seconds between two looks of a worker that waits.

    Yields:
        True to the worker that is to do the work now, False to one that finds it finished.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = False
    while not finished():
        lease = _next_term(folder, stale)
        if lease is not None:
            break
        if not told:
            LOG.warning("%s: waiting for %s, which is at it", label, _holder(folder))
            told = True
        time.sleep(poll)
    else:
        yield False
        return
    with _heartbeat(lease, heartbeat):
        done_meanwhile = finished()
        yield not done_meanwhile
    if finished():  # with the result there, whoever still wins a term finds nothing to do: now the files can go
        for old in folder.glob("lease.*"):
            old.unlink(missing_ok=True)


def _next_term(folder: Path, stale: float) -> Path | None:
    """Create the file of the next term if the current one has ended; None if it has not, or if another was faster."""
    numbers = _terms(folder)
    if numbers and not _ended(folder / f"lease.{numbers[-1]}", stale):
        return None
    path = folder / f"lease.{numbers[-1] + 1 if numbers else 0}"
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}, file)
    return path


def _terms(folder: Path) -> list[int]:
    suffixes = (path.suffix[1:] for path in folder.glob("lease.*"))
    return sorted(int(suffix) for suffix in suffixes if suffix.isdecimal())


def _ended(path: Path, stale: float) -> bool:
    holder = _read(path)
    if holder.get("host") == socket.gethostname() and not _alive(holder.get("pid")):
        return True
    try:
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return True
    return _file_system_now(path.parent) - touched > stale


def _file_system_now(folder: Path) -> float:
    """The time by the clock that stamps the lease files; a server's clock may differ from this machine's."""
    probe = folder / f".probe-{uuid.uuid4().hex}"
    probe.touch()
    now = probe.stat().st_mtime
    probe.unlink(missing_ok=True)
    return now


def _alive(pid: object) -> bool:
    if not isinstance(pid, int) or pid <= 0 or os.name != "posix":  # elsewhere signal 0 is not a harmless question
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _read(path: Path) -> dict:
    """Who wrote the file; empty while its holder is still writing, when only its age can be judged."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _holder(folder: Path) -> str:
    numbers = _terms(folder)
    holder = _read(folder / f"lease.{numbers[-1]}") if numbers else {}
    return f"process {holder['pid']} on {holder['host']}" if {"pid", "host"} <= holder.keys() else "another process"


@contextmanager
def _heartbeat(path: Path, seconds: float) -> Iterator[None]:
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(seconds):
            with suppress(OSError):
                os.utime(path)  # no explicit time: the file system's own clock

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with suppress(OSError):
            os.utime(path, (0, 0))  # ended long ago: the next worker need not wait if this one failed
