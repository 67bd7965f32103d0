"""The one console for results, text that cannot steer it, and text cut to a line."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


LOG_WIDTH = 120  # columns when the output is a file or a pipe, which have no width of their own


STEERING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # categories of characters that move, hide or turn others


def printable(text: str) -> str:
    """``text`` without the characters that steer a terminal: each becomes U+FFFD, but for line ends and tabs."""
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if c not in "\n\t" and unicodedata.category(c) in STEERING else c for c in text)


def output_console(stderr: bool = False) -> Console:
    """A console as wide as the terminal, or wide enough for a board where there is none."""
    console = _console(stderr=stderr, highlight=False)
    return console if console.is_terminal else _console(stderr=stderr, highlight=False, width=LOG_WIDTH)


def _console(**options: Any) -> Console:
    """A console on which no text, wherever it comes from, gets at the terminal behind it."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Unsteered(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            # A line in a log is searched and a command in it copied: only terminals wrap them.
            if not self.is_terminal and all(isinstance(thing, str) for thing in objects):
                options.setdefault("soft_wrap", True)
            super().print(*objects, **options)

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                text, style, control = segment
                yield segment if control else Segment(printable(text), style)

    return Unsteered(**options)


def first_line(error: BaseException | str, limit: int = 300) -> str:
    """The first line of an error's message that says anything, or the error's kind where it says nothing."""
    lines = (line.strip() for line in str(error).splitlines())
    line = next(filter(None, lines), type(error).__name__ if isinstance(error, BaseException) else "")
    return one_line("".join(letter if letter.isprintable() else "?" for letter in line), limit)


def one_line(text: str, limit: int = 100) -> str:
    """The first line of ``text``, shortened to ``limit`` characters, where it can be between two words."""
    line = next(iter(text.strip().splitlines()), "")
    if len(line) <= limit:
        return line
    whole, gap, _ = line[: limit - 1].rpartition(" ")
    return (f"{whole} " if gap and len(whole) > limit // 2 else line[: limit - 1]) + "…"
