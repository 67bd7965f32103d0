"""The switches of planted faults; copied beside the code that has them."""

import os
from pathlib import Path

active = int(os.environ.get("PLANTED_FAULT", "-1"))
seen: set[int] = set()
told = os.environ.get("PLANTED_SEEN")  # the file in which processes that a test starts say what they reach


def fault(number: int) -> bool:
    """Whether this fault is on; that its place was reached is remembered."""
    if number not in seen:
        seen.add(number)
        if told:
            with Path(told).open("a", encoding="utf-8") as out:
                out.write(f"{number}\n")
    return number == active
