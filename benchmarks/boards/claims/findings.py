"""What the boards say of the claims of papers (:mod:`benchmarks.boards.claims`)."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.boards.board import Board, smaller_is_better, unit_order
from benchmarks.boards.claims.written import Claim, claims_of
from benchmarks.boards.frame import Row as Cell
from benchmarks.boards.naming import task_of
from benchmarks.boards.stats import ALPHA
from benchmarks.boards.tables import NONE, Table
from benchmarks.boards.verdicts import Verdict, family, prior_of, verdicts

DENSE = "dense"  # in place of a rival: the network before the pruning
STAGES = {"before": "pruned", "after": "tuned"}
COUNTED = ("done", "collapsed")  # a seed that collapsed speaks against its method
Looked = Literal["seen", "not seen", "undecided"]
Scores = dict[str, dict[Hashable, float]]


@dataclass(frozen=True)
class Finding:
    """What a board says of a claim: in one word, over how many seeds, and the verdict on each rival.

    ``verdicts`` has None for a rival that is not on the board. ``n`` is that of the rival with the fewest common seeds.
    """

    claim: Claim
    word: Looked
    n: int
    verdicts: tuple[Verdict | None, ...]


def judged(claim: Claim, found: Sequence[Verdict | None]) -> Looked:
    """Combine the verdicts on a claim's rivals: the claim holds if all of them hold, and fails if one fails.

    A claim to be better fails where the methods are equal within the margin: no effect was seen where one was claimed.
    """
    holding = {"better"} if claim.kind == "better than" else {"better", "equal"}
    failing = {"worse", "equal"} - holding
    words = [verdict.word if verdict else None for verdict in found]
    if any(word in failing for word in words):
        return "not seen"
    return "seen" if all(word in holding for word in words) else "undecided"


def examine(board: Board) -> list[Finding]:
    """The claims of the methods on a board, by method; none if no claim is about the metric it ranks by."""
    stage, _, quantity = board.metric.partition("_")
    if stage not in STAGES.values():
        return []
    cells = [cell for cell in board.cells if _plain(cell)]
    claims = [claim for method in sorted({cell["method"] for cell in cells}) for claim in claims_of(method)]
    return [
        found
        for stage, measured in STAGES.items()
        for found in _found([claim for claim in claims if claim.stage == stage], cells, measured, quantity, board)
    ]


def _plain(cell: Cell) -> bool:
    """Whether the cell belongs to an unchanged preset in usual surroundings."""
    usual = cell["name"] == cell["method"] and not cell["control_of"] and not cell["trials"]
    return usual and cell["status"] in COUNTED


def _found(claims: Sequence[Claim], cells: Sequence[Cell], measured: str, quantity: str, board: Board) -> list[Finding]:
    scores, units = _scores(cells, f"{measured}_{quantity}")
    dense, _ = _scores(cells, f"dense_{quantity}")
    known = {**scores, **{_dense(name): own for name, own in dense.items() if name in scores}}
    named = [[(claim.method, _dense(claim.method) if r == DENSE else r) for r in claim.rivals] for claim in claims]
    pairs = list(dict.fromkeys(pair for row in named for pair in row if pair[0] in known and pair[1] in known))
    collapsed = {cell["name"] for cell in cells if cell["status"] == "collapsed"}
    by_unit: dict[str, Scores] = defaultdict(dict)
    for name, values in scores.items():
        by_unit[units[name]][name] = values
    families = [family(by_unit[unit], collapsed & by_unit[unit].keys()) for unit in sorted(by_unit, key=unit_order)]
    larger = not smaller_is_better(quantity)
    said = verdicts(known, collapsed, prior_of(families), board.margin, larger, pairs) if pairs else None
    findings = []
    for claim, wanted in zip(claims, named, strict=True):
        found = tuple(said.of(*pair) if said and pair in pairs else None for pair in wanted)
        n = min(verdict.n if verdict else 0 for verdict in found)
        findings.append(Finding(claim, judged(claim, found), n, found))
    return findings


def _dense(method: str) -> str:
    """The dense networks that ``method`` pruned, as a row of their own."""
    return f"{DENSE} of {method}"


def _scores(cells: Sequence[Cell], metric: str) -> tuple[Scores, dict[str, str]]:
    """The metric by name and by unit of comparison (task and seed), and the unit of each name."""
    values: dict[str, dict[Hashable, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        if cell.get(metric) is not None:
            values[cell["name"]][*task_of(cell), cell["seed"]].append(cell[metric])
    means: Scores = {n: {unit: sum(own) / len(own) for unit, own in found.items()} for n, found in values.items()}
    return means, {cell["name"]: cell["unit"] or "" for cell in cells}


COLUMNS = ("method", "claim", "here", "n", "difference")


def tables_of(board: Board) -> list[Table]:
    """The claims of the papers of a board's methods as a table, to stand under the board; none where it has none."""
    findings = examine(board)
    if not findings:
        return []
    notes = [
        "claims of the papers, of presets as they stand here: seen where the method is better than (or as good as) "
        "each that is named, not seen where it is not, else undecided (moderated t over common seeds, Holm over the "
        f"claims of the board, before and after fine-tuning apart, {ALPHA:g}); sources in docs/methods.md"
    ]
    silent = sorted({cell["method"] for cell in board.cells if _plain(cell) and not claims_of(cell["method"])})
    if silent:
        notes.append(f"no claim that can be looked at here: {', '.join(silent)}")
    group = " · ".join(str(value) for value in board.group.values() if value is not None)
    rows = [cells_of(found, board.metric) for found in findings]
    return [Table(f"Claims, {group}", list(COLUMNS), rows, {"method", "claim", "here"}, notes)]


def cells_of(found: Finding, metric: str) -> list[str]:
    """A finding as the texts of a table's row, in the order of :data:`COLUMNS`."""
    factor, form = (100.0, "+.2f") if "accuracy" in metric or "top5" in metric else (1.0, "+.4f")
    differences = [
        NONE if verdict is None or verdict.difference is None else format(verdict.difference * factor, form)
        for verdict in found.verdicts
    ]
    return [found.claim.method, found.claim.words, found.word, str(found.n), ", ".join(differences)]
