"""Run a cell again from its record, which may be somebody else's: `python run.py +from_record=FILE`.

A record names the classes that its cell is built from, so whoever writes a record chooses the code that runs. So before
anything is built, every name in it is checked: each place has its own list of what is allowed (:data:`PLACES`), and at
any other place no class may be named. Functions are refused, since ``torch.hub.load`` and functions that write files
are functions too; the exception are the readers of the suite's own data sets. A user's own code is allowed by its full
name: `+allow_targets=[package.Class]`. Folders, files and the tracker are never taken from a record.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.records.keys import cell_key, recordable
from benchmarks.records.schema import Record
from benchmarks.records.store import Unreadable, read
from benchmarks.storage.paths import require_name
from benchmarks.sweeps.composition import Composer
from benchmarks.sweeps.words import key_of, value_of
from methods.errors import BadInput

# What may be named where: the class that it is derived from, and the modules that it may be defined in.
PLACES = {
    "selection._target_": ("methods.selection.Selection", ("methods",)),
    "selection.target._target_": ("methods.spectral.moment_matching.Shift", ("methods",)),
    "allocation._target_": ("methods.allocation.Allocation", ("methods",)),
    "allocation.compensation._target_": ("methods.compensation.Compensation", ("methods",)),
    "compensation._target_": ("methods.compensation.Compensation", ("methods",)),
    "schedule._target_": ("methods.schedule.Schedule", ("methods",)),
    "model._target_": ("torch.nn.Module", ("benchmarks.models", "torch.nn")),
}
READER = "dataset.reader"
READERS = ("benchmarks.data.readers", "benchmarks.data.text")
NAMES = ("dataset.name", "dataset.images", "model.name", "method.name")  # they become parts of paths
OWN = ("paths", "track", "save", "dataset.source", "hydra")  # what the words of the command may still say


def asked_for(words: Sequence[str]) -> bool:
    """Whether the words of a command name a record."""
    return any(key_of(word) == "from_record" for word in words)


def rerun(composer: Composer, words: Sequence[str]) -> tuple[Record, dict[str, Any]]:
    """The record that ``words`` name, and the configuration of its cell in this user's folders.

    Raises:
        BadInput: there is no record, it names something that is not trusted, or the words ask for another cell.
    """
    given = {key_of(word): value_of(word) for word in words}
    own = [word for word in words if key_of(word) not in ("from_record", "allow_targets")]
    for word in own:
        if not any(key_of(word) == key or key_of(word).startswith(f"{key}.") for key in OWN):
            raise BadInput(
                f"{word}: a cell from a record is run as it is recorded; beside from_record only "
                f"{', '.join(OWN)} and allow_targets may be given"
            )
    allowed = given.get("allow_targets") or []
    record = _read(Path(str(given["from_record"])).expanduser())
    config = recordable(record.config)
    check_targets(config, {str(name) for name in (allowed if isinstance(allowed, list) else [allowed])})
    current = composer.cell(own)
    for section in ("paths", "track", "save"):
        config[section] = current[section]
    if any(key_of(word) == "dataset.source" for word in own):
        config["dataset"]["source"] = current["dataset"]["source"]
    return record, config


def _read(path: Path) -> Record:
    try:
        record = read(path, named=False)
    except FileNotFoundError:
        raise BadInput(
            f"from_record={path} cannot be read (there is no such file); give the path of a record"
        ) from None
    except Unreadable as error:
        raise BadInput(
            f"from_record={path} is not a record of this benchmark ({error})\n"
            "expected a record as the suite wrote it, e.g. results/cells/digits/mlp/KEY.json"
        ) from None
    for name in ("dataset", "model", "method", "budget", "trainer", "measure", "calibration"):
        if not isinstance(record.config.get(name), Mapping):
            raise BadInput(f"from_record={path} has no whole configuration: its section {name} is missing")
    return record


def check_targets(config: Mapping[str, Any], allowed: Collection[str] = ()) -> None:
    """Raise :class:`BadInput` if ``config`` names code that is not trusted, or reads what is not its business."""
    for place, value in _leaves(config):
        if isinstance(value, str) and "${" in value:
            raise BadInput(f"{place} of the record refers to something outside it ({value}); such records are not run")
        if isinstance(value, str) and (value.startswith(("/", "~")) or ".." in Path(value).parts):
            raise BadInput(
                f"{place} of the record names a file or folder ({value[:100]}), of which it can know nothing here; "
                "such records are not run"
            )
        if place in NAMES and value is not None:
            require_name(value, f"{place} of the record: {place}")
        if place.rpartition(".")[2] == "_target_" or place == READER:
            if not isinstance(value, str):
                raise BadInput(f"{place} of the record is not a name")
            if value not in allowed and not _trusted(place, value):
                raise BadInput(
                    f"{place} of the record names {value}, which is not one of the suite's own parts for that place "
                    f"and is not run\nif you know what it does: '+allow_targets=[{value}]'"
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
    from hydra.utils import get_object

    try:
        if place == READER:
            return name.rpartition(".")[0] in READERS and _is_reader(get_object(name))
        base, modules = PLACES[place]
        if not any(name.startswith(f"{module}.") for module in modules):
            return False
        found = get_object(name)
        # benchmarks.models.os.system begins with benchmarks.models: what counts is where an object is defined.
        made_in = any(f"{found.__module__}.".startswith(f"{module}.") for module in modules)
        return isinstance(found, type) and made_in and issubclass(found, get_object(base))
    except Exception:  # there is no such place, or what is named cannot be found
        return False


def _is_reader(found: Any) -> bool:
    """A reader is a public function of ``(configuration, cache folder)`` that gives raw tensors."""
    from inspect import isfunction, signature

    own = isfunction(found) and found.__module__ in READERS and not found.__name__.startswith("_")
    return own and list(signature(found).parameters) == ["cfg", "cache"]


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
