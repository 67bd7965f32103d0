"""Answer three questions of a reader, each in a sentence made from the records.

Which method at my budget? Which is really faster? Can I trust it? If the records do not answer one, the page says so.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.boards import checklist
from benchmarks.boards.board import Board
from benchmarks.boards.frame import Row as Cell
from benchmarks.boards.naming import task_of
from benchmarks.boards.rows import Row
from benchmarks.boards.stats import ALPHA, Spread
from benchmarks.boards.tables import NONE, probability
from benchmarks.boards.verdicts import Verdict, Verdicts
from benchmarks.figures.looks import Look, look
from benchmarks.report.gather import CONTROLS, UNITS

TOP = 3
ENOUGH_SEEDS = 3
FEWER = {"compression": "{value:g} times fewer parameters", "speedup": "{value:g} times fewer MACs"}
FEWER |= {"keep": "{value:.0%} of the units kept", "latency": "{value:g} times less latency"}
WORDS = {"node": "structured: whole nodes or channels go", "edge": "unstructured: single weights are masked"}
WORDS |= {"eigen": "structured: directions of an eigenbasis go"}


@dataclass(frozen=True)
class Place:
    """One of the first methods of a board: its figure in words, and what is known of it against the first.

    ``marks`` are its mean and the ends of its interval on a scale from 0 to 100 that all three share.
    """

    name: str
    figure: str
    n: int
    against: str
    row: str  # its anchor on the page
    look: Look
    marks: tuple[float, float, float]


@dataclass(frozen=True)
class Pick:
    """The answer for one network, unit and budget; ``data`` and ``budget`` are what a reader picks it by."""

    data: str
    unit: str
    unit_words: str
    budget: str
    board: str
    sentence: str
    quantity: str
    top: list[Place]
    ends: tuple[str, str]  # of the scale of the marks


@dataclass(frozen=True)
class Faster:
    """Which kind of pruning was measured to be faster: a sentence, and a line per network, budget and unit."""

    sentence: str
    lines: list[tuple[str, str, str, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Trust:
    """How far the numbers can be relied on.

    Attributes:
        sentence: the answer.
        points: what speaks for and against it, as (good, words).
        unmet: what the checklist for pruning papers asks for and the records do not show.
    """

    sentence: str
    points: list[tuple[bool, str]]
    unmet: list[str]


def budget_words(kind: str | None, value: float | None) -> str:
    """A budget in words, with its name in the suite: ``4 times fewer parameters (compression 4)``."""
    if not kind or value is None:
        return "no budget"
    words = FEWER[kind].format(value=value) if kind in FEWER else ""
    return f"{words} ({kind} {value:g})" if words else f"{kind} {value:g}"


def picks(found: Sequence[tuple[str, Board, dict[int, str]]]) -> list[Pick]:
    """The three best methods of every board and unit.

    Args:
        found: the anchor of each board, the board, and the anchors of its rows by ``id``.
    """
    every = []
    for anchor, board, anchors in found:
        for unit in UNITS:
            verdicts, rows = board.verdicts.get(unit), board.ranked().get(unit)
            if verdicts and rows:
                every.append(_pick(anchor, board, anchors, unit, verdicts, rows))
    return every


def _pick(
    anchor: str, board: Board, anchors: dict[int, str], unit: str, verdicts: Verdicts, rows: dict[str, Row]
) -> Pick:
    measured = {name: row for name, row in rows.items() if row.values[board.metric].mean is not None}
    sign = -1.0 if board.larger_is_better else 1.0
    order = sorted(measured, key=lambda name: (sign * (measured[name].values[board.metric].mean or 0.0), name))
    ends, marks = _on_a_scale([measured[name].values[board.metric] for name in order[:TOP]], board.metric)
    top = [
        Place(
            *(name, figure(measured[name].values[board.metric], board.metric), measured[name].values[board.metric].n),
            "first by its mean" if name == order[0] else against_first(verdicts.of(name, order[0]), board.margin),
            *(anchors[id(measured[name])], look(measured[name].method), marks[place]),
        )
        for place, name in enumerate(order[:TOP])
    ]
    kind, value = board.group.get("budget"), board.group.get("value")
    dense = next(
        (row for row in board.rows if row.method == "dense" and row.values[board.metric].mean is not None), None
    )
    whole = f" (dense: {figure(dense.values[board.metric], board.metric, False)})" if dense else ""
    data = f"{board.group['dataset']} · {board.group['model']}"
    head = f"{top[0].name} comes first with {top[0].figure}{whole}" if top else "no method has a network to rank"
    sentence = f"{data}, {budget_words(kind, value)}, {UNITS[unit]}: {head}{_told_apart(order, verdicts)}."
    quantity = "test accuracy" if "accuracy" in board.metric else board.metric.replace("_", " ")
    return Pick(data, unit, WORDS[unit], budget_words(kind, value), anchor, sentence, quantity, top, ends)


def _on_a_scale(values: Sequence[Spread], metric: str) -> tuple[tuple[str, str], list[tuple[float, float, float]]]:
    """The ends of a scale that holds all means and intervals, in words, and (low, mean, high) of each on it."""
    spans = []
    for each in values:
        mean, half = each.mean or 0.0, each.half_width or 0.0
        spans.append((mean - half, mean, mean + half))
    if "accuracy" in metric or "top5" in metric:
        spans = [(max(low, 0.0), mean, min(high, 1.0)) for low, mean, high in spans]
    first, last = min((s[0] for s in spans), default=0.0), max((s[2] for s in spans), default=1.0)
    first, last = (first, last) if last > first else (first - 0.005, last + 0.005)
    ends = tuple(figure(Spread(1, end, None), metric) for end in (first, last))
    marks = [tuple(round(100 * (value - first) / (last - first), 2) for value in span) for span in spans]
    return ends, marks  # type: ignore[return-value]  # tuples of two and of three


def figure(values: Spread, metric: str, interval: bool = True) -> str:
    """The mean in the unit of the page, with its 95 % interval where there are seeds enough for one."""
    if values.mean is None:
        return NONE
    percent = "accuracy" in metric or "top5" in metric
    scale, decimals, sign = (100.0, 2, " %") if percent else (1.0, 4, "")
    mean, half = values.mean * scale, values.half_width
    text = f"{mean:.{decimals}f}{sign}"
    if not interval or half is None:
        return text
    if half == 0:  # an interval would be misleading for a few seeds that happen to agree
        return f"{text} (all {values.n} seeds agree)"
    low, high = mean - half * scale, mean + half * scale
    if percent:
        low, high = max(low, 0.0), min(high, 100.0)
    return f"{text} ({low:.{decimals}f} to {high:.{decimals}f})"


def _told_apart(order: Sequence[str], verdicts: Verdicts) -> str:
    """From how many of the others the first is told apart."""
    if len(order) < 2:
        return "; nothing else was run to compare it with"
    words = [verdicts.of(order[0], other).word for other in order[1:]]
    better, equal, others = words.count("better"), words.count("equal"), len(words)
    if better == others:
        return f"; it is better than each of the {others} others"
    if not better and not equal:
        return f", but these records cannot tell it from any of the {others} others"
    parts = [f"better than {better}"] if better else []
    parts += [f"equal to {equal}"] if equal else []
    left = others - better - equal
    return f"; of the {others} others it is {', '.join(parts)}{f', and not told apart from {left}' if left else ''}"


def against_first(verdict: Verdict, margin: float | None) -> str:
    """What is known of a method against the first."""
    match verdict.word:
        case "better" | "worse":
            return f"{verdict.word} than the first, p {probability(verdict.p)}"
        case "equal":
            return f"equal to the first within {100 * (margin or 0.0):g} points"
        case "order only":
            return "one seed in common: no test"
        case "no common seed":
            return "no seed in common with the first"
    return f"undecided; {verdict.seeds} seeds may tell" if verdict.seeds else "undecided"


def faster(found: Sequence[Board], cells: Sequence[Cell]) -> Faster:
    """The measured speed-up compared with that in MACs, by network, budget and unit; the machine is named."""
    columns = sorted({name for board in found for name in board.latencies}, key=lambda n: ("eager" not in n, n))
    if not columns:
        words = f"Nobody knows yet: these {len(cells)} records hold no measured latency, and MACs alone do not tell."
        return Faster(words)
    column = columns[0]
    lines: list[tuple[str, str, str, str, str]] = []
    ratios: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for board in found:
        units: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for row in board.rows:
            seen, macs = row.values.get(column), row.values["speedup"].mean
            if row.status == "done" and not row.control and row.unit in UNITS and seen and seen.mean and macs:
                units[str(row.unit)].append((macs, seen.mean))
        for unit, pairs in units.items():
            ratios[unit] += pairs
            times = [measured for _, measured in pairs]
            name = f"{board.group.get('dataset')} · {board.group.get('model')}"
            budget = budget_words(board.group.get("budget"), board.group.get("value"))
            middle = median(macs for macs, _ in pairs)
            spread = f"{median(times):.2f}× ({min(times):.2f} to {max(times):.2f})"
            lines.append((name, budget, UNITS[unit], f"{middle:.2f}×", spread))
    runtime, _, batch = column.removeprefix("latency_").rpartition("_b")
    parts = []
    for unit, words in (("node", "removing nodes"), ("edge", "masking weights")):
        if found_ones := ratios.get(unit):
            macs, measured = (median(pair[place] for pair in found_ones) for place in (0, 1))
            count = f"median of {len(found_ones)} settings" if len(found_ones) > 1 else "one setting"
            parts.append(
                f"{words} made networks {measured:.2f} times as fast, at {macs:.2f} times fewer MACs ({count})"
            )
    machine = _machine([cell for cell in cells if cell.get(column) is not None])
    sentence = f"Measured on {machine}, {runtime}, batch {batch}: {'; '.join(parts)}."
    return Faster(sentence, lines)


def _machine(cells: Sequence[Cell]) -> str:
    names = sorted({str(cell.get("gpu") or cell.get("cpu") or "a machine without a name") for cell in cells})
    versions = sorted({str(cell["torch"]) for cell in cells if cell.get("torch")})
    return " and ".join(names) + (f" (torch {', '.join(versions)})" if versions else "")


def trust(found: Sequence[Board], cells: Sequence[Cell]) -> Trust:
    """Seeds, controls, decided pairs, review and the checklist, each as something that speaks for or against."""
    judged = [each for each in checklist.examine(cells) if each.state in ("passed", "failed")]
    unmet = [f"{each.words} ({each.evidence})" for each in judged if each.state == "failed"]
    words = f"{len(judged) - len(unmet)} of {len(judged)} points of the checklist for pruning papers are met"
    points = [_seeds(found), _decided(found), _controls(cells), _reviewed(cells), _complete(cells), *_code(found)]
    points.append((not unmet, words))
    against = sum(not good for good, _ in points)
    verdict = "Yes" if not against else "With care" if 2 * against <= len(points) else "Not yet"
    preliminary = "" if points[0][0] else f" Rows with fewer than {ENOUGH_SEEDS} seeds are preliminary."
    return Trust(
        f"{verdict}: {len(points) - against} of {len(points)} points speak for it.{preliminary}", points, unmet
    )


def _seeds(found: Sequence[Board]) -> tuple[bool, str]:
    counts = [row.n for board in found for row in board.rows if row.status == "done" and not row.control]
    enough = sum(n >= ENOUGH_SEEDS for n in counts)
    words = f"{enough} of {len(counts)} rows have {ENOUGH_SEEDS} or more seeds"
    return bool(counts) and enough == len(counts), words


def _decided(found: Sequence[Board]) -> tuple[bool, str]:
    pairs = [v for board in found for said in board.verdicts.values() for v in said.pairs.values()]
    decided = sum(verdict.word in ("better", "worse", "equal") for verdict in pairs)
    words = f"{decided} of {len(pairs)} pairs of methods are told apart or equal (Holm's correction, {ALPHA:g} a board)"
    return decided * 2 >= len(pairs) > 0, words


def _controls(cells: Sequence[Cell]) -> tuple[bool, str]:
    tasks: dict[tuple[object, str], set[str]] = defaultdict(set)
    for cell in cells:
        if cell["status"] == "done":
            tasks[task_of(cell), str(cell["unit"])].add(cell["method"])
    own = {"node": set(CONTROLS[:2]), "edge": set(CONTROLS[2:])}
    have = sum(own.get(unit, set()) <= methods for (_, unit), methods in tasks.items())
    words = f"random and magnitude pruning, the controls, were run in {have} of {len(tasks)} comparisons"
    return have == len(tasks) > 0, words


def _reviewed(cells: Sequence[Cell]) -> tuple[bool, str]:
    reviewed = sum(bool(cell.get("_committed")) for cell in cells)
    words = f"{reviewed} of {len(cells)} records are reviewed"
    good = reviewed == len(cells) > 0
    return good, words if good else f"{words}; the others are this machine's own"


def _complete(cells: Sequence[Cell]) -> tuple[bool, str]:
    failed = sum(cell["status"] == "failed" for cell in cells)
    others = sum(cell["status"] in ("collapsed", "skipped", "missed") for cell in cells)
    words = f"{failed} of {len(cells)} runs failed" if failed else f"none of {len(cells)} runs failed"
    return not failed, words + (
        f"; {others} collapsed, missed the budget or did not apply, and are shown" if others else ""
    )


def _code(found: Sequence[Board]) -> list[tuple[bool, str]]:
    rows = [row for board in found for row in board.rows if row.method != "dense"]
    changed = sum(row.changed for row in rows)
    return [(False, f"the code of {changed} of {len(rows)} rows has changed since they were run (marked ‡)")] * bool(
        changed
    )
