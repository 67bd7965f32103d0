"""Read untrusted files safely: only plain files of bounded size that hold plain and shallow JSON."""

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from methods.errors import first_line

LONGEST = 10_000_000  # bytes of one file; a record has some ten thousand
LONGEST_REASON = 200  # characters
DEEPEST = 40  # levels of lists and mappings in each other; a record has eight
KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


class Unfit(ValueError):
    """A file that is not what it should be; the message says what it is.

    ``unread`` says that its content was not examined, so that it may turn out valid later or for another user.
    """

    def __init__(self, message: str, unread: bool = False) -> None:
        super().__init__(message)
        self.unread = unread


def content_of(path: Path, longest: int = LONGEST) -> bytes:
    """The bytes of a plain file, or of the plain file that a link leads to.

    A device or a named pipe, on which reading would block, is never opened.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        Unfit: it is no plain file, a link that leads nowhere, cannot be read, or is longer than ``longest`` bytes.
    """
    try:
        _require_plain(path.stat(), longest)
        # Not blocking, since what was a plain file a moment ago may be a pipe by now.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with os.fdopen(descriptor, "rb") as file:
            _require_plain(os.fstat(file.fileno()), longest)
            content = file.read(longest + 1)
    except FileNotFoundError:
        if path.is_symlink():
            raise Unfit("a link that leads nowhere", unread=True) from None
        raise
    except OSError as error:
        raise Unfit(f"cannot be read: {error.strerror}", unread=True) from None
    if len(content) > longest:
        raise Unfit(f"larger than {longest:,} bytes")
    return content


def _require_plain(status: os.stat_result, longest: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for test, name in KINDS.items() if test(status.st_mode)), "something else")
        raise Unfit(f"{kind}, not a file")
    if status.st_size > longest:
        raise Unfit(f"larger than {longest:,} bytes")


def plain_json(content: bytes) -> Any:
    """The JSON value in ``content``, which is UTF-8.

    Raises:
        Unfit: it is not JSON, is nested deeper than ``DEEPEST``, names one thing twice, or holds what JSON has not
            (NaN, infinity, half a character) or Python does not read (numbers of thousands of digits).
    """
    try:
        text = content.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_number)
        if "\\ud" in text or "\\uD" in text:  # half a character cannot be written again
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise Unfit(f"not JSON of at most {DEEPEST} levels") from None
    except Unfit:
        raise
    except ValueError as error:
        raise Unfit(f"not JSON ({first_line(error, 120)})") from None
    _require_shallow(value)
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Unfit("not JSON in which each name stands once")
    return found


def _no_number(name: str) -> NoReturn:
    raise Unfit(f"not JSON ({name} is no number)")


def _require_shallow(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        level = [part for outer in level for part in _parts(outer) if isinstance(part, dict | list)]
        if not level:
            return
    raise Unfit(f"not JSON of at most {DEEPEST} levels")


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def fault_of(error: Exception) -> str:
    """What is wrong with a file's content, in a line: of pydantic's errors the first, with its place."""
    if not isinstance(error, ValidationError):
        return first_line(error, LONGEST_REASON)
    fault = error.errors(include_url=False, include_input=False)[0]
    return first_line(": ".join(filter(None, [".".join(map(str, fault["loc"])), fault["msg"]])), LONGEST_REASON)
