"""What happens between the words typed after `python run.py` and the cells: help, checks, the sweep, its conclusion.

Nothing heavy is imported before it is needed, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence

from benchmarks.settings.home import CONF
from benchmarks.storage.command import INTERRUPTED
from benchmarks.storage.console import printable
from benchmarks.sweeps.request import Request
from methods.errors import BadInput

FULL_ERROR = "HYDRA_FULL_ERROR"  # Hydra's own switch: show tracebacks
GROUPS = {
    "dataset": "what is learned",
    "model": "which network",
    "trainer": "how the dense network is trained and the pruned one fine-tuned",
    "method": "which units stay; sets its paper's own parts below",
    "allocation": "how many units each layer keeps",
    "compensation": "how the survivors make up for the removed",
    "schedule": "when units are removed",
    "budget": "how small: budget.keep=0.2, budget.compression=4 or budget.speedup=2",
    "measure": "what is measured beside accuracy",
    "track": "where runs are logged",
    "experiment": "named grids: -m +experiment=NAME",
}
USAGE = """Secateurs compares pruning methods for neural networks.

  python run.py method=spectral                            one cell
  python run.py -m method=spectral,dpp seed=0,1,2          a sweep: all combinations; what is done is not done again
  python run.py -m method=spectral,random compensation=none,least_squares budget.speedup=2,4
  python run.py -m method=spectral,dpp hydra/launcher=joblib    the same on all cores

  -m, --multirun   sweep over comma-separated values       --cfg      print the configuration of the cell
  --dry-run        list the cells and what is there        -h, --help this text

Then: python -m benchmarks.leaderboard, python -m benchmarks.status

Groups, each a folder of conf/ (type GROUP=CHOICE; any key in a file can be set too: selection.theta=0.3):
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code. Mistakes get a line or two, faults of ours a traceback."""
    if any(word in ("-h", "--help") for word in arguments):
        sys.stdout.write(usage())
        return 0
    try:
        request = parse(arguments)
        _terminate_like_an_interrupt()
        from benchmarks.sweeps.sweep import sweep

        return sweep(request)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; finished cells are kept. The same command goes on where this one stopped.\n")
        return INTERRUPTED
    except (BadInput, OSError) as error:
        if os.environ.get(FULL_ERROR):
            traceback.print_exc()
        else:
            sys.stderr.write(f"{printable(str(error))}\n")
        return 1


def parse(arguments: Sequence[str]) -> Request:
    """Flags and overrides; an unknown flag is refused."""
    flags = {"-m": "multirun", "--multirun": "multirun", "--dry-run": "dry_run", "--cfg": "show"}
    words, given = [], {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word in flags:
            given[flags[word]] = True
            if word == "--cfg" and rest and rest[0] in ("job", "all", "hydra"):
                rest.pop(0)
        elif word.startswith("-"):
            raise BadInput(f"unknown option {word}; expected one of {', '.join(flags)}, or KEY=VALUE; see --help")
        elif word in ("dry_run=true", "dry_run=True"):
            given["dry_run"] = True
        else:
            words.append(f"+{word}" if word.startswith("experiment=") else word)
    if any(word.lstrip("+").startswith("model._target_=") for word in words) and not any(
        word.lstrip("+").startswith("model=") for word in words
    ):
        words.insert(0, "model=own")  # without the arguments of the network that is chosen otherwise
    return Request(words, **given)


def usage() -> str:
    """The help text, with the choices read from the folders of conf/."""
    lines = [USAGE]
    for group, meaning in GROUPS.items():
        choices = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        lines.append(f"  {group:<13}{meaning}\n{_wrapped(choices)}")
    return "".join(lines)


def _wrapped(choices: Sequence[str], width: int = 104) -> str:
    rows, row = [], ""
    for choice in choices:
        if row and len(row) + len(choice) + 2 > width:
            rows.append(row)
            row = ""
        row += f"{choice}, "
    rows.append(row)
    return "".join(f"      {line.rstrip(' ,')}\n" for line in rows)


def _terminate_like_an_interrupt() -> None:
    """SIGTERM ends the cell as Ctrl-C does, so that trackers are closed and no half file is left."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
