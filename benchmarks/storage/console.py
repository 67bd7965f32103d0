"""The console for results, which strips control characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


LOG_WIDTH = 1000  # columns when the output is a file or a pipe: it has no width of its own, and gets all columns


STEERING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # categories of characters that move, hide or turn others


def printable(text: str) -> str:
    """``text`` with every character that controls a terminal replaced by U+FFFD, except line ends and tabs."""
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if c not in "\n\t" and unicodedata.category(c) in STEERING else c for c in text)


def output_console(stderr: bool = False) -> Console:
    """A console as wide as the terminal, or wide enough for a board where there is none."""
    console = _console(stderr=stderr, highlight=False)
    return console if console.is_terminal else _console(stderr=stderr, highlight=False, width=LOG_WIDTH)


def _console(**options: Any) -> Console:
    """A console on which no text can send control characters to the terminal."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Unsteered(Console):
        def print(self, *objects: Any, **options: Any) -> None:
            # Lines in a log are searched, and commands in it are copied: so only terminals wrap lines.
            if not self.is_terminal and all(isinstance(thing, str) for thing in objects):
                options.setdefault("soft_wrap", True)
            super().print(*objects, **options)

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for segment in super().render(renderable, options):
                text, style, control = segment
                yield segment if control else Segment(printable(text), style)

    return Unsteered(**options)
