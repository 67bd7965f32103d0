"""Start and end a command of the suite: check its name, print messages, and return the right exit code."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.storage.console import printable
from methods.errors import BadInput

INTERRUPTED = 130
USAGE = 2  # the exit code for a command that does not exist
FOLDER = Path(__file__).resolve().parents[1]
RUNS = '\nif __name__ == "__main__":'
MODULE = re.compile(r"-[bBdEiIOPqsSuvx]*m(.*)")  # Python's option, perhaps in one word with others and with the module
FAILED, WRONG = 1, 2  # exit codes: what was asked for could not be done; the command itself was wrong
EXIT_CODES = "exit codes: 0 done; 1 it could not be done, or cells failed; 2 the command was wrong; 130 interrupted"


class Parser(argparse.ArgumentParser):
    """An option parser that reports a mistake in one line, without the usage text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"epilog": EXIT_CODES, **options})

    def error(self, message: str) -> NoReturn:
        """Raise :class:`BadInput` where argparse would print its usage and exit.

        Raises:
            BadInput: always.
        """
        raise BadInput(f"{message}; see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, but refuse ``--option=--``, which it would turn into an empty list."""
        for word in sys.argv[1:] if args is None else args:
            if word.startswith("--") and word.endswith("=--"):
                self.error(f"{word[:-3]} has no value")
        return super().parse_known_args(args, namespace)


def greet() -> None:
    """Print, before any slow import, that the command has begun; only on a terminal, not in a log."""
    if sys.stderr.isatty():
        sys.stderr.write("secateurs: starting\n")
        sys.stderr.flush()


def forget_output() -> None:
    """Discard further output, since nothing reads standard output any more (as after ``head``)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def end(main: Callable[[], int]) -> NoReturn:
    """Run ``main`` and exit with its exit code, or with 2 and a plain message if the input was bad."""
    greet()
    try:
        code = main()
        sys.stdout.flush()
    except (BadInput, OSError) as error:
        if isinstance(error, BrokenPipeError):  # the reader, `head` for instance, has seen enough
            forget_output()
            sys.exit(0)
        sys.stderr.write(f"{printable(str(error))}\n")
        sys.exit(WRONG if isinstance(error, BadInput) else FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(code)


def check_page(page: Path, text: str, source: str, command: str) -> int:
    """Report whether ``page`` of docs/ equals ``text``, which comes from ``source``; return the exit code."""
    name = f"{page.parent.name}/{page.name}"
    if page.is_file() and page.read_bytes() == text.encode():
        sys.stdout.write(f"{name} is what {source}\n")
        return 0
    sys.stdout.write(f"{name} is out of date; write it: {command}\n")
    return 1


def command_names() -> list[str]:
    """The commands ``python -m benchmarks.X``: the runnable modules and packages directly in ``benchmarks``."""
    files = [path for path in FOLDER.glob("[a-z]*.py") if RUNS in path.read_text(encoding="utf-8")]
    return sorted([path.stem for path in files] + [path.parent.name for path in FOLDER.glob("*/__main__.py")])


def require_command(words: Sequence[str]) -> None:
    """Exit with a message if ``words``, the command line of Python, run a module that is not a command.

    Python itself would import such a module and end as if all were well.
    """
    module = next((_after(words, place) for place, word in enumerate(words) if place and MODULE.fullmatch(word)), "")
    package, _, name = module.partition(".")
    if package != __package__.partition(".")[0] or not name or _runs(name):
        return
    commands = command_names()
    near = [] if "." in name else difflib.get_close_matches(name, commands, 1)
    hint = f"did you mean python -m benchmarks.{near[0]}? " if near else ""
    sys.stderr.write(f"{module} is no command; {hint}Commands are: {', '.join(commands)}\n")
    sys.exit(USAGE)


def _after(words: Sequence[str], place: int) -> str:
    """The module that the option ``-m`` at ``place`` names, in the next word or in the same one."""
    found = MODULE.fullmatch(words[place])
    return (found[1] if found else "") or next(iter(words[place + 1 :]), "")


def _runs(name: str) -> bool:
    path = FOLDER.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__main__.py"):
        if file.is_file():
            return RUNS in file.read_text(encoding="utf-8")
    return False
