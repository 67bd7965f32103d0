"""Rows of boards: cells that differ in nothing but the seed, summed up, and the dense networks that they began with."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from benchmarks.boards.frame import Row as Cell
from benchmarks.boards.frame import code_changed
from benchmarks.boards.labels import distinctions
from benchmarks.boards.naming import dense_setting, task_of
from benchmarks.boards.stats import Spread, spread
from benchmarks.boards.verdicts import Standing, Verdict
from methods.errors import one_line

ORDER = ("done", "missed", "collapsed", "skipped", "failed")
LONGEST_NAME = 34
NAMED = 3  # how many rows a note names
LONGEST_REASON = 240
OF_LANGUAGE = ("tuned_perplexity", "tuned_bits_per_character")  # of language models; functions of their loss
SIZES = ("parameters", "nonzero", "macs", "macs_effective")
QUANTITIES = (  # what a row summarises, apart from the latency ratios
    *(f"{stage}_{name}" for stage in ("pruned", "tuned") for name in ("accuracy", "top5", "loss")),
    *SIZES,
    *("compression", "speedup", "keep", "prune_seconds", "tune_seconds", "peak_memory_mb"),
)
RECALIBRATED = ("recalibrated_accuracy", "recalibrated_loss")  # where networks have batch norms
QUANTISED = ("int8_accuracy", "int8_top5", "int8_loss", "int8_bytes", "int8_bytes_float")  # where that was asked for


@dataclass
class Row:
    """One line of a board: cells that differ in nothing but the seed (or the task) and share a status.

    Attributes:
        name: short enough for a column; ``full`` is complete.
        scores: the metric by unit of comparison (task and seed).
        counted: the scores that verdicts are based on, including those of collapsed cells of the same setting.
        standing: its place among the rows of its unit.
        versus: the verdict on it against the baseline, with Holm's correction over the rows compared with the baseline.
        donor: for a control, the label of the method whose layer sizes it has.
        against: for a control, the verdict against that method, with Holm's correction over all controls of the board.
        repair: the compensation for what was removed.
        family: the rows it is ranked with: its unit and, where it was tuned, the number of trials.
        label, beside: its method and parts, and those of the row that it is shown with, if any: a control has its
            layer sizes from that one, a tuned row is that one with its usual options.
        changed: whether the code of its method has changed since some of its cells were run.
    """

    name: str
    full: str
    method: str
    unit: str | None
    status: str
    n: int
    values: dict[str, Spread]
    scores: dict[Hashable, float] = field(default_factory=dict)
    reason: str | None = None
    counted: dict[Hashable, float] = field(default_factory=dict)
    standing: Standing | None = None
    versus: Verdict | None = None
    control: bool = False  # the dense network, as it is or trained further: shown, not ranked
    repair: str | None = None
    family: str = ""
    label: str = ""
    beside: str | None = None
    donor: str | None = None
    against: Verdict | None = None
    changed: bool = False


def named_groups(cells: Sequence[Cell], footnotes: dict[str, str]) -> list[tuple[str, str, list[Cell]]]:
    """Cells of one name and status, under a short name and the full one."""
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell["name"]].append(cell)
    named = []
    for full, members in sorted(groups.items()):
        first = members[0]
        short = _short(first["label"], full, first["method"], footnotes)
        for status in ORDER:
            some = [cell for cell in members if cell["status"] == status]
            if some:
                named.append((short, full, some))
    return named


def _short(label: str, full: str, method: str, footnotes: dict[str, str]) -> str:
    """A name that fits a column; where it leaves something out, a letter leads to the footnote that says it."""
    if full == label and len(label) <= LONGEST_NAME:
        return label
    mark = _letters(len(footnotes))
    footnotes[mark] = full
    stem = label if len(label) + len(mark) + 3 <= LONGEST_NAME else method[: LONGEST_NAME - len(mark) - 3]
    return f"{stem} [{mark}]"


def _letters(number: int) -> str:
    """Footnote marks: a, b, …, z, aa, ab and so on."""
    text = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        text = chr(ord("a") + digit) + text
    return text


def row_of(name: str, full: str, cells: list[Cell], metric: str, quantities: Sequence[str]) -> Row:
    """The row of ``cells``, which share a setting and a status, with the mean and spread of each of ``quantities``."""
    values = {quantity: spread(cell.get(quantity) for cell in cells) for quantity in (*quantities, *OF_LANGUAGE)}
    by_unit: dict[Hashable, list[float]] = defaultdict(list)
    for cell in cells:
        if cell.get(metric) is not None:
            by_unit[*task_of(cell), cell["seed"]].append(cell[metric])
    scores: dict[Hashable, float] = {unit: sum(found) / len(found) for unit, found in by_unit.items()}
    reason = "; ".join(sorted({one_line(cell["reason"], LONGEST_REASON) for cell in cells if cell["reason"]})) or None
    first = cells[0]
    trained_on = first["control_of"] == "dense"  # larger than the network that it is a control for
    row = Row(
        *(name, full, first["method"], None if trained_on else first["unit"], first["status"], len(cells), values),
        *(scores, reason),
        control=trained_on,
    )
    row.repair, row.label = None if trained_on else first["repair"], first["label"]
    row.family = (row.unit or "") + (f", {first['trials']} trials" if first["trials"] else "")
    row.donor = None if trained_on else first["control_of"]
    row.beside = first["control_of"] or (first["untuned"] if first["trials"] else None)
    row.changed = any(code_changed(cell) for cell in cells)
    return row


def with_sizes(cell: Cell) -> Cell:
    """The cell with the size of the final network; fine-tuning changes no size, so either stage provides it."""
    sizes = {}
    for name in SIZES:
        tuned = cell.get(f"tuned_{name}")
        sizes[name] = cell.get(f"pruned_{name}") if tuned is None else tuned
    return {**cell, **sizes}


def dense_networks(cells: Sequence[Cell]) -> tuple[list[Cell], list[str]]:
    """A cell for each dense network, and a note for each network about which its cells disagree.

    The network of one configuration and seed has one accuracy. Where records tell several, it was trained on different
    machines, by different code, or somebody changed a record; that of most cells is shown, with a note on the others.
    """
    networks: dict[str, list[Cell]] = defaultdict(list)
    for cell in sorted(cells, key=lambda cell: cell["key"]):
        if any(cell.get(f"dense_{name}") is not None for name in ("accuracy", "loss", "parameters")):
            networks[cell["dense_key"]].append(cell)
    chosen, notes = [], []
    for members in networks.values():
        values: dict[str, list[Cell]] = defaultdict(list)
        for cell in members:
            values[_dense_value(cell)].append(cell)
        (value, usual), *others = sorted(values.items(), key=lambda item: (-len(item[1]), item[0]))
        chosen.append(usual[0])
        if others:
            other = "; ".join(f"{v} in {len(own)} ({_names(own)})" for v, own in others)
            notes.append(
                f"dense, seed {usual[0]['seed']}: records disagree on this network, so that what was pruned of it is "
                f"not quite comparable: {value} in {len(usual)} of {len(members)} records, which is shown; {other}"
            )
    return chosen, notes


def _dense_value(cell: Cell) -> str:
    """A cell's numbers of its dense network as text, rounded so that other hardware gives the same."""
    accuracy, loss = cell.get("dense_accuracy"), cell.get("dense_loss")
    figures = [f"{100 * accuracy:.2f} %"] if accuracy is not None else [f"loss {loss:.3g}"] if loss is not None else []
    if (parameters := cell.get("dense_parameters")) is not None:
        figures.append(f"{parameters:,} parameters")
    return ", ".join(figures)


