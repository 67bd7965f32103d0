"""The command ``secateurs``, for an installed package: what ``python run.py`` and ``python -m benchmarks.X`` do.

secateurs -m method=spectral,dpp seed=0,1,2      as python run.py -m method=spectral,dpp seed=0,1,2
secateurs leaderboard                            as python -m benchmarks.leaderboard
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import NoReturn, TextIO

TYPED = (  # commands as messages name them in a clone, and their names where the package is installed
    (re.compile(r"python(\s+)-m(\s+)benchmarks\.(\w+)"), r"secateurs\1\3"),
    (re.compile(r"python(\s+)run\.py"), r"secateurs"),
)


def start() -> NoReturn:
    """Run the command with this process's arguments, and exit with its exit code."""
    _find_modules_safely()
    sys.stdout, sys.stderr = _Renaming(sys.stdout), _Renaming(sys.stderr)  # type: ignore[assignment]  # as good as files
    from benchmarks.storage.entry_point import USAGE, command_names, end

    words = sys.argv[1:]
    if words and re.fullmatch(r"[a-z]\w*", words[0]) and words[0] not in command_names():
        sys.stderr.write(
            f"'{words[0]}' is no command; commands are: {', '.join(command_names())}; see secateurs --help\n"
        )
        sys.exit(USAGE)
    if words and words[0] in command_names():
        sys.argv = [f"secateurs {words[0]}", *words[1:]]
        package = f"benchmarks.{words[0]}"
        module = importlib.import_module(package)
        end(module.main if hasattr(module, "main") else importlib.import_module(f"{package}.__main__").main)
    sys.argv = ["secateurs", *words]
    from benchmarks.sweeps.run_command import main

    sys.exit(main(words))


def renamed(text: str) -> str:
    """``text`` with the commands of a clone replaced by the names that they have in the installed package."""
    for pattern, name in TYPED:
        text = pattern.sub(name, text)
    return text


def _find_modules_safely() -> None:
    """Put the working directory last in the module search path, also for child processes.

    A folder of the user's with the name of one of our packages is then not imported in its place.
    """
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    here = os.getcwd()  # noqa: PTH109  # as it stands in sys.path
    sys.path[:] = [path for path in sys.path if path not in ("", here)] + [here]


class _Renaming:
    """A text stream that rewrites the commands in messages to those of the installed package."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text``, renamed."""
        self._stream.write(renamed(text))
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
