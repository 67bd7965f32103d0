"""Work that never ends is ended; other work gives what it gives."""

import threading

import pytest

from methods.deadline import within


def test_results_and_failures_come_through():
    assert within(60, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(60, lambda: 1 // 0)


def test_endless_work_is_given_up_and_stops():
    ended = threading.Event()

    def endless():
        try:
            while True:
                try:
                    sum(range(10))
                except Exception:  # what the work catches by itself does not keep it alive
                    continue
        finally:
            ended.set()

    with pytest.raises(TimeoutError, match=r"no end after 0.1 s"):
        within(0.1, endless)
    assert ended.wait(60)
