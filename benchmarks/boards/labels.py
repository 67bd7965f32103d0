"""Name the rows of a board: the method, and every part of it that differs from its preset.

A method's preset is its file ``conf/method/<name>.yaml`` with the parts it overrides; all other parts are those chosen
in ``conf/config.yaml``. The files are read as plain YAML, since composing them with Hydra takes a hundred times
as long and a board may show fifty methods.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.records.keys import canonical
from benchmarks.records.schema import Record
from benchmarks.settings.home import CONF, PARTS, yaml_of
from benchmarks.settings.tuning import trials_of
from benchmarks.storage.paths import safe_name

TUNED = "tuned"
OWN_RIDGE = "methods.spectral."  # selections that have a ridge of their own; a test checks this
LONGEST_VALUE = 24
SCRATCH, UNPRUNED = "scratch", "unpruned_longer"  # controls that select nothing
MOST_DIFFERENCES = 3
RECONSTRUCTION = "# Reconstruction:"  # begins the comment of a preset that boards repeat
COST = "# Cost:"  # begins the comment that says why the method is slow
AS_PUBLISHED = "# As published:"  # begins the comment with the words for what the paper does differently
NO_PAPER = "# Paper: none;"  # begins the comment that says why no paper is named
CLAIM = "# Claim:"  # begins each comment that states a claim of the paper, which boards check


def control_of(config: Mapping[str, Any]) -> str | None:
    """What the cell with this configuration is a control for: a method, or ``dense``; None if it is no control."""
    sections = (config.get("method"), config.get("allocation"))
    method, allocation = (part if isinstance(part, Mapping) else {} for part in sections)
    if method.get("name") == UNPRUNED:
        return "dense"
    return method.get("control_of") or allocation.get("donor")


def label(record: Record, conf: Path | None = None, tuned: bool = True) -> str:
    """``method``, followed by the parts in which the record differs from the method's preset.

    For instance ``spectral (no compensation, theta 0.2)``. A method without a preset file gets its name alone. The
    label of a control says what it controls for: ``random (layers of obd)``, ``scratch (masks of obd)``. That of a
    tuned method says with how many trials, unless ``tuned`` is false.
    """
    conf = conf or CONF
    if record.method == SCRATCH and (donor := control_of(record.config)):
        return f"{SCRATCH} ({'masks' if record.unit == 'edge' else 'layers'} of {donor})"
    preset = preset_of(conf, record.method) or {}
    differences = []
    for part in PARTS:
        used, usual = _part(record.config, part), preset.get(part)
        if used is not None and usual is not None:
            differences += _differences(conf, part, used, usual)
    if tuned and (trials := trials_of(record.config)) is not None:
        differences.append(f"{TUNED}, {trials} trials")
    return f"{record.method} ({', '.join(differences)})" if differences else record.method


def repair(config: Mapping[str, Any], conf: Path | None = None) -> str | None:
    """The compensation for the removed units, in the same words for every selection; None if unknown.

    For least squares the words say whether the weights were refitted on the partly pruned network's own features, and
    with which ridge; ``own ridge`` is that of the selection's paper.
    """
    part = _part(config, "compensation")
    if part is None:
        return None
    name, _ = _choice(conf or CONF, "compensation", part)
    if str(part.get("_target_")).rpartition(".")[2] not in ("LeastSquares", "DomainLeastSquares"):
        return name.replace("_", " ")
    selection = _part(config, "selection") or {}
    refit = selection.get("order") == "forward" if part.get("refit") is None else part["refit"]
    own = "own ridge" if str(selection.get("_target_")).startswith(OWN_RIDGE) else "no ridge"
    ridge = own if part.get("ridge") is None else f"ridge {float(part['ridge']):g}"
    domain = ", target domain" if str(part.get("_target_")).endswith("DomainLeastSquares") else ""
    return f"{'refit' if refit else 'fit'}, {ridge}{domain}{', intercept' if part.get('intercept') else ''}"


@cache
def _comments(conf: Path, method: str) -> tuple[str, ...]:
    """The comments of a preset that take up a whole line."""
    path = conf / "method" / f"{safe_name(method)}.yaml"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return tuple(line for line in lines if line.startswith("#"))


def _said(conf: Path, method: str, mark: str) -> str | None:
    lines = _comments(conf, method)
    return " ".join(line.removeprefix(mark).strip() for line in lines if line.startswith(mark)).rstrip(".") or None


def reconstruction(method: str) -> str | None:
    """What in ``method`` is a reconstruction or our own, not its paper's: the preset's comment ``# Reconstruction:``.

    This is kept in a comment, since a setting would be part of the keys of records.
    """
    return _said(CONF, method, RECONSTRUCTION)


def as_published(method: str) -> str | None:
    """The words to type to follow the paper of ``method`` where its preset differs; None where none are noted."""
    return _said(CONF, method, AS_PUBLISHED)


def expense(method: str) -> str | None:
    """Why ``method`` is slow, where its preset says so."""
    return _said(CONF, method, COST)


def unpublished(method: str) -> str | None:
    """Why ``method`` names no paper: the words behind ``# Paper: none;``; None where its preset has no such line."""
    return _said(CONF, method, NO_PAPER)


