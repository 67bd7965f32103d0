"""Running a cell again from its record, which may be somebody else's: `python run.py +from_record=FILE`.

A record names the classes that its cell is built from, and whoever writes the name chooses the code. So before anything
is built every name in it is looked at: it must be a class that is defined in methods, a network (``nn.Module``) that is
defined in torch or benchmarks, or, for a data set, one of our readers. Functions are refused there too, since
``torch.hub.load`` or the writing of a file is a function like any other. Code of one's own is
allowed by its full name: `+allow_targets=[package.Class]`. Folders and the tracker are never taken from a record.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmarks.records.keys import cell_key, recordable
from benchmarks.records.record import Record
from benchmarks.sweeps.composition import Composer
from benchmarks.sweeps.words import key_of
from methods.errors import BadInput

TRUSTED = ("torch", "methods", "benchmarks")
READERS = "benchmarks.data.readers"
OWN = ("paths", "track", "save", "dataset.source", "hydra")  # what the words of the command may still say
LONGEST = 10_000_000  # bytes; records have some ten thousand


def asked_for(words: Sequence[str]) -> bool:
    """Whether the words of a command name a record."""
    return any(key_of(word) == "from_record" for word in words)


def rerun(composer: Composer, words: Sequence[str]) -> tuple[Record, dict[str, Any]]:
    """The record that ``words`` name, and the configuration of its cell in this user's folders.

    Raises:
        BadInput: there is no record, it names something that is not trusted, or the words ask for another cell.
    """
    from omegaconf import OmegaConf

    given = {key_of(word): word.partition("=")[2] for word in words}
    own = [word for word in words if key_of(word) not in ("from_record", "allow_targets")]
    for word in own:
        if not any(key_of(word) == key or key_of(word).startswith(f"{key}.") for key in OWN):
            raise BadInput(
                f"{word}: a cell from a record is run as it is recorded; beside from_record only "
                f"{', '.join(OWN)} and allow_targets may be given"
            )
    allowed = OmegaConf.create(f"[{given.get('allow_targets', '').strip('[]')}]")
    record = _read(Path(given["from_record"]).expanduser())
    config = recordable(record.config)
    check_targets(config, {str(name) for name in allowed})
    current = composer.cell(own)
    for section in ("paths", "track", "save"):
        config[section] = current[section]
    if any(key_of(word) == "dataset.source" for word in own):
        config["dataset"]["source"] = current["dataset"]["source"]
    return record, config


def _read(path: Path) -> Record:
    try:
        if path.stat().st_size > LONGEST:
            raise BadInput(f"from_record={path} is larger than {LONGEST // 10**6} MB; expected a record of one cell")
        record = Record.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise BadInput(f"from_record={path} cannot be read ({error.strerror}); give the path of a record") from None
    except (ValueError, ValidationError, TypeError, RecursionError) as error:
        first = str(error).splitlines()[0]
        raise BadInput(f"from_record={path} is not a record of this benchmark ({first})") from None
    for name in ("dataset", "model", "method", "budget", "trainer", "measure", "calibration"):
        if not isinstance(record.config.get(name), Mapping):
            raise BadInput(f"from_record={path} has no whole configuration: its section {name} is missing")
    return record


def check_targets(config: Mapping[str, Any], allowed: Collection[str] = ()) -> None:
    """Raise :class:`BadInput` if ``config`` names code that is not trusted, or reads what is not its business."""
    for place, value in _leaves(config):
        if isinstance(value, str) and "${" in value:
            raise BadInput(f"{place} of the record refers to something outside it ({value}); such records are not run")
        name = place.rpartition(".")[2]
        if name == "_target_" or place == "dataset.reader":
            if not isinstance(value, str):
                raise BadInput(f"{place} of the record is not a name")
            if value not in allowed and not _trusted(place, value):
                raise BadInput(
                    f"{place} of the record names {value}, which is not one of the suite's own parts and is not run\n"
                    f"if you know what it does: '+allow_targets=[{value}]'"
                )


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            inner = f"{place}.{name}" if place else str(name)
            yield from [(inner, part)] if name == "_target_" else _leaves(part, inner)
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _leaves(part, f"{place}.{number}")
    else:
        yield place, value


def _trusted(place: str, name: str) -> bool:
    """Whether ``name`` is what belongs at ``place``. Nothing outside the trusted packages is even imported."""
    if name.split(".")[0] not in TRUSTED:
        return False
    from hydra.utils import get_object

    try:
        found = get_object(name)
    except Exception:  # what cannot be found will be said when it is built
        return False
    # torch.os.system begins with torch: what counts is where a thing was made.
    if str(getattr(found, "__module__", "")).split(".")[0] not in TRUSTED:
        return False
    if place == "dataset.reader":
        return found.__module__ == READERS and callable(found) and not isinstance(found, type)
    if not isinstance(found, type):
        return False
    from torch import nn

    return found.__module__.split(".")[0] == "methods" or issubclass(found, nn.Module)


def difference(theirs: Record, ours: Record) -> str:
    """One line on how the two results compare, and on whether they are of the same cell."""
    if cell_key(theirs.config) != theirs.key:
        return "the record's key is not that of its configuration: it was changed, or made by another version"
    figures = []
    for stage in ("dense", "pruned", "tuned"):
        one, other = getattr(theirs.metrics, stage), getattr(ours.metrics, stage)
        if one and other:
            name = "accuracy" if one.accuracy is not None else "loss"
            figures.append(f"{stage} {name} {getattr(one, name)} there, {getattr(other, name)} here")
    return "; ".join(figures)
