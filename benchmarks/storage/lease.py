"""One worker does a piece of work and the others wait for it, across processes and machines that share a folder.

The lease is a plain file, no lock of the operating system: such locks are unreliable on network file systems. Terms are
numbered, ``lease.0``, ``lease.1``, ...; the highest number holds. A term begins by creating its file with ``O_EXCL``,
which exactly one worker can do. The holder touches its file every few seconds; a term whose file has not been touched
for ``stale`` seconds has ended, whatever became of its holder, and the next number may be created. While the work is
not finished nobody deletes a file, so no two workers can take over from the same dead holder.

On the holder's own machine its process is asked for instead, and elsewhere one who waits looks twice, some seconds
apart by a clock that only goes forward: a system clock that is set anew must neither end a living worker's term nor
keep a dead one's.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOG = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
POLL_SECONDS = 0.5


class Busy(Exception):
    """Another worker is at it, and the caller would not wait."""


@dataclass(frozen=True)
class Holder:
    """Who is at a piece of work, on which machine, and since when (seconds since 1970 by that machine's clock)."""

    name: str
    label: str
    host: str
    pid: int
    since: float
    alive: bool


@contextmanager
def first_come(
    folder: Path,
    finished: Callable[[], bool],
    label: str,
    *,
    name: str = "lease",
    wait: bool = True,
    heartbeat: float = HEARTBEAT_SECONDS,
    stale: float = STALE_SECONDS,
    poll: float = POLL_SECONDS,
) -> Iterator[bool]:
    """Give the work to one worker.

    Args:
        folder: where the result will lie; the lease files lie there too.
        finished: whether the result is there, complete: those who wait read it as soon as this says so. Asked again
            after the lease was won: the former holder may just have ended.
        label: what is being worked on, for the message of those who wait.
        name: of the lease files, where several pieces of work share the folder.
        wait: whether to wait for another worker.
        heartbeat: seconds between two signs of life.
        stale: seconds without a sign of life after which another worker takes over.
        poll: seconds between two looks of a worker that waits.

    Yields:
        True to the worker that is to do the work now, False to one that finds it finished.

    Raises:
        Busy: another worker is at it, and ``wait`` is false.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told, watch = False, _Watch(stale, min(stale, 2 * heartbeat))
    while not finished():
        lease = _next_term(folder, name, label, watch)
        if lease is not None:
            break
        if not wait and not watch.suspicious:
            raise Busy(_holder(folder, name))
        if not told:
            LOG.warning("%s: waiting for %s, which is at it", label, _holder(folder, name))
            told = True
        time.sleep(poll)
    else:
        yield False
        return
    with _heartbeat(lease, heartbeat):
        done_meanwhile = finished()
        yield not done_meanwhile
    if finished():  # with the result there, whoever still wins a term finds nothing to do: now the files can go
        for number in _terms(folder, name):
            (folder / f"{name}.{number}").unlink(missing_ok=True)


def holders(folder: Path, stale: float = STALE_SECONDS) -> list[Holder]:
    """The latest holder of every piece of work that was begun in ``folder`` and not finished. Writes nothing."""
    found = []
    for name in sorted({path.stem for path in folder.glob("[!.]*.*") if path.suffix[1:].isdecimal()}):
        numbers = _terms(folder, name)
        path = folder / f"{name}.{numbers[-1]}" if numbers else folder
        holder = _read(path)
        try:
            touched = path.stat().st_mtime
        except OSError:
            continue
        if {"host", "pid", "time"} <= holder.keys():
            alive = touched > 0 and (_alive(holder) if _here(holder) else time.time() - touched <= 2 * stale)
            label, since = str(holder.get("label", name)), float(holder["time"])
            found.append(Holder(name, label, str(holder["host"]), int(holder["pid"]), since, alive))
    return sorted(found, key=lambda holder: holder.label)


def sweep_up(folder: Path, finished: Container[str]) -> None:
    """Remove the files of ``finished`` pieces of work whose holders died before they could do so."""
    for holder in holders(folder):
        if holder.name in finished and not holder.alive:
            for number in _terms(folder, holder.name):
                (folder / f"{holder.name}.{number}").unlink(missing_ok=True)


def _next_term(folder: Path, name: str, label: str, watch: "_Watch") -> Path | None:
    """Create the file of the next term if the current one has ended; None if it has not, or if another was faster."""
    numbers = _terms(folder, name)
    if numbers and not watch.ended(folder / f"{name}.{numbers[-1]}"):
        return None
    path = folder / f"{name}.{numbers[-1] + 1 if numbers else 0}"
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        pid = os.getpid()
        holder = {"label": label, "host": socket.gethostname(), "pid": pid, "started": _started(pid)}
        json.dump(holder | {"time": time.time()}, file)
    return path


def _terms(folder: Path, name: str) -> list[int]:
    suffixes = (path.suffix[1:] for path in folder.glob(f"{name}.*"))
    return sorted(int(suffix) for suffix in suffixes if suffix.isdecimal())


class _Watch:
    """One waiting worker's view of the current term."""

    def __init__(self, stale: float, confirm: float) -> None:
        self.stale, self.confirm = stale, confirm
        self.seen: tuple[Path, float] | None = None
        self.since = 0.0
        self.suspicious = False  # no sign of life for long, to be confirmed by a second look

    def ended(self, path: Path) -> bool:
        """Whether the term of the file ``path`` has ended."""
        holder = _read(path)
        try:
            touched = path.stat().st_mtime
        except FileNotFoundError:
            return True
        if touched == 0:  # its holder said so
            return True
        if _here(holder):
            return not _alive(holder)
        now = time.monotonic()
        if self.seen != (path, touched):
            self.seen, self.since = (path, touched), now
        unchanged = now - self.since
        if unchanged >= self.stale:
            return True
        self.suspicious = _file_system_now(path.parent) - touched > self.stale
        return self.suspicious and unchanged >= self.confirm


def _file_system_now(folder: Path) -> float:
    """The time by the clock that stamps the lease files; a server's clock may differ from this machine's."""
    probe = folder / f".probe-{uuid.uuid4().hex}"
    probe.touch()
    now = probe.stat().st_mtime
    probe.unlink(missing_ok=True)
    return now


def _here(holder: Mapping[str, Any]) -> bool:
    """Whether the holder is a process of this machine whose life can be asked for."""
    pid = holder.get("pid")
    # Elsewhere than on POSIX, signal 0 is not a harmless question.
    return holder.get("host") == socket.gethostname() and isinstance(pid, int) and pid > 0 and os.name == "posix"


def _alive(holder: Mapping[str, Any]) -> bool:
    pid = holder["pid"]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    started = _started(pid)
    return started is None or holder.get("started") is None or started == holder["started"]  # else the id was reused


def _started(pid: int) -> str | None:
    """When a process of this machine began, as the system counts it; None where that cannot be known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return f"{boot}:{'ended' if fields[0] == 'Z' else fields[19]}"


def _read(path: Path) -> dict:
    """Who wrote the file; empty while its holder is still writing, when only its age can be judged."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _holder(folder: Path, name: str) -> str:
    numbers = _terms(folder, name)
    holder = _read(folder / f"{name}.{numbers[-1]}") if numbers else {}
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
