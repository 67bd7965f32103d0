"""Boards: which records share a table, which share a row, and how the rows of a table compare.

A board holds the cells of one (data set, model, budget) unless it is grouped otherwise; a model with other widths or
another training counts as another model. A row is one method with one setting, averaged over seeds (and over tasks,
where the grouping spans several). Cells that failed, collapsed or did not apply get rows of their own and never leave
gaps; so do cells that missed their budget, since their networks are larger than the others. Rows are compared pair by
pair over the seeds and tasks they share, node methods with node methods (which shrink networks) and edge methods with
edge methods (which mask them). Where some cells of a method collapsed, their accuracies count in its comparisons, too;
otherwise only the seeds that survived would represent it.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.boards.frame import Row as Cell
from benchmarks.boards.latencies import latency_columns, of_one_machine
from benchmarks.boards.naming import task_of, with_names, with_networks
from benchmarks.boards.rows import (
    ORDER,
    QUANTISED,
    QUANTITIES,
    RECALIBRATED,
    Row,
    dense_networks,
    dense_rows,
    named_groups,
    row_of,
    with_sizes,
)
from benchmarks.boards.verdicts import MARGIN, Pairs, Prior, Verdicts, family, prior_of, verdicts
from methods.errors import BadInput

TASK = ("dataset", "model", "budget", "value")
SMALLER_IS_BETTER = (
    *("loss", "perplexity", "bits_per_character", "parameters", "nonzero", "macs", "seconds", "memory", "bytes"),
    "reason",
)


@dataclass(frozen=True)
class Question:
    """What a user asks of a board.

    Attributes:
        metric: the quantity to rank by; None takes accuracy after fine-tuning, or loss where there is no accuracy.
        baseline: name or label of the method with which the others are compared.
        group_by: the columns; every combination of their values has its own board.
        margin: accuracies (fractions) closer than this are equal; None claims no equality. Only accuracies have one.
    """

    metric: str | None = None
    baseline: str | None = None
    group_by: tuple[str, ...] = TASK
    margin: float | None = MARGIN


@dataclass
class Board:
    """The rows of one group of cells; ``keys`` names all cells in it, including those that repeat another."""

    group: dict[str, Any]
    metric: str
    rows: list[Row]
    cells: list[Cell]
    baseline: Row | None = None
    footnotes: dict[str, str] = field(default_factory=dict)
    latencies: list[str] = field(default_factory=list)  # the latency ratios that some row has
    keys: frozenset[str] = frozenset()
    verdicts: dict[str, Verdicts] = field(default_factory=dict)  # by unit; the names are those of :meth:`ranked`
    margin: float | None = None
    dense_differs: list[str] = field(default_factory=list)  # notes on dense networks about which records disagree

    @property
    def tasks(self) -> int:
        """The number of (data set, model, budget) combinations that the board spans."""
        return len({task_of(cell) for cell in self.cells})

    @property
    def larger_is_better(self) -> bool:
        """Whether a larger value of the metric wins."""
        return not smaller_is_better(self.metric)

    def ranked(self) -> dict[str, dict[str, Row]]:
        """The rows that are compared, by family and by a unique name that does not depend on the order of the rows.

        Controls are not among them: they answer a question about the method that they belong to, and as additional
        rows they would cost all the other comparisons statistical power.
        """
        found: dict[str, dict[str, Row]] = defaultdict(dict)
        done = (row for row in self.rows if row.status == "done" and not row.control and row.counted and not row.donor)
        for row in sorted(done, key=lambda row: (row.full, row.name)):
            own = found[row.family]
            own[row.full if row.full not in own else f"{row.full} ({len(own)})"] = row
        return {family: found[family] for family in sorted(found, key=unit_order)}

    def controls(self) -> "tuple[dict[str, Row], list[tuple[str, str]]]":
        """The controls and the methods they belong to, by row number, and the pairs of each control with its method."""
        rows = {f"{number:06}": row for number, row in enumerate(self.rows) if row.status == "done" and row.counted}
        donors = {row.label: name for name, row in reversed(rows.items()) if row.beside is None}
        pairs = [(name, donors[row.donor]) for name, row in rows.items() if row.donor in donors]
        named = {name for pair in pairs for name in pair}
        return {name: row for name, row in rows.items() if name in named}, pairs

    def families(self) -> list[Pairs]:
        """The pairs that are compared: one family per unit, and one for the controls."""
        rows, pairs = self.controls()
        own = [family(*_scores(rows), only=pairs)] if pairs else []
        return [*(family(*_scores(rows)) for rows in self.ranked().values()), *own]


def unit_order(unit: str | None) -> tuple[int, str]:
    """Nodes before edges before other units; within a unit, families with fewer trials first."""
    name, _, trials = (unit or "").partition(", ")
    return {"node": 0, "edge": 1}.get(name, 2), f"{name}{trials:>30}"


def _scores(rows: dict[str, Row]) -> tuple[dict[str, dict[Hashable, float]], list[str]]:
    """The scores that rows are compared by, and the names of the rows with a collapsed cell among them."""
    return {name: row.counted for name, row in rows.items()}, [
        n for n, row in rows.items() if row.counted != row.scores
    ]


def smaller_is_better(metric: str) -> bool:
    """Whether a smaller value of ``metric`` wins: losses, sizes and costs."""
    return any(word in metric for word in SMALLER_IS_BETTER)


def boards(cells: Sequence[Cell], question: Question | None = None) -> list[Board]:
    """All boards of ``cells``, in a fixed order."""
    question = question or Question()
    known = {name for cell in cells[:1] for name in cell}
    unknown = [name for name in question.group_by if cells and name not in known]
    if unknown:
        columns = sorted(name for name in known if name != "config" and not name.startswith("_"))
        raise BadInput(f"Unknown column {', '.join(unknown)}; expected some of {', '.join(columns)}.")
    groups: dict[tuple[Any, ...], list[Cell]] = defaultdict(list)
    if "model" in question.group_by:
        cells = with_networks(cells, finetuning=True)
    for cell in with_names(cells, separate=False):
        groups[tuple(cell[name] for name in question.group_by)].append(cell)
    keys: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for cell in cells:
        keys[tuple(cell[name] for name in question.group_by)].add(cell["key"])
    order = sorted(groups, key=lambda group: tuple((value is not None, _sortable(value)) for value in group))
    found = [_board(dict(zip(question.group_by, group, strict=True)), groups[group], question) for group in order]
    for group, board in zip(order, found, strict=True):
        board.keys = frozenset(keys[group])
    _judge(found, question)
    return found


def _judge(found: Sequence[Board], question: Question) -> None:
    """Fill in the verdicts of every board; the boards of one network share the prior of their variances."""
    networks: dict[tuple[Any, ...], list[Board]] = defaultdict(list)
    for board in found:
        networks[board.group.get("dataset"), board.group.get("model"), board.metric].append(board)
    for own in networks.values():
        prior = prior_of([pairs for board in own for pairs in board.families()])
        for board in own:
            board.margin = question.margin if "accuracy" in board.metric or "top5" in board.metric else None
            for unit, rows in board.ranked().items():
                said = verdicts(*_scores(rows), prior, board.margin, board.larger_is_better)
                board.verdicts[unit] = said
                for name, standing in said.standings().items():
                    rows[name].standing = standing if len(rows) > 1 else None
            rows, pairs = board.controls()
            said = verdicts(*_scores(rows), prior, board.margin, board.larger_is_better, pairs)
            for (name, _), verdict in said.pairs.items():
                rows[name].against = verdict
            if question.baseline is not None:
                _compare(board, question.baseline, prior)


def _sortable(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value if value is not None else 0


def _board(group: dict[str, Any], cells: list[Cell], question: Question) -> Board:
    cells = of_one_machine(cells)  # a board may span tasks that were timed on different machines
    cells = sorted((with_sizes(cell) for cell in cells), key=lambda cell: (task_of(cell), cell["seed"], cell["key"]))
    metric = question.metric or default_metric(cells)
    footnotes: dict[str, str] = {}
    latencies = [name for name in latency_columns(cells) if any(cell.get(name) is not None for cell in cells)]
    renewed = [name for name in (*RECALIBRATED, *QUANTISED) if any(cell.get(name) is not None for cell in cells)]
    quantities = tuple(dict.fromkeys((*QUANTITIES, *renewed, *latencies, metric)))
    rows = [row_of(name, full, members, metric, quantities) for name, full, members in named_groups(cells, footnotes)]
    board = Board(group, metric, rows, cells, footnotes=footnotes, latencies=latencies)
    _count_collapsed(rows)
    before = metric.replace("tuned", "pruned")
    rows.sort(
        key=lambda row: (
            *(not row.control, ORDER.index(row.status), unit_order(row.unit)),
            *(*_merit(row, metric, board), *_merit(row, before, board)),
            *(row.full, row.name),
        )
    )
    board.rows = _beside(rows)
    dense, board.dense_differs = dense_networks(cells)
    across = len({(cell["dataset"], cell["model"]) for cell in cells}) > 1
    board.rows[:0] = dense_rows(dense, across, metric, footnotes)
    return board


def _beside(rows: Sequence[Row]) -> list[Row]:
    """The rows, with controls and tuned rows placed after the row that they belong to, if it is on the board."""
    last = {row.label: row for row in reversed(rows) if row.status == "done" and row.beside is None}
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.status == "done" and row.beside in last:
            found[row.beside or ""].append(row)
    moved = {id(row) for own in found.values() for row in own}
    order = []
    for row in rows:
        if id(row) not in moved:
            order += [row, *(found[row.label] if last.get(row.label) is row else [])]
    for row in rows:
        row.beside = row.beside if id(row) in moved else None
    return order


def default_metric(cells: Sequence[Cell]) -> str:
    """Accuracy after fine-tuning; loss for regression, where there is no accuracy."""

    def any_has(name: str) -> bool:
        return any(cell.get(f"{stage}_{name}") is not None for cell in cells for stage in ("dense", "pruned", "tuned"))

    return "tuned_loss" if any_has("loss") and not any_has("accuracy") else "tuned_accuracy"


def _merit(row: Row, metric: str, board: Board) -> tuple[bool, float]:
    mean = row.values[metric].mean if metric in row.values else None
    return mean is None, 0.0 if mean is None else -mean if board.larger_is_better else mean


def _count_collapsed(rows: Sequence[Row]) -> None:
    """Make the collapsed cells of a setting count together with those that are done."""
    collapsed = {row.full: row.scores for row in rows if row.status == "collapsed"}
    for row in rows:
        if row.status == "done":
            row.counted = {**collapsed.get(row.full, {}), **row.scores}


def _compare(board: Board, baseline: str, prior: Prior) -> None:
    """Compare every row except controls with the baseline, whatever its unit."""
    ranked = [row for row in board.rows if row.status == "done" and not row.control and not row.donor]
    exact = [row for row in ranked if baseline in (row.full, row.name)]
    same = [row for row in ranked if row.full.partition(" [")[0] == baseline]
    found = exact or same or [row for row in ranked if row.method == baseline]
    if not found:
        return
    board.baseline = base = found[0]
    rows = {f"{number:06}": row for number, row in enumerate(ranked) if row.counted}
    own = next(name for name, row in rows.items() if row is base)
    pairs = [(name, own) for name in rows if name != own]
    said = verdicts(*_scores(rows), prior, board.margin, board.larger_is_better, pairs)
    for (name, _), verdict in said.pairs.items():
        rows[name].versus = verdict
