"""Run code of other packages that may never end, and stop waiting for it after a time."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


class _Enough(BaseException):
    """Raised inside work whose time is over; no handler of ordinary exceptions catches it."""


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """Run ``work`` in a daemon thread and return its result.

    Only work whose loops are Python's can be ended; other work goes on unseen until the process ends.

    Args:
        seconds: how long to wait.
        work: called without arguments; modes of torch that belong to a thread (inference, no gradients) stay outside.

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
