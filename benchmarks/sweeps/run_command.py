"""Handle the arguments of `python run.py` before Hydra does: flags, short forms, mistakes, the exit code.

Nothing heavy is imported before it is needed, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence

from benchmarks.storage.console import printable
from benchmarks.storage.entry_point import INTERRUPTED, Parser, forget_output, greet
from benchmarks.sweeps.request import RAISING, Request, carrying_out
from methods.errors import BadInput

WRONG = 2  # exit code of a command that cannot be carried out
FAILED = 1  # of one whose cells failed
# Hydra's own options and how many values each takes; `python run.py --hydra-help` says what they do.
OPTIONS = {
    ("--help", "-h"): 0,
    ("--hydra-help",): 0,
    ("--version",): 0,
    ("--cfg", "-c"): 1,
    ("--resolve",): 0,
    ("--package", "-p"): 1,
    ("--run", "-r"): 0,
    ("--shell-completion", "-sc"): 0,
    ("--config-path", "-cp"): 1,
    ("--config-name", "-cn"): 1,
    ("--config-dir", "-cd"): 1,
    ("--experimental-rerun",): 1,
    ("--info", "-i"): 1,
}
SHOWN = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
SHORT_FORMS = ("experiment", "from_record", "allow_targets")  # keys that are typed without Hydra's plus, too


def main(arguments: Sequence[str]) -> int:
    """Run the command and return the exit code; a user's mistake gets a line or two, a bug a traceback."""
    call = None
    greet()
    try:
        with carrying_out(parse(arguments)) as call:
            _terminate_like_an_interrupt()
            from benchmarks.sweeps.application import carry_out

            carry_out(call)
            sys.stdout.flush()
            return call.outcome.code
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; finished cells are kept. The same command goes on where this one stopped.\n")
        return INTERRUPTED
    except SystemExit as end:  # after --help, for instance
        if end.code == FAILED and (call is None or not call.launched):
            return WRONG  # Hydra exits with 1 if a package is missing
        return end.code if isinstance(end.code, int) else WRONG if end.code else 0
    except BrokenPipeError:
        forget_output()
        return 0
    except (BadInput, OSError) as error:
        if os.environ.get(RAISING):
            traceback.print_exc()
        else:
            sys.stderr.write(f"{printable(str(error))}\n")
        return FAILED if call is not None and call.launched else WRONG


def parse(arguments: Sequence[str]) -> Request:
    """Flags and overrides.

    Raises:
        BadInput: an option is unknown, or its value is.
    """
    parser = _parser()
    options, unread = parser.parse_known_intermixed_args(_with_values(arguments))
    words = [_long_form(word) for word in options.words]
    if unread:
        known = ["-m", "--multirun", "--dry-run", "--cfg"]
        raise BadInput(f"unknown option {unread[0]}; expected one of {', '.join(known)}, or KEY=VALUE; see --help")
    _one_mode(options)
    dry_run = options.dry_run or any(word in ("dry_run=true", "dry_run=True") for word in words)
    words = [word for word in words if word not in ("dry_run=true", "dry_run=True")]
    if any(word.lstrip("+").startswith("model._target_=") for word in words) and not any(
        word.lstrip("+").startswith("model=") for word in words
    ):
        words.insert(0, "model=own")  # without the arguments of the network that is chosen otherwise
    request = Request(words, options.multirun, dry_run, _flags(options))
    return request if options.cfg is None else _one_cell_to_show(request)


def _parser() -> Parser:
    parser = Parser(prog="python run.py", add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    for names, values in OPTIONS.items():
        if values:
            parser.add_argument(*names, choices=SHOWN.get(names[0]))
        else:
            parser.add_argument(*names, action="store_true")
    return parser


def _one_mode(options: argparse.Namespace) -> None:
    """Refuse options that ask for several things at once; --cfg may be combined with -m for a single cell.

    Raises:
        BadInput: the options contradict each other.
    """
    modes = {
        "--run": options.run,
        "--multirun": options.multirun and options.cfg is None,
        "--cfg": options.cfg is not None,
        "--info": options.info is not None,
        "--shell-completion": options.shell_completion,
    }
    asked = [name for name, wanted in modes.items() if wanted]
    if len(asked) > 1:
        raise BadInput(f"{' and '.join(asked)} ask for different things; leave out all but one of them")
    if options.resolve and options.cfg is None and not options.help:
        raise BadInput("--resolve is for --cfg; type python run.py --cfg job --resolve")
    if options.package is not None and not re.fullmatch(r"[\w.]+", options.package):
        raise BadInput(f"--package {options.package} is no path of a configuration; type --package trainer.train")
    verbs = [word for word in options.words if word.partition("=")[0] in ("install", "uninstall", "query")]
    if options.shell_completion and len(verbs) != 1:
        raise BadInput("--shell-completion needs to know what to do; type python run.py -sc install=bash")


def _with_values(arguments: Sequence[str]) -> list[str]:
    """``--cfg`` alone is ``--cfg job``, and ``--info`` alone ``--info all``."""
    filled = []
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        filled.append(word)
        for name, short in (("--cfg", "-c"), ("--info", "-i")):
            if word in (name, short) and following not in SHOWN[name]:
                filled.append("job" if name == "--cfg" else "all")
    return filled


def _flags(options: argparse.Namespace) -> list[str]:
    """What is given of Hydra's own options, as Hydra reads it."""
    flags = []
    for (name, *_), values in OPTIONS.items():
        value = getattr(options, name.lstrip("-").replace("-", "_"))
        if value:
            flags += [name, value] if values else [name]
    return flags


def _long_form(word: str) -> str:
    """``experiment=NAME`` is ``+experiment=NAME``; the path of a record is one text, whatever it contains."""
    key, sign, value = word.partition("=")
    if key.lstrip("+") == "from_record" and sign and value[:1] not in ("'", '"', ""):
        value = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return f"{'+' * (key in SHORT_FORMS)}{key}{sign}{value}"


def _one_cell_to_show(request: Request) -> Request:
    """The request for ``--cfg``, without ``-m`` where that stands before one cell.

    Raises:
        BadInput: it asks for several cells, or for that of a record.
    """
    import shlex

    from benchmarks.settings.home import CONF
    from benchmarks.sweeps.composition import Composer
    from benchmarks.sweeps.words import expand, key_of

    if any(key_of(word) == "from_record" for word in request.words):
        raise BadInput("--cfg shows what words ask for; a record's own configuration is under config in its file")
    if not request.multirun:
        return request
    with Composer(CONF).loading() as loader:
        cells = expand(request.words, loader)
    if len(cells) > 1:
        example = f"python run.py {shlex.join(cells[0])} --cfg"
        raise BadInput(f"--cfg shows one cell, these are {len(cells)}\ntype for instance {example}")
    return Request(cells[0], False, request.dry_run, request.flags)


def _terminate_like_an_interrupt() -> None:
    """SIGTERM ends the cell as Ctrl-C does, so that trackers are closed and no half file is left."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
