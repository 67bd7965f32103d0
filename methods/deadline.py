"""Run code of other packages that may never end, and stop waiting for it after a time."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class _Enough(BaseException):
    """Raised inside work whose time is up; no handler of ordinary exceptions catches it."""


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """Run ``work`` in a daemon thread and return its result.

    Only loops in Python can be interrupted; other work continues in the background until the process ends.

    Args:
        seconds: how long to wait.
        work: called without arguments; thread-local modes of torch (inference, no gradients) do not apply to it.

    Raises:
        TimeoutError: if it takes longer.
        Exception: whatever ``work`` raises.
    """
    results: list[Result] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as failure:  # handed on to the caller below
            failures.append(failure)

    thread = threading.Thread(target=run, name="deadline", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        # without this the thread would use a core, and ever more memory, to the end of the process
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_Enough))
        raise TimeoutError(f"no end after {seconds:g} s")
    if failures:
        raise failures[0]
    return results[0]
