"""Let one worker do a piece of work while others wait, across processes and machines that share a folder.

The lease is a plain file and not a lock of the operating system: such locks are unreliable on network file systems.
Terms are numbered, ``lease.0``, ``lease.1``, ...; the highest number is the current one. A term begins by creating its
file with ``O_EXCL``, which exactly one worker can do. The holder touches its file every few seconds; a term whose file
has not been touched for ``stale`` seconds has ended, whatever became of its holder, and the next number may be created.
No file is deleted before the work is finished, so no two workers can take over from the same dead holder.

If the holder's process can be checked (same host, same boot and same process namespace, since containers share host
names and number processes from one), its death ends the term at once; while it runs, the term ends only after no touch
for all of ``stale``, by a monotonic clock. If it cannot be checked, or is stopped, a waiting worker looks twice, some
seconds apart by such a clock: a change of the system clock must neither end a living worker's term nor prolong a dead
one's.

A worker that was stopped for long may have lost its lease when it continues. So it checks (:meth:`Lease.held`) before
it writes: the highest term must be its own, identified by a token that only its file has.
"""

import json
import logging
import math
import os
import secrets
import socket
import stat
import threading
import time
import uuid
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.storage.reading import Unfit, content_of, plain_json
from methods.errors import BadInput

LOG = logging.getLogger(__name__)

LENGTH = "SECATEURS_LEASE"  # environment variable: seconds without a heartbeat after which a term has ended
STALE_SECONDS = 30.0
SHORTEST = 0.5  # seconds; anything shorter ends terms of workers that only wait for a disk
SIGNS = 6  # heartbeats in the time after which their absence ends a term
POLL_SECONDS = 0.5
LONGEST = 10_000  # bytes of a lease
MOST_PROCESSES = 2**31
LATEST = 1e12  # seconds since 1970


class Busy(Exception):
    """Another worker is doing the work, and the caller did not want to wait."""


class Lost(Exception):
    """Another worker has taken over or finished the work: this worker's result must not be written."""


@dataclass(frozen=True)
class Lease:
    """A worker's lease of a piece of work; false if there is none, because the work is done.

    Attributes:
        path: the path of the file of its term; None where it has none.
        token: a word that no other term has.
    """

    path: Path | None = None
    token: str = ""

    def __bool__(self) -> bool:
        return self.path is not None

    def held(self) -> bool:
        """Whether this worker still holds the lease, at the moment of the check."""
        if self.path is None:
            return False
        name = self.path.stem
        numbers = _terms(self.path.parent, name)
        if not numbers or self.path.name != f"{name}.{numbers[-1]}":
            return False
        return _read(self.path).get("token") == self.token


@dataclass(frozen=True)
class Holder:
    """The worker of a piece of work, its machine, and since when (seconds since 1970 by that machine's clock)."""

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
    heartbeat: float | None = None,
    stale: float | None = None,
    poll: float = POLL_SECONDS,
) -> Iterator[Lease]:
    """Give the work to one worker.

    Args:
        folder: where the result will lie; the lease files lie there too.
        finished: whether the result is there, complete: those who wait read it as soon as this says so. Asked again
            after the lease was won: the former holder may just have ended.
        label: what is being worked on, for the message of those who wait.
        name: the name of the lease files, where several pieces of work share the folder.
        wait: whether to wait for another worker.
        heartbeat: seconds between two heartbeats; by default a sixth of :func:`lease_seconds`.
        stale: seconds without a heartbeat after which another worker takes over; by default :func:`lease_seconds`.
        poll: seconds between two checks by a waiting worker.

    Yields:
        The lease to the worker that is to do the work now, a false one to a worker that finds it finished.

    Raises:
        Busy: another worker is doing the work, and ``wait`` is false.
    """
    stale = lease_seconds() if stale is None else stale
    heartbeat = lease_seconds() / SIGNS if heartbeat is None else heartbeat
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
        yield Lease()
        return
    with _heartbeat(lease, heartbeat):
        yield Lease() if finished() else lease
    if finished():  # the result is there, so that a later holder finds nothing to do: the files can be removed
        _remove(folder, name)


def lease_seconds() -> float:
    """Seconds without a heartbeat after which a term has ended: 30, or what ``SECATEURS_LEASE`` says.

    Raises:
        BadInput: the variable is not a valid number of seconds.
    """
    text = os.environ.get(LENGTH, "")
    if not text:
        return STALE_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if SHORTEST <= seconds < LATEST:
        return seconds
    raise BadInput(f"{LENGTH}={text!r} is no number of seconds from {SHORTEST:g} on; type for instance {LENGTH}=60")


def holders(folder: Path, stale: float | None = None) -> list[Holder]:
    """The latest holder of every piece of work that was begun in ``folder`` and not finished. Writes nothing."""
    stale = lease_seconds() if stale is None else stale
    found = []
    for name in sorted({path.stem for path in folder.glob("[!.]*.*") if _number(path) is not None}):
        numbers = _terms(folder, name)
        path = folder / f"{name}.{numbers[-1]}" if numbers else folder
        holder = _read(path)
        try:
            touched = path.lstat().st_mtime
        except OSError:
            continue
        if holder and "time" in holder:
            state = _state(holder) if _here(holder) else "elsewhere"
            recent = state == "running" or time.time() - touched <= 2 * stale
            alive = touched > 0 and recent and state != "ended"
            label, since = str(holder.get("label", name)), float(holder["time"])
            found.append(Holder(name, label, holder["host"], holder["pid"], since, alive))
    return sorted(found, key=lambda holder: holder.label)


def remove_finished(folder: Path, finished: Container[str]) -> None:
    """Remove the files of ``finished`` pieces of work whose holders died before they could do so."""
    for holder in holders(folder):
        if holder.name in finished and not holder.alive:
            _remove(folder, holder.name)