def _names(cells: Sequence[Cell]) -> str:
    names = sorted({str(cell["name"]) for cell in cells})
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def dense_rows(dense: Sequence[Cell], across: bool, metric: str, footnotes: dict[str, str]) -> list[Row]:
    """The networks before pruning, all in one row where the board is ``across`` data sets or models."""
    variants: dict[str, dict[str, Cell]] = defaultdict(dict)
    for cell in dense:
        variants["" if across else cell["dense_variant"]][cell["dense_key"]] = cell
    suffixes = {}
    if len(variants) > 1:
        first = {variant: next(iter(members.values())) for variant, members in variants.items()}
        suffixes = distinctions({variant: dense_setting(cell) for variant, cell in first.items()})
    rows = []
    for variant, members in sorted(variants.items(), key=lambda item: suffixes.get(item[0], "")):
        values = {quantity: spread([]) for quantity in (*QUANTITIES, metric)}
        for name in ("accuracy", "top5", "loss", *SIZES):
            summary = spread(cell.get(f"dense_{name}") for cell in members.values())
            values |= {target: summary for target in (name, f"pruned_{name}", f"tuned_{name}") if target in values}
        full = f"dense [{suffixes[variant]}]" if suffixes else "dense"
        rows.append(
            Row(
                _short("dense", full, "dense", footnotes),
                full,
                "dense",
                None,
                "done",
                len(members),
                values,
                control=True,
            )
        )
    return rows
