"""DPP edges beside magnitude and random edges with the same counts in every layer, on the boards that have both.

Which edges stay is all that differs: layers have the counts of DPP's, the kept edges are refitted alike, and training
is the same. So this says whether a diverse set of edges is a better one. The records are those of the boards and their
controls; cells of digits, which take seconds, are run where they are missing. Verdicts are the boards' own: moderated t
over common seeds, Holm's correction over the controls of a board, equal within half a point (docs/fairness.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.boards.stats import spread
from benchmarks.figures.looks import look
from benchmarks.figures.sheet import Sheet, Sign
from benchmarks.reproductions import Claim, Outcome, Workplace
from methods.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.boards.board import Board
    from benchmarks.boards.verdicts import Verdict, Word

PAPER = (
    "Acharyya, Zhang & Das, version 1 (arXiv 2006.16617v1): DPP edges beat the other ways to choose edges on real data"
)
METHOD = "dpp_edge"
RIVALS = {"magnitude_edge": "magnitude", "random_edge": "random"}
STAGES = {"before fine-tuning": "pruned_accuracy", "after fine-tuning": "tuned_accuracy"}
NETWORKS = {"mlp": "MLP", "lenet300": "LeNet-300-100", "lenet5": "LeNet-5"}
TURNED: dict[str, Word] = {"better": "worse", "worse": "better"}
SMALL = ("model.widths=[40,30]", "seed=0,1", "budget.compression=2")


def run(work: Workplace) -> Outcome:
    """Five seeds on digits, three on MNIST; two minutes on one core, for digits alone."""
    import pandas as pd

    from benchmarks.boards.board import Question, boards
    from benchmarks.boards.frame import load
    from benchmarks.records.store import Store

    words = ["+experiment=digits", f"method={METHOD}", "controls=true", "track=none"]
    work.cells([*words, *(SMALL if work.quick else ())], recipe=())
    cells, _ = load(Store(work.results / "runs", work.results / "cells"))
    rows = [
        row
        for stage, metric in STAGES.items()
        for board in boards(cells, Question(metric=metric))
        for row in _rows(board, stage)
    ]
    if not rows:
        raise BadInput("no board has DPP edges and their controls; the cells above say why")
    table = pd.DataFrame(rows)
    claims = [claim_over_boards(table, rival, stage) for rival in RIVALS.values() for stage in STAGES]
    return Outcome(table, claims, _setting(table))


def _rows(board: Board, stage: str) -> Iterator[dict[str, Any]]:
    """A line for each control of DPP edges on a board."""
    own = next((row for row in board.rows if row.label == METHOD and row.status == "done"), None)
    for row in board.rows:
        if own is None or row.status != "done" or row.donor != METHOD or row.method not in RIVALS or not row.against:
            continue
        shared = sorted(own.counted.keys() & row.counted.keys(), key=str)
        apart = spread(100 * (own.counted[unit] - row.counted[unit]) for unit in shared)
        group = board.group
        yield {
            "network": f"{group['dataset']}, {NETWORKS.get(group['model'], group['model'])}",
            "budget": f"{group['budget']} {group['value']:g}",
            "stage": stage,
            "edges": RIVALS[row.method],
            "DPP": _percent(own.counted[unit] for unit in shared),
            "same counts": _percent(row.counted[unit] for unit in shared),
            "advantage": apart.mean,
            "half interval": apart.half_width,
            "n": row.against.n,
            "verdict": _turned(row.against),
            "p": row.against.p,
        }


def _percent(values: Iterator[float]) -> float | None:
    return spread(100 * value for value in values).mean


def _turned(verdict: Verdict) -> Word:
    """The board's word on a control, said of DPP's edges."""
    return TURNED.get(verdict.word, verdict.word)


def claim_over_boards(table: pd.DataFrame, rival: str, stage: str) -> Claim:
    """Seen where all boards say better, not seen where one says equal or worse, as claims of papers are judged."""
    part = table[(table["edges"] == rival) & (table["stage"] == stage)]
    words: Sequence[str] = part["verdict"].tolist()
    seen = True if set(words) == {"better"} else False if {"equal", "worse"} & set(words) else None
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    low, high = part["advantage"].min(), part["advantage"].max()
    return Claim(
        f"DPP edges are better than {rival} edges with the same counts, {stage}",
        seen,
        f"of {len(part)} boards: {counts}; advantages {low:+.2f} to {high:+.2f} points, on average "
        f"{part['advantage'].mean():+.2f}",
    )


def _setting(table: pd.DataFrame) -> str:
    networks = ", ".join(f"{name} (n = {part['n'].max()})" for name, part in table.groupby("network", sort=False))
    return (
        f"{networks}. Accuracies in %, advantages and half of their 95 % intervals (Student's t over the seeds, one "
        "board at a time) in points. Verdicts are those of the boards: moderated t, Holm over the controls of a board, "
        "equal within half a point. All have the least-squares repair that the preset of DPP edges has, and DPP's "
        "number of edges in each layer. DPP gives every unit of a layer the same number, the others share it among "
        "units as they like, which may be part of the difference. The paper's networks have sigmoids; these have ReLUs."
    )


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """The advantage of DPP's edges on each board with its interval, before and after fine-tuning."""
    table = outcome.table
    boards = list(dict.fromkeys(zip(table["network"], table["budget"], strict=True)))
    rival = table[table["edges"] == "magnitude"]
    words = rival["verdict"].tolist()
    sheet = Sheet(
        f"DPP edges against magnitude edges with the same counts: better in {words.count('better')} of "
        f"{len(words)} comparisons, equal in {words.count('equal')}, worse in {words.count('worse')}",
        columns=2,
        height=1.2 + 0.42 * len(boards),
        share_y="all",
        note="Accuracy of DPP edges minus that of others with as many edges in every layer; bars: 95 % interval "
        f"(Student's t, {table['n'].min()} to {table['n'].max()} seeds).",
        key=[Sign(f"against {label} edges", look(name), line=False) for name, label in RIVALS.items()],
    )
    for column, stage in enumerate(STAGES):
        panel = sheet.panel(0, column, stage)
        for number, (name, label) in enumerate(RIVALS.items()):
            part = table[(table["edges"] == label) & (table["stage"] == stage)]
            places = [boards.index(board) for board in zip(part["network"], part["budget"], strict=True)]
            heights = [place + 0.24 * (number - 0.5) for place in places]
            panel.points(part["advantage"], heights, look(name), x_std=part["half interval"].fillna(0), size=6)
        panel.rows([f"{network}, {budget}" for network, budget in boards])
        panel.level(0, "the same", vertical=True)
        panel.label("advantage of DPP edges, points", "")
    return {"dpp_edge_controls": sheet}
