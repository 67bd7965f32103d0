"""Plan a call: which cells it asks for, which of them are missing, and whether they can be run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from omegaconf import DictConfig

from benchmarks.records.cell_fields import cell_fields
from benchmarks.records.keys import cell_key, variant_key
from benchmarks.records.manifest import PlannedCell
from benchmarks.records.schema import Record
from benchmarks.records.store import Store
from benchmarks.settings.sections import check_types
from benchmarks.storage.paths import Paths
from benchmarks.sweeps.composition import Composer, plain
from benchmarks.sweeps.copying import control_words
from benchmarks.sweeps.launching import is_complete
from benchmarks.sweeps.memory import Memory
from benchmarks.sweeps.request import Request
from benchmarks.sweeps.words import concerns_hydra, expand, key_of, sweeps
from methods.errors import BadInput
from methods.progress import track

NEEDED: dict[str, tuple[str, ...]] = {
    "seed": (),
    "dataset": ("name",),
    "model": ("_target_",),
    "trainer": ("train",),
    "method": ("name",),
    "budget": ("default_compression",),
    "measure": (),
    "calibration": (),
    "track": (),
    "paths": ("results", "cache"),
}
OF_THE_CALL = ("dry_run", "_sweep", "_wait", "_replace")  # keys that say how a call is run, not which cell is meant


@dataclass(frozen=True)
class Plan:
    """The cells of a call, and the words that are common to all of them.

    Attributes:
        variants: for each cell's key, the key that it shares with the cells that differ from it only in the seed.
        renewed: as in the request.
    """

    name: str
    words: list[str]
    cells: list[PlannedCell]
    variants: dict[str, str]
    paths: Paths
    save: bool = False
    controls: bool = False
    renewed: Mapping[str, str] = field(default_factory=dict)


def make_plan(composer: Composer, request: Request, master: DictConfig | None = None) -> Plan:
    """All cells that the words ask for, each with its key; unknown names are refused here, before anything runs.

    Args:
        composer: the composer of the configurations.
        request: the request with its words.
        master: the sweep's own configuration with Hydra's section, where it is composed already.

    Raises:
        BadInput: a word cannot be read, or means nothing.
    """
    typed = [word for word in request.words if key_of(word) not in OF_THE_CALL]
    if any(map(concerns_hydra, typed)):
        own = [word for word in typed if concerns_hydra(word)]
        composer = Composer(composer.folder, composer.name, [*composer.own, *own], composer.running)
        typed = [word for word in typed if not concerns_hydra(word)]
    _one_experiment(typed)
    with composer.loading() as loader:
        combinations = expand(typed, loader)
        base = [word for word in typed if not sweeps(word)]
        if not request.multirun and len(combinations) > 1:
            raise BadInput("several values for one key need a sweep; type python run.py -m " + " ".join(typed))
        if request.multirun and master is None:
            master = composer.master(base)
        if master is not None:
            swept = {key_of(word) for words in combinations[:1] for word in words}
            grid = [f"{key}={value}" for key, value in (master.hydra.sweeper.params or {}).items() if key not in swept]
            if grid:  # an experiment's own grid; what the user typed wins
                combinations = expand([*grid, *typed], loader)
    if request.cells is not None:
        combinations = [cell.overrides for cell in request.cells]
    common = composer.cell(combinations[0]) if master is None else plain(master)
    paths = paths_of(common)
    memory = Memory(composer, paths.cache / "plan.json")
    planned = [_planned(composer, words, memory) for words in track(combinations, "planning cells")]
    memory.save()
    unique = list({cell.key: cell for cell, _ in planned}.values())
    variants = {cell.key: variant for cell, variant in planned}
    name = request.name or experiment_of(typed) or _name(unique)
    save, controls = bool(common.get("save")), bool(common.get("controls"))
    return Plan(name, base, unique, variants, paths, save, controls, request.renewed)


def plan_one(words: Sequence[str], config: Mapping[str, Any]) -> Plan:
    """The plan of a call for one cell, whose configuration is there already."""
    typed = [word for word in words if key_of(word) not in OF_THE_CALL]
    cell, variant = _cell(typed, config)
    paths, save, controls = paths_of(config), bool(config.get("save")), bool(config.get("controls"))
    return Plan(experiment_of(typed) or _name([cell]), typed, [cell], {cell.key: variant}, paths, save, controls)


def experiment_of(words: Sequence[str]) -> str | None:
    """The experiment that ``words`` choose."""
    return next((word.partition("=")[2] for word in words if key_of(word) == "experiment"), None)


def _one_experiment(words: Sequence[str]) -> None:
    for word in words:
        if key_of(word) == "experiment" and sweeps(word):
            first = word.partition("=")[2].partition(",")[0]
            raise BadInput(
                f"{word}: each experiment brings a grid of its own, so one at a time; "
                f"type python run.py -m +experiment={first}"
            )


def _name(cells: Sequence[PlannedCell]) -> str:
    return f"sweep-{hashlib.sha256(''.join(sorted(cell.key for cell in cells)).encode()).hexdigest()[:8]}"


def paths_of(config: Mapping[str, Any]) -> Paths:
    """The folders that a configuration names.

    Raises:
        BadInput: at one of them, or above it, there is something else.
    """
    _complete(config, ("paths",))
    paths = Paths.of(config["paths"])
    for name, path in (("results", paths.results), ("cache", paths.cache)):
        there = next((each for each in (path, *path.parents) if each.exists()), path)
        if there.exists() and not there.is_dir():
            raise BadInput(f"paths.{name}={path}: {there} is not a folder; type paths.{name}=FOLDER")
    return paths


def _complete(config: Mapping[str, Any], sections: Iterable[str] = NEEDED) -> None:
    """Refuse a configuration without what every cell has."""
    for name in sections:
        if name not in config:
            raise BadInput(f"every cell has {name}, and here it is missing; leave out ~{name}")
        for key in NEEDED[name]:
            if not isinstance(config[name], Mapping):
                example = f"{name}.{NEEDED[name][0]}=..."
                raise BadInput(f"{name}={config[name]} is not a section of keys; type for instance {example}")
            if config[name].get(key) is None:
                raise BadInput(f"every cell has {name}.{key}, and it is missing here; see python run.py --cfg")


def with_controls(composer: Composer, plan: Plan, store: Store) -> Plan:
    """``plan`` and, for each of its cells that is done, random and magnitude selection with the same layer-wise counts.

    They can only be planned after their donors: what a control is depends on the counts that its donor ended with.
    """
    records = store.find_all(cell.key for cell in plan.cells)
    donors = [(cell.overrides, records[cell.key]) for cell in plan.cells if cell.key in records]
    memory = Memory(composer, plan.paths.cache / "plan.json")
    controls = [_planned(composer, words, memory) for words in control_words(donors)]
    cells = {cell.key: cell for cell in (*plan.cells, *(cell for cell, _ in controls))}
    variants = plan.variants | {cell.key: variant for cell, variant in controls}
    return replace(plan, cells=list(cells.values()), variants=variants)


def _planned(composer: Composer, words: Sequence[str], memory: Memory) -> tuple[PlannedCell, str]:
    """The cell that ``words`` ask for, and its variant."""
    own = [word for word in words if not concerns_hydra(word)]
    name = memory.name(own)
    if any(key_of(word) == "allocation.record" for word in own):
        name = None  # the cell's key is that of counts that may change
    if name is not None and name in memory.entries:
        return PlannedCell(**memory.entries[name]["cell"]), memory.entries[name]["variant"]
    cell, variant = _cell(own, composer.cell(own))
    if name is not None:
        memory.entries[name] = {"cell": cell.model_dump(), "variant": variant}
    return cell, variant


def _cell(words: Sequence[str], config: Mapping[str, Any]) -> tuple[PlannedCell, str]:
    """The cell with the configuration ``config``, and its variant."""
    _complete(config)
    check_types(config)
    head = cell_fields(config, cell_key(config))
    kept = {key: head[key] for key in ("key", "dataset", "model", "method", "seed")}
    cell = PlannedCell(**kept, budget=head["budget"]["requested"], overrides=list(words))
    return cell, variant_key(config)


def records_of(plan: Plan) -> dict[str, Record]:
    """The records that cells of ``plan`` have by now, by their keys."""
    return Store.of(plan.paths).find_all(cell.key for cell in plan.cells)


def missing_cells(plan: Plan, found: Mapping[str, Record] | None = None) -> list[PlannedCell]:
    """The cells of ``plan`` that have no result yet; ``found`` are the records, if they are read."""
    found = records_of(plan) if found is None else found
    records = {cell.key: found.get(cell.key) for cell in plan.cells}
    complete = {
        key for key, record in records.items() if is_complete(record, plan.paths, plan.save, plan.renewed.get(key))
    }
    return [cell for cell in plan.cells if cell.key not in complete]


def sound_missing(
    composer: Composer, plan: Plan, found: Mapping[str, Record], only: Mapping[str, Any] | None = None
) -> list[PlannedCell]:
    """The :func:`missing_cells`, after a check of one cell of each variant: mistakes are refused before any cell runs.

    Args:
        composer: the composer of the configurations.
        plan: the plan with its cells.
        found: the records of those that have one.
        only: the configuration of its only cell, where it is composed already.
    """
    missing = missing_cells(plan, found)
    if not missing:
        return []
    from benchmarks.cells.parts import check  # with torch, which takes longer than looking up a thousand cells

    firsts: dict[str, PlannedCell] = {}
    for cell in missing:
        firsts.setdefault(plan.variants[cell.key], cell)
    for cell in firsts.values():
        check(composer.cell(cell.overrides) if only is None else only)
    return missing
