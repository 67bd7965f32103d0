"""The one console for results, and text cut to a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


LOG_WIDTH = 120  # columns when the output is a file or a pipe, which have no width of their own


def output_console(stderr: bool = False) -> Console:
    """A console as wide as the terminal, or wide enough for a board where there is none."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=LOG_WIDTH)


def one_line(text: str, limit: int = 100) -> str:
    """The first line of ``text``, shortened to ``limit`` characters, where it can be between two words."""
    line = next(iter(text.strip().splitlines()), "")
    if len(line) <= limit:
        return line
    whole, gap, _ = line[: limit - 1].rpartition(" ")
    return (f"{whole} " if gap and len(whole) > limit // 2 else line[: limit - 1]) + "…"
