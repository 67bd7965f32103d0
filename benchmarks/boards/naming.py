"""Name the cells on boards: methods by their unusual settings, networks by how they differ from most.

A name stands for one setting at all budgets and seeds of a network, so that boards of different networks can be
compared; a model with other widths or another training counts as another model.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.boards.frame import Row as Cell
from benchmarks.boards.frame import config_of, context_of, training_part
from benchmarks.boards.labels import distinctions
from benchmarks.boards.latencies import of_one_machine
from benchmarks.records.keys import dense_part, identity

LARGER = 0.05  # networks that exceed the requested size by more than this fraction are not compared


def task_of(cell: Cell) -> tuple[Any, ...]:
    """The task of a cell: its data set, model and requested budget."""
    return cell["dataset"], cell["model"], cell["budget"] or "", cell["value"] or 0.0


def with_names(cells: Sequence[Cell], separate: bool = True) -> list[Cell]:
    """The cells with their ``name``: the label, and whatever is unusual about the surroundings of the method.

    On a (data set, model), the usual fine-tuning, calibration and other surroundings are those that most labels share.
    So a name stands for one setting at all budgets and seeds of a network, and equal names on different networks can be
    compared. A model whose dense network differs from that of most methods is named as well. ``usual`` marks the
    cells in usual surroundings. Cells that differ only in what was measured count once, and those whose network is much
    larger than was asked for get the status ``missed``. Latencies are left out if they were not measured on the kind of
    machine used for most cells of their task.

    Args:
        cells: rows of the frame.
        separate: whether networks with other widths or training count as other models (:func:`with_networks`); if not,
            names say how they differ.
    """
    cells = [_judged(cell) for cell in cells]
    if separate:
        cells = with_networks(cells)
    usual = _usual(cells, "context")
    settings: dict[tuple[Any, ...], Cell] = {}
    for cell in sorted(cells, key=lambda cell: cell["key"]):
        settings.setdefault((*_pair(cell), cell["label"], cell["variant"]), cell)
    names = {}
    for setting, cell in settings.items():
        base = usual[_pair(cell)]
        words = ""
        if cell["context"] != base["context"]:
            words = distinctions({"usual": context_of(base), "this": context_of(cell)})["this"]
        names[setting] = f"{cell['label']} [{words}]" if words else cell["label"]
    taken = Counter((*setting[:2], name) for setting, name in names.items())
    for setting, name in names.items():
        if taken[*setting[:2], name] > 1:  # they differ in nothing that a label or a context shows
            names[setting] = f"{name} [{setting[3][:4]}]"
    named = [
        {
            **cell,
            "name": names[*_pair(cell), cell["label"], cell["variant"]],
            "usual": cell["context"] == usual[_pair(cell)]["context"],
        }
        for cell in cells
    ]
    best: dict[tuple[Any, ...], Cell] = {}
    for cell in named:
        place = (*task_of(cell), cell["name"], cell["seed"])
        best[place] = max(best.get(place, cell), cell, key=_worth)
    kept = [cell for cell in named if best[*task_of(cell), cell["name"], cell["seed"]] is cell]
    tasks: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number, cell in enumerate(kept):
        tasks[task_of(cell)].append(number)
    for numbers in tasks.values():
        for number, cell in zip(numbers, of_one_machine([kept[number] for number in numbers]), strict=True):
            kept[number] = cell
    return kept


def _judged(cell: Cell) -> Cell:
    """The cell, with status ``missed`` if its network exceeds the budget; one that is too small only harms itself."""
    kind, asked = cell["budget"], cell["value"]
    reached = cell.get(kind) if kind else None
    if cell["status"] != "done" or not reached or not asked or cell["control_of"] == "dense":
        return cell
    excess = reached / asked if kind == "keep" else asked / reached
    if excess <= 1 + LARGER:
        return cell
    return {**cell, "status": "missed", "reason": f"reached {kind} {reached:.2g} where {asked:g} was asked for"}


def _pair(cell: Cell) -> tuple[str, str]:
    return cell["dataset"], cell["model"]


def _usual(cells: Sequence[Cell], column: str) -> dict[tuple[str, str], Cell]:
    """For each (data set, model) a cell with the usual value of ``column``: most methods, then labels, then cells."""
    members: dict[tuple[str, str], dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        members[_pair(cell)][cell[column]].append(cell)

    def weight(item: tuple[str, list[Cell]]) -> tuple[int, int, int, str]:
        value, own = item
        methods, settings, cells = (len({cell[name] for cell in own}) for name in ("method", "label", "key"))
        return methods, settings, cells, value

    chosen = {pair: max(values.items(), key=weight)[1] for pair, values in members.items()}
    return {pair: min(own, key=lambda cell: cell["key"]) for pair, own in chosen.items()}


def with_networks(cells: Sequence[Cell], finetuning: bool = False) -> list[Cell]:
    """The cells, whose ``model`` says how the dense network differs from that of most methods on its data set.

    Networks with other widths, or trained differently, on fewer samples or on other data, are other tasks: they share
    no board and no rank. Data are compared by the checksum of what was read; a record without one is assumed to have
    used the usual data.

    Args:
        cells: rows of the frame.
        finetuning: whether to distinguish pruned networks that are trained differently, too.
    """
    cells = _with_data(cells)
    column = "training" if finetuning else "dense_variant"
    usual = _usual(cells, column)
    first: dict[tuple[str, str, str], Cell] = {}
    for cell in sorted(cells, key=lambda cell: cell["key"]):
        first.setdefault((*_pair(cell), cell[column]), cell)
    names: dict[tuple[str, str, str], str] = {}
    setting = training_setting if finetuning else dense_setting
    for place, cell in first.items():
        base = usual[_pair(cell)]
        if cell[column] != base[column]:
            words = distinctions({"usual": setting(base), "this": setting(cell)})["this"]
            names[place] = f"{cell['model']} [{words or cell[column][:4]}]"
    taken = Counter((place[0], name) for place, name in names.items())
    for place, name in names.items():
        if taken[place[0], name] > 1:  # they differ in what the words leave out
            names[place] = f"{name[:-1]}, {place[2][:4]}]"
    return [{**cell, "model": names.get((*_pair(cell), cell[column]), cell["model"])} for cell in cells]


def _with_data(cells: Sequence[Cell]) -> list[Cell]:
    """The cells; ``model`` names the checksum of the data where it differs from that of most cells of the data set."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for cell in cells:
        if cell.get("data"):
            counts[cell["dataset"]][cell["data"]] += 1
    usual = {name: max(own, key=lambda data: (own[data], data)) for name, own in counts.items()}
    named = []
    for cell in cells:
        mark = f"[data {str(cell.get('data'))[:8]}]"
        other = cell.get("data") and cell["data"] != usual[cell["dataset"]] and mark not in cell["model"]
        named.append({**cell, "model": f"{cell['model']} {mark}"} if other else cell)
    return named


def _worth(cell: Cell) -> tuple[bool, int, str, str]:
    measured = sum(value is not None for value in cell.values())
    return cell["status"] == "done", measured, cell["created"], cell["key"]


def training_setting(cell: Cell) -> dict[str, Any]:
    """What a cell's dense network is made from, and how pruned ones are trained, without the seed."""
    return identity({name: part for name, part in training_part(config_of(cell)).items() if name != "seed"})


def dense_setting(cell: Cell) -> dict[str, Any]:
    """What a cell's dense network is made from, without the seed."""
    return identity({name: part for name, part in dense_part(config_of(cell)).items() if name != "seed"})
