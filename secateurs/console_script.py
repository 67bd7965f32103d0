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

TYPED = (  # what messages say to type in a clone, and what it is called where the package is installed
    (re.compile(r"python(\s+)-m(\s+)benchmarks\.(\w+)"), r"secateurs\1\3"),
    (re.compile(r"python(\s+)run\.py"), r"secateurs"),
)


def start() -> NoReturn:
    """Run the command with the words of this process, and leave it with the exit code."""
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
    """``text`` with the commands of a clone under the names that the installed package has."""
    for pattern, name in TYPED:
        text = pattern.sub(name, text)
    return text


def _find_modules_safely() -> None:
    """Modules of the user's in the working directory are found behind ours, also by processes that are started.

    A folder of the user's that is called as one of our packages does not come before it.
    """
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    here = os.getcwd()  # noqa: PTH109  # as it stands in sys.path
    sys.path[:] = [path for path in sys.path if path not in ("", here)] + [here]


class _Renaming:
    """A stream of text on which messages name the command that was typed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text``, renamed."""
        self._stream.write(renamed(text))
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