def _remove(folder: Path, name: str) -> None:
    for number in _terms(folder, name):
        with suppress(IsADirectoryError, PermissionError):  # a folder of that name is none of ours
            (folder / f"{name}.{number}").unlink(missing_ok=True)


def _next_term(folder: Path, name: str, label: str, watch: "_Watch") -> Lease | None:
    """Create the file of the next term if the current one has ended; None if it has not, or if another was faster."""
    numbers = _terms(folder, name)
    if numbers and not watch.ended(folder / f"{name}.{numbers[-1]}"):
        return None
    path = folder / f"{name}.{numbers[-1] + 1 if numbers else 0}"
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return None
    token = secrets.token_hex(8)
    holder = {"label": label, **_identity(), "time": time.time(), "token": token}
    try:
        os.write(descriptor, json.dumps(holder).encode())  # in one act: what is empty is still being written
    finally:
        os.close(descriptor)
    return Lease(path, token)


def _terms(folder: Path, name: str) -> list[int]:
    numbers = (_number(path) for path in folder.glob(f"{name}.*") if path.stem == name)
    return sorted(number for number in numbers if number is not None)


def _number(path: Path) -> int | None:
    digits = path.suffix[1:]
    return int(digits) if digits.isascii() and digits.isdecimal() and str(int(digits)) == digits else None


class _Watch:
    """One waiting worker's view of the current term."""

    def __init__(self, stale: float, confirm: float) -> None:
        self.stale, self.confirm = stale, confirm
        self.seen: tuple[Path, float] | None = None
        self.since = 0.0
        self.suspicious = False  # no sign of life for long, to be confirmed by a second look

    def ended(self, path: Path) -> bool:
        """Whether the term of the file ``path`` has ended."""
        try:
            status = path.lstat()
        except FileNotFoundError:
            return True
        touched, holder = status.st_mtime, _read(path)
        if touched == 0:  # its holder said so
            return True
        if not holder and (status.st_size or not stat.S_ISREG(status.st_mode)):  # garbage; who is still writing: empty
            return True
        state = _state(holder) if _here(holder) else "elsewhere"
        if state == "ended":
            return True
        now = time.monotonic()
        if self.seen != (path, touched):
            self.seen, self.since = (path, touched), now
        unchanged = now - self.since
        if unchanged >= self.stale:
            return True
        self.suspicious = state != "running" and _file_system_now(path.parent) - touched > self.stale
        return self.suspicious and unchanged >= self.confirm


def _file_system_now(folder: Path) -> float:
    """The time by the clock that stamps the lease files; a server's clock may differ from this machine's."""
    probe = folder / f".probe-{uuid.uuid4().hex}"
    probe.touch()
    now = probe.stat().st_mtime
    probe.unlink(missing_ok=True)
    return now


@cache
def _system() -> tuple[str | None, str | None]:
    """The boot id of this system and the namespace of its process ids; None where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return boot, str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None, None


def _identity() -> dict[str, Any]:
    """Who this process is."""
    boot, space = _system()
    pid = os.getpid()
    status = _status(pid)
    started = status and f"{boot}:{status[1]}"
    return {"host": socket.gethostname(), "boot": boot, "space": space, "pid": pid, "started": started}


def _here(holder: Mapping[str, Any]) -> bool:
    """Whether this process can check if the holder's process is alive."""
    boot, space = _system()
    if boot is None or space is None or os.name != "posix":  # elsewhere signal 0 is not a harmless question
        return False
    ours = (socket.gethostname(), boot, space)
    return (holder.get("host"), holder.get("boot"), holder.get("space")) == ours


def _state(holder: Mapping[str, Any]) -> str:
    """The state of the holder's process, which is on this machine: ``running``, ``stopped`` or ``ended``."""
    pid = holder["pid"]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "ended"
    except PermissionError:
        pass
    status = _status(pid)
    if status is None:
        return "running"
    letter, began = status
    if letter in "ZX" or holder.get("started") not in (None, f"{_system()[0]}:{began}"):  # else the id was reused
        return "ended"
    return "stopped" if letter in "Tt" else "running"


def _status(pid: int) -> tuple[str, str] | None:
    """The letter of a process's state and when it began, as the system counts it; None where that cannot be known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return None


def _read(path: Path) -> dict[str, Any]:
    """The holder as written in the file; empty while it is still being written, and for files that are not leases."""
    try:
        holder = plain_json(content_of(path, LONGEST))
    except (OSError, Unfit):
        return {}
    if not isinstance(holder, dict):
        return {}
    pid, since = holder.get("pid"), holder.get("time", 0.0)
    sound = type(pid) is int and 0 < pid < MOST_PROCESSES and isinstance(holder.get("host"), str)
    return holder if sound and type(since) in (int, float) and abs(since) < LATEST else {}


def _holder(folder: Path, name: str) -> str:
    numbers = _terms(folder, name)
    holder = _read(folder / f"{name}.{numbers[-1]}") if numbers else {}
    return f"process {holder['pid']} on {holder['host']}" if holder else "another process"


@contextmanager
def _heartbeat(lease: Lease, seconds: float) -> Iterator[None]:
    """Renew the lease while the body runs, and mark it as ended afterwards.

    If this holder was taken for dead, the file may by now be another holder's, so each heartbeat checks first.
    """
    path = lease.path
    assert path is not None
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(seconds):
            with suppress(OSError):
                if _read(path).get("token") == lease.token:
                    os.utime(path)  # no explicit time: the file system's own clock

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with suppress(OSError):
            if _read(path).get("token") == lease.token:
                os.utime(path, (0, 0))  # ended long ago: the next worker need not wait if this one failed
