"""Explain Hydra's errors in plain words: what was wrong, what was expected, what to type."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError
from yaml.reader import ReaderError

from benchmarks.settings.home import ROOT
from methods.errors import BadInput, first_line


class Explained:
    """Turns Hydra's errors into :class:`BadInput` with a line or two."""

    def __init__(self, folder: Path | None, words: Sequence[str] = ()) -> None:
        self.folder, self.words = folder, words

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, HydraException | OmegaConfBaseException):
            raise BadInput(explain(error, self.folder, self.words)) from error
        if isinstance(error, YAMLError | UnicodeDecodeError):
            raise BadInput(unread(error, self.folder)) from error
        if isinstance(error, ValueError) and "Config group override" in str(error):
            groups = sorted(path.name for path in (self.folder or Path()).iterdir() if path.is_dir())
            raise BadInput(
                f"{', '.join(groups)} take the name of a choice, not a number;\n"
                "a value's key comes after a dot: type for instance budget.keep=0.5"
            ) from error


def unread(error: YAMLError | UnicodeDecodeError, folder: Path | None) -> str:
    """Say which file of a configuration folder is not valid YAML, where, and why.

    Args:
        error: the error of reading a file; if it does not name the file, the first in ``folder`` with this fault is.
        folder: the folder of the configurations.
    """
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, MarkedYAMLError) and mark is not None:
        place, why = f"{mark.name}, line {mark.line + 1}", error.problem or "it is no YAML"
    elif isinstance(error, ReaderError):
        place, why = str(error.name), first_line(error)
    else:
        files = sorted((folder or Path()).rglob("*.yaml"))
        place = next((str(path) for path in files if not _is_text(path)), f"a file in {folder}")
        why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else first_line(error)
    return f"{place} cannot be read as YAML: {why}\nexpected lines such as 'key: value', all brackets and quotes closed"


def without_keys(folder: Path, chosen: Iterable[str]) -> str | None:
    """Which chosen file has no keys at its top, where Hydra would merge nothing, or has a list in place of a section.

    Args:
        folder: the folder of the configurations.
        chosen: names of files in it, without their ending, for instance ``method/mine``.
    """
    for path in (folder / f"{name}.yaml" for name in chosen):
        found = _top(path)
        if found is not None:
            return f"{path} holds {found}; expected keys at its top, lines such as 'key: value'"
    return None


def _top(path: Path) -> str | None:
    """What a file holds that are no keys; None for keys, for nothing, and for what cannot be read."""
    try:
        with path.open(encoding="utf-8") as file:
            first = next((event for event in yaml.parse(file) if isinstance(event, yaml.NodeEvent)), None)
    except (OSError, UnicodeDecodeError, YAMLError):
        return None
    if isinstance(first, yaml.SequenceStartEvent):
        return "a list"
    if isinstance(first, yaml.ScalarEvent) and first.value not in ("", "~", "null"):
        return f"the bare text '{first_line(first.value, 40)}'"
    return None


def _is_text(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return True


def explain(error: Exception, folder: Path | None, words: Sequence[str] = ()) -> str:
    """What is wrong, what was expected, and what to type, from one of Hydra's errors.

    Args:
        error: the error of Hydra or OmegaConf.
        folder: the folder of the configurations.
        words: that were typed.
    """
    text = str(error)
    if "requires --multirun" in text or "To sweep over it, add --multirun" in text:
        return f"several values for one key need a sweep; type python run.py -m {shlex.join(words)}".rstrip()
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        choices = _choices(error, folder, group)
        close = difflib.get_close_matches(name, choices, 1)
        example = close[0] if close else (choices[0] if choices else "CHOICE")
        return f"unknown {group} '{name}'; choose from {', '.join(choices)}\ntype {group}={example}"
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}'; expected KEY=VALUE, for instance seed=1 or -m seed=0,1,2"
    cause = error.__cause__ or error
    inside = str(cause)
    if section := re.search(r"node `(\S+)` is not a container", inside):
        return (
            f"'{section.group(1)}' is a section of keys, which one value cannot replace; python run.py --cfg shows them"
        )
    if missing := re.search(r"Key '([^']+)' is not in struct(?:.*?full_key: (\S+))?", f"{text}\n{inside}", re.DOTALL):
        key = missing.group(2) or missing.group(1)
        return f"unknown key '{key}'; {_keys_near(key, folder)}"
    if isinstance(error, ConfigCompositionException) and "No match in the defaults list" in text:
        key = re.search(r"override '([^']+)'", text)
        return f"unknown group '{key.group(1) if key else '?'}'; see python run.py --help for the groups"
    if isinstance(error, GrammarParseError) or isinstance(cause, GrammarParseError):
        where = re.search(r"full_key: (\S+)", f"{text}\n{inside}")
        return (
            f"the value of '{where.group(1) if where else '?'}' cannot be read ({first_line(inside)})\n"
            "expected a reference such as ${seed}, with its brackets closed"
        )
    return " ".join(line.strip() for line in (inside or text).splitlines()[:2])


def _choices(error: MissingConfigException, folder: Path | None, group: str) -> list[str]:
    if error.options:
        return sorted(error.options)
    return sorted(path.stem for path in ((folder or Path()) / group).glob("*.yaml"))


def _keys_near(key: str, folder: Path | None) -> str:
    """Keys of the same level in the root configuration, the closest first."""
    if folder is None:
        return "see python run.py --cfg for all keys"
    known = {path.name for path in folder.iterdir() if path.is_dir()} | set(OmegaConf.load(folder / f"{ROOT}.yaml"))
    known = {name for name in known if not str(name).startswith("_")} - {"defaults", "hydra"}
    close = difflib.get_close_matches(key.partition(".")[0], sorted(known), 3, 0.4)
    if "." in key and key.partition(".")[0] in known | {"selection"}:
        return f"python run.py --cfg shows the keys of '{key.rpartition('.')[0]}'"
    return (
        f"did you mean {' or '.join(close) if close else 'one of ' + ', '.join(sorted(known))}? (python run.py --cfg)"
    )