def claim_lines(method: str) -> tuple[str, ...]:
    """The claims of the paper of ``method`` as its preset states them, one a line (:mod:`benchmarks.boards.claims`)."""
    lines = _comments(CONF, method)
    return tuple(line.removeprefix(CLAIM).strip() for line in lines if line.startswith(CLAIM))


def description(method: str) -> str:
    """The other comments of a preset: the idea and its paper; empty where there is no such preset."""
    marks = ("# @package", RECONSTRUCTION, AS_PUBLISHED, COST, NO_PAPER, CLAIM)
    return " ".join(line.lstrip("# ").strip() for line in _comments(CONF, method) if not line.startswith(marks))


def distinctions(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The settings in which rows with the same label differ, by row."""
    values = {row: dict(leaves(config)) for row, config in configs.items()}
    names = sorted({name for leaf in values.values() for name in leaf})
    differing = [name for name in names if len({str(leaf.get(name)) for leaf in values.values()}) > 1]
    more = len(differing) - MOST_DIFFERENCES
    rest = [f"{more} more"] if more > 0 else []
    return {
        row: ", ".join([f"{_last(name)} {_short(leaf.get(name))}" for name in differing[:MOST_DIFFERENCES]] + rest)
        for row, leaf in values.items()
    }


def _differences(conf: Path, part: str, used: Mapping[str, Any], usual: Mapping[str, Any]) -> list[str]:
    found = []
    if used.get("donor"):  # for copied counts, the counts themselves would say nothing
        rounding = f", round_to {used['round_to']}" if used.get("round_to") else ""
        return [f"layers of {used['donor']}{rounding}"]
    if used.get("_target_") != usual.get("_target_"):
        name, usual = _choice(conf, part, used)
        found.append(f"no {part}" if name == "none" else name)
    for name in sorted((used.keys() | usual.keys()) - {"_target_"}):
        value, expected = canonical(used.get(name)), canonical(usual.get(name))
        refers = isinstance(expected, str) and "${" in expected
        if value != expected and not refers:
            found.append(f"{name} {_short(value)}")
    return found


def _last(name: str) -> str:
    """The last two words of a setting's path, which say enough: ``finetune.epochs``."""
    return ".".join(name.split(".")[-2:])


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _part(config: Mapping[str, Any], part: str) -> Mapping[str, Any] | None:
    """The section of a part, at the top of the configuration or under ``method``."""
    nested = config.get("method")
    places = (config, nested) if isinstance(nested, Mapping) else (config,)
    return next((place[part] for place in places if isinstance(place.get(part), Mapping)), None)


@cache
def preset_of(conf: Path, method: str) -> dict[str, Mapping[str, Any]] | None:
    """The parts that a method's preset chooses, each with its options; None where there is no such file."""
    content = yaml_of(conf / "method" / f"{safe_name(method)}.yaml")  # a record may name anything
    if content is None:
        return None
    chosen = choices_of(conf, method)
    preset: dict[str, Mapping[str, Any]] = {}
    preset |= {part: yaml_of(conf / part / f"{name}.yaml") or {} for part, name in chosen.items()}
    own = {part: _part(content, part) for part in PARTS}
    for part, section in own.items():
        if section is not None:  # written out in the method's file, on top of the chosen one
            preset[part] = {**preset.get(part, {}), **section}
    return preset


def choices_of(conf: Path, method: str) -> dict[str, str]:
    """The names of the allocation, the compensation and the schedule that a method's preset chooses, by part."""
    files = (conf / "config.yaml", conf / "method" / f"{safe_name(method)}.yaml")
    chosen = [_choices((yaml_of(file) or {}).get("defaults", [])) for file in files]
    return {part: name for part, name in (chosen[0] | chosen[1]).items() if part in PARTS}


def _choices(defaults: Iterable[Any]) -> dict[str, str]:
    chosen = {}
    for entry in defaults:
        for group, name in entry.items() if isinstance(entry, Mapping) else ():
            words = str(group).removeprefix("override ").strip().removeprefix("/")
            chosen[words.partition("@")[0]] = str(name)
    return chosen


@cache
def _choice_files(conf: Path, part: str) -> dict[str, Mapping[str, Any]]:
    return {path.stem: yaml_of(path) or {} for path in sorted((conf / part).glob("*.yaml"))}


def _choice(conf: Path, part: str, used: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The named choice that ``used`` comes from: the one of the same class with the most settings in common."""
    target = used.get("_target_")
    same = {name: body for name, body in _choice_files(conf, part).items() if body.get("_target_") == target}
    if not same:
        return str(target).rpartition(".")[2], {"_target_": target}
    common = {name: sum(used.get(key) == value for key, value in body.items()) for name, body in same.items()}
    name = max(sorted(same), key=lambda choice: common[choice])
    return name, same[name]


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Every value of a nested configuration under its dotted name."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
