"""Check the records against what a comparison of pruning methods should report.

After Blalock, Gonzalez Ortiz, Frankle & Guttag, "What is the State of Neural Network Pruning?" (MLSys 2020): their
recommendations and checklist, in our words, as far as records can answer them. Items that only prose can answer (are
the claims limited to what was run?) are marked as such and left to the author.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.boards.frame import Row as Cell
from benchmarks.boards.naming import task_of, with_networks
from benchmarks.boards.tables import Table

State = Literal["passed", "failed", "not applicable", "for the author"]
MARKS: dict[State, str] = {"passed": "yes", "failed": "NO", "not applicable": "n/a", "for the author": "author"}
SMALL_DATA = frozenset({"digits", "mnist", "fashion_mnist", "friedman1", "california_housing"})
BEFORE_2010 = frozenset({"obd", "obs", "magnitude", "magnitude_edge", "obd_filter", "obs_filter"})
MAGNITUDE = ("magnitude", "magnitude_edge")
MANY_CLASSES = 20
OPERATING_POINTS = 5
PAIRS = 3
SEEDS = 3
CLEAR_FAILURE = 0.05  # accuracy lost, as a fraction of all test samples


@dataclass(frozen=True)
class Verdict:
    """One item of the checklist, what the records say about it, and the cells that show it."""

    item: str
    words: str
    state: State
    evidence: str
    keys: tuple[str, ...] = ()


Predicate = Callable[[Sequence[Cell]], tuple[State, str, Iterable[Cell]]]


def examine(cells: Sequence[Cell]) -> list[Verdict]:
    """Every item of the checklist, judged on ``cells``."""
    cells = with_networks(cells)
    verdicts = []
    for item, words, predicate in ITEMS:
        state, evidence, proof = predicate(cells)
        verdicts.append(Verdict(item, words, state, evidence, tuple(sorted({cell["key"] for cell in proof}))))
    return verdicts


def line(verdicts: Sequence[Verdict], where: str = "") -> str:
    """The verdicts on one line; ``where`` tells the reader where the items are explained."""
    judged = [verdict for verdict in verdicts if verdict.state in ("passed", "failed")]
    failed = [verdict.item for verdict in judged if verdict.state == "failed"]
    text = f"checklist: {len(judged) - len(failed)} of {len(judged)} items passed"
    return f"{text}; not passed: {', '.join(failed)}{where}" if failed else text


def table_of(verdicts: Sequence[Verdict]) -> Table:
    """The verdicts as a table; proofs are counted, and the first record is named."""
    rows = []
    for verdict in verdicts:
        proof = f"{verdict.keys[0]} (+{len(verdict.keys) - 1})" if len(verdict.keys) > 1 else "".join(verdict.keys)
        rows.append([verdict.item, verdict.words, MARKS[verdict.state], verdict.evidence, proof])
    columns = ["item", "recommendation", "met", "evidence", "records"]
    notes = [
        line(verdicts),
        "after Blalock et al. (MLSys 2020), in our words; author = only the author of a claim can answer it",
    ]
    return Table("Checklist for comparisons of pruning methods", columns, rows, set(columns), notes)


def _done(cells: Iterable[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell["status"] == "done"]


def _judge(good: bool, evidence: str, proof: Iterable[Cell]) -> tuple[State, str, Iterable[Cell]]:
    return ("passed" if good else "failed"), evidence, proof


def _by(cells: Iterable[Cell], *names: str) -> dict[tuple[object, ...], list[Cell]]:
    groups: dict[tuple[object, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[tuple(cell[name] for name in names)].append(cell)
    return groups


def _pairs(cells: Sequence[Cell]) -> tuple[State, str, Iterable[Cell]]:
    pairs = _by(_done(cells), "dataset", "model")
    large = [pair for pair in pairs if pair[0] not in SMALL_DATA]
    names = ", ".join(f"{data}/{model}" for data, model in sorted(pairs, key=str))
    good = len(pairs) >= PAIRS and bool(large)
    return _judge(good, f"{len(pairs)}: {names or 'none'}", [members[0] for members in pairs.values()])


def _both_ratios(cells: Sequence[Cell]) -> tuple[State, str, Iterable[Cell]]:
    done = _done(cells)
    missing = [cell for cell in done if cell["compression"] is None or cell["speedup"] is None]
    return _judge(bool(done) and not missing, f"{len(done) - len(missing)} of {len(done)} cells", missing or done)


def _top5(cells: Sequence[Cell]) -> tuple[State, str, Iterable[Cell]]:
    many = [cell for cell in _done(cells) if any(word in cell["dataset"] for word in ("100", "imagenet"))]
    if not many:
        return "not applicable", f"no data set with more than {MANY_CLASSES} classes", ()
    missing = [cell for cell in many if cell["tuned_top5"] is None]
    return _judge(not missing, f"{len(many) - len(missing)} of {len(many)} cells", missing or many)


def _control(cells: Sequence[Cell]) -> tuple[State, str, Iterable[Cell]]:
    done = _done(cells)
    missing = [cell for cell in done if cell["dense_macs"] is None or cell["dense_loss"] is None]
    return _judge(bool(done) and not missing, f"{len(done) - len(missing)} of {len(done)} cells", missing or done)


def _points(cells: Sequence[Cell]) -> tuple[State, str, Iterable[Cell]]:
    groups = _by(_done(cells), "dataset", "model", "label", "variant")
    points = {group: len({task_of(cell) for cell in members}) for group, members in groups.items()}
    few = [groups[group][0] for group, count in points.items() if count < OPERATING_POINTS]
    fewest = min(points.values(), default=0)
    return _judge(bool(points) and not few, f"fewest operating points of a curve: {fewest}", few or _done(cells))


def _spread(cells: Sequence[Cell]) -> tuple[State, str, Iterable[Cell]]:
    groups = _by(_done(cells), "dataset", "model", "label", "variant", "budget", "value")
    few = [members[0] for members in groups.values() if len({cell["seed"] for cell in members}) < SEEDS]
    evidence = f"{len(groups) - len(few)} of {len(groups)} rows have at least {SEEDS} seeds"
    return _judge(bool(groups) and not few, evidence, few or _done(cells))


def _same_software(cells: Sequence[Cell]) -> tuple[State, str, Iterable[Cell]]:
    mixed = []
    for members in _by(_done(cells), "dataset", "model").values():
        if len({cell["torch"] for cell in members}) > 1:
            mixed.append(members[0])
    versions = sorted({str(cell["torch"]) for cell in _done(cells)})
    return _judge(
        bool(versions) and not mixed, f"torch {', '.join(versions)}; one trainer for all", mixed or _done(cells)
    )


def _rivals(cells: Sequence[Cell]) -> tuple[State, str, Iterable[Cell]]:
    methods = {cell["method"] for cell in _done(cells)}
    old, new = methods & BEFORE_2010, methods - BEFORE_2010 - {"random", "random_edge"}
    found = bool(methods & set(MAGNITUDE)) and bool(old - set(MAGNITUDE)) and bool(new)
    words = f"before 2010: {', '.join(sorted(old)) or 'none'}; later: {', '.join(sorted(new)) or 'none'}"
    return _judge(found, words, [cell for cell in _done(cells) if cell["method"] in old])


def _hardware(cells: Sequence[Cell]) -> tuple[State, str, Iterable[Cell]]:
    done = _done(cells)
    missing = [cell for cell in done if not cell["torch"] or not (cell["cpu"] or cell["gpu"])]
    return _judge(bool(done) and not missing, f"{len(done) - len(missing)} of {len(done)} cells", missing or done)


def _failing(cells: Sequence[Cell]) -> tuple[State, str, Iterable[Cell]]:
    groups = _by(cells, "dataset", "model")
    broken = {pair: [cell for cell in members if _fails(cell)] for pair, members in groups.items()}
    lacking = [f"{data}/{model}" for (data, model), found in broken.items() if not found]
    evidence = "lacking: " + ", ".join(sorted(lacking)) if lacking else f"on all {len(groups)} pairs"
    return _judge(bool(groups) and not lacking, evidence, [cell for found in broken.values() for cell in found])


def _fails(cell: Cell) -> bool:
    if cell["status"] == "collapsed":
        return True
    dense, tuned = cell["dense_accuracy"], cell["tuned_accuracy"]
    return dense is not None and tuned is not None and dense - tuned >= CLEAR_FAILURE


def _raw(cells: Sequence[Cell]) -> tuple[State, str, Iterable[Cell]]:
    done = _done(cells)
    missing = [cell for cell in done if cell["tuned_accuracy"] is None and cell["tuned_loss"] is None]
    return _judge(bool(done) and not missing, f"{len(done) - len(missing)} of {len(done)} cells", missing or done)


def _initialisations(cells: Sequence[Cell]) -> tuple[State, str, Iterable[Cell]]:
    few, fewest = [], []
    for members in _by(_done(cells), "dataset", "model").values():
        count = len({cell["dense_key"] for cell in members})
        fewest.append(count)
        if count < SEEDS:
            few.append(members[0])
    return _judge(
        bool(fewest) and not few, f"fewest trained networks of a pair: {min(fewest, default=0)}", few or cells
    )


def _efficiency(cells: Sequence[Cell]) -> tuple[State, str, Iterable[Cell]]:
    done = _done(cells)
    missing = [cell for cell in done if cell["dense_macs"] is None or cell["speedup"] is None]
    return _judge(
        bool(done) and not missing, f"MACs of {len(done) - len(missing)} of {len(done)} cells", missing or done
    )


def _control_with(method: tuple[str, ...], same_widths: bool, words: str) -> Predicate:
    """Check for the control ``method`` in every task, on request with the layer-wise counts of each other method."""

    def predicate(cells: Sequence[Cell]) -> tuple[State, str, Iterable[Cell]]:
        done = _done(cells)
        tasks: dict[object, list[Cell]] = defaultdict(list)
        for cell in done:
            tasks[task_of(cell), cell["unit"]].append(cell)
        lacking, proof = [], []
        for members in tasks.values():
            own = [cell for cell in members if cell["method"] in method]
            proof += own
            have = {(cell["widths"], cell["seed"]) for cell in own}
            others = [cell for cell in members if cell["method"] not in method]
            if same_widths:
                lacking += [cell for cell in others if (cell["widths"], cell["seed"]) not in have]
            elif not own:
                lacking += others[:1]
        if not done:
            return "failed", "no cells", ()
        subject = "cells" if same_widths else "tasks (nodes and edges apart)"
        return _judge(not lacking, f"{len(lacking)} {subject} without {words}", lacking or proof)

    return predicate


def _author(cells: Sequence[Cell]) -> tuple[State, str, Iterable[Cell]]:
    return "for the author", "", ()


def _given(evidence: str) -> Predicate:
    """An item that every record meets by design."""

    def predicate(cells: Sequence[Cell]) -> tuple[State, str, Iterable[Cell]]:
        return _judge(bool(cells), evidence, cells)

    return predicate


ITEMS: tuple[tuple[str, str, Predicate], ...] = (
    ("R1", f"{PAIRS} or more pairs of data set and network, not all of them small", _pairs),
    ("R2", "compression and theoretical speed-up, both as original / pruned", _both_ratios),
    ("R3", "top-5 beside top-1 accuracy where there are many classes", _top5),
    ("R4", "every metric of the network before pruning", _control),
    ("R5", f"trade-off curves with {OPERATING_POINTS} or more operating points", _points),
    ("R6", f"mean and standard deviation over {SEEDS} or more seeds", _spread),
    ("R7", "one library, one data pipeline and one trainer for all methods", _same_software),
    ("A1", "compared with magnitude, with a method older than 2010 and with recent ones", _rivals),
    ("A2", "algorithm and all settings can be looked up", _given("every record holds its whole configuration")),
    ("A3", "claims go no further than what was run", _author),
    ("B5", "the architecture in full, and its source", _given("model and its settings in every record")),
    ("B7", "how the data are read, split, batched and augmented", _given("data set and trainer in every record")),
    ("B8", "library versions and hardware", _hardware),
    ("C9", "a ratio at which accuracy clearly fails", _failing),
    ("C10", "raw accuracy at every operating point", _raw),
    ("C11", f"{SEEDS} or more separately initialised and trained networks", _initialisations),
    ("C12", "what the error bars are, next to them", _given("stated under every table")),
    ("C13", "multiply-accumulates wherever efficiency is claimed", _efficiency),
    ("D14", "random pruning as a control", _control_with(("random", "random_edge"), False, "random pruning")),
    (
        "D15",
        "random pruning with the method's own layer-wise counts",
        _control_with(("random", "random_edge"), True, "it"),
    ),
    ("D16", "magnitude pruning as a control", _control_with(MAGNITUDE, False, "magnitude pruning")),
    ("D17", "magnitude pruning with the method's own layer-wise counts", _control_with(MAGNITUDE, True, "it")),
    ("D18", "where the numbers of other papers came from, and what differs", _given("results/published, by column")),
)
