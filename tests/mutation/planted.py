"""The switches of planted faults; copied beside the code that has them."""

import os

active = int(os.environ.get("PLANTED_FAULT", "-1"))
seen: set[int] = set()


def fault(number: int) -> bool:
    """Whether this fault is on; that its place was reached is remembered."""
    seen.add(number)
    return number == active
