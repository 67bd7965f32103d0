"""The command that makes a board: words that ask for the cells and for their surroundings (data, network, training).

The surroundings of a cell are compared with the files in ``conf/``, which are read as plain YAML, as for row labels.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from benchmarks.boards.labels import leaves
from benchmarks.records.keys import canonical
from benchmarks.records.names import today
from benchmarks.settings.base import typed
from benchmarks.settings.home import CONF, yaml_of

PLACES = ("dataset", "model")
OTHERS = ("calibration", "dense", "prune_residual")
NEITHER = ("dataset.source", "dataset.name", "model.name")  # where the data lie, and what choosing a file already says


def surroundings(config: Mapping[str, Any], conf: Path | None = None) -> list[str] | None:
    """Words for the data set, the network, the trainings and the calibration of ``config``; None where none are known.

    For data sets and networks without a file in ``conf/`` (a user's own) there are none.
    """
    read = {name: config.get(name) for name in (*PLACES, "trainer", *OTHERS)}
    words = _words(json.dumps(read), conf or CONF)
    return None if words is None else list(words)


@lru_cache(maxsize=256)  # a thousand records of one experiment share a handful of surroundings
def _words(sections: str, conf: Path) -> list[str] | None:
    """:func:`surroundings` of the configuration with these ``sections`` and no others, as JSON."""
    config: Mapping[str, Any] = json.loads(sections)
    words = []
    for place in PLACES:
        section = config.get(place)
        name = section.get("name") if isinstance(section, Mapping) else None
        usual = merged(conf, place, str(name))
        if not isinstance(section, Mapping) or usual is None:
            return None
        words += [f"{place}={name}", *_differences(place, section, usual, config)]
    trainer = config.get("trainer")
    if not isinstance(trainer, Mapping):
        return None
    options = {}
    for path in sorted((conf / "trainer").glob("*.yaml")):
        usual = merged(conf, "trainer", path.stem) or {}
        options[path.stem] = _differences("trainer", trainer, usual, config)
    own = str((config["dataset"] or {}).get("name"))
    if not options:
        return None
    chosen = min(options, key=lambda name: (len(options[name]), name != own, name))
    words += [*([] if chosen == own else [f"trainer={chosen}"]), *options[chosen]]
    root = merged(conf, "", "config") or {}
    for name in OTHERS:
        words += _differences(name, config.get(name), root.get(name), config)
    return words


def command(
    cells: Sequence[Mapping[str, Any]], words: Sequence[str] | None, asked: bool = True, conf: Path | None = None
) -> str | None:
    """The command that runs the cells of a board; None where it is not known.

    Args:
        cells: rows of the frame of one data set, network and training.
        words: their :func:`surroundings`.
        asked: whether their budget was typed explicitly, in place of the default one.
        conf: folder of the configurations.
    """
    sweeps = {str(cell["sweep"]) for cell in cells if cell.get("sweep")}
    named = [name for name in sorted(sweeps) if (conf or CONF).joinpath("experiment", f"{name}.yaml").is_file()]
    if named and len(named) == len(sweeps) and all(cell.get("sweep") for cell in cells):
        return "; ".join(f"python run.py -m +experiment={name}" for name in named)
    if words is None:
        return None
    own = [cell for cell in cells if not cell.get("control_of")]
    methods = sorted({str(cell["method"]) for cell in own})
    seeds = sorted({int(cell["seed"]) for cell in cells})
    wanted = [f"method={','.join(methods)}", f"seed={','.join(map(str, seeds))}"]
    kinds = sorted({(cell["budget"], cell["value"]) for cell in cells if cell["budget"] and asked})
    for kind in dict.fromkeys(kind for kind, _ in kinds):
        wanted.append(f"budget.{kind}={','.join(f'{value:g}' for other, value in kinds if other == kind)}")
    trials = sorted({cell["trials"] or 0 for cell in own})
    if trials != [0]:
        wanted.append(f"tune={','.join(str(number or 'null') for number in trials)}")
    if len(own) < len(cells):
        wanted.append("controls=true")
    text = f"python run.py -m {' '.join([*words, *wanted])}"
    variants = any(cell["untuned"] != cell["method"] for cell in own)
    return text + (", and for a row with parentheses what they say" if variants else "")


def merged(conf: Path, group: str, name: str) -> dict[str, Any] | None:
    """The content of ``conf/<group>/<name>.yaml`` on top of the files of its group that it extends."""
    return _merged(conf, group, name)


@cache
def _merged(conf: Path, group: str, name: str) -> dict[str, Any] | None:
    content = yaml_of(conf / group / f"{name}.yaml") if name.replace("_", "").replace("-", "").isalnum() else None
    if content is None:
        return None
    found: dict[str, Any] = {}
    for base in content.get("defaults", []) if group else []:
        if isinstance(base, str) and base != "_self_":
            found = _over(found, _merged(conf, group, base) or {})
    return _over(found, {key: value for key, value in content.items() if key != "defaults"})


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        found[key] = _over(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found


def _differences(place: str, used: Any, usual: Any, config: Mapping[str, Any]) -> list[str]:
    """A word for each value under ``place`` that differs from the file's; values missing from a record are unknown."""
    ours, theirs = dict(_flat(place, used)), dict(_flat(place, usual))
    words = []
    for key, value in ours.items():
        if key in NEITHER:
            continue
        expected = theirs.get(key)
        if isinstance(expected, str) and expected.startswith("${"):
            expected = _referred(expected, config)
        if key.endswith("_target_") and isinstance(expected, str):
            expected = today(expected)
        if _plain(value) != _plain(expected):
            words.append(f"{'' if key in theirs else '+'}{key}={typed(value)}")
    return words


def _referred(text: str, config: Mapping[str, Any]) -> Any:
    """What ``${..train.momentum}`` means in the trainer's section."""
    found: Any = config.get("trainer")
    for name in text.removeprefix("${").removesuffix("}").lstrip(".").split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _flat(place: str, value: Any) -> Iterable[tuple[str, Any]]:
    return leaves(value, f"{place}.") if isinstance(value, Mapping) else [(place, value)]


def _plain(value: Any) -> Any:
    """A value in comparable form: YAML reads 5e-4 as text."""
    if isinstance(value, str):
        try:
            return canonical(float(value))
        except ValueError:
            return value
    return canonical(value)
