"""Is one network more compressible than another of the same structure, and which theory can tell before pruning?

Networks of one structure are trained with different weight decay, rate, batch size and number of training samples. All
are pruned to the same size, without repair or training, and the drop in test accuracy is put beside what theories say
of the dense network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from benchmarks.boards.theory import Correlation, Point, points, pooled
from benchmarks.figures.panel import nth
from benchmarks.figures.sheet import Sheet, Sign
from benchmarks.records.keys import dense_key
from benchmarks.reproductions import Claim, Outcome, Workplace

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.records.schema import Record

PAPER = (
    "W. Yang, G. Wang, J. Ding, Y. Yang, A Theoretical Understanding of Neural Network Compression from Sparse Linear "
    "Approximation, arXiv 2206.05604: the first question of its abstract; and E. Diao et al., ICLR 2023 (PQ index)"
)
DROP = "accuracy drop before fine-tuning"
THEORIES = {  # what a record calls it: what stands on the page
    "lq bound on the output": "ℓq bound on the output",
    "PQ index": "PQ index",
    "spectral radius (K-FAC)": "K-FAC radius",
    "OBD": "OBD",
    "degrees of freedom per kept node": "degrees of freedom N(λ)",
}
EDGES = {"magnitude_edge": "magnitude", "lq": "ℓq"}
NODES = "magnitude"  # its records hold N(λ), which says nothing of edges by itself
COMPRESSION = 16
SHARED = ["measure=none", "measure.theory=true", "track=none", "trainer.finetune.epochs=0", "compensation=none"]
GRIDS = {
    "digits, 64-150-300-150-10": [
        "dataset=digits",
        "model=mlp",
        "dataset.limit=300,1200",
        "trainer.train.weight_decay=0.0,5e-4,5e-3",
        "trainer.train.learning_rate=0.02,0.1",
        "trainer.train.batch_size=32,128",
        "seed=0,1",
    ],
    "MNIST, 784-300-100-10": [
        "dataset=mnist",
        "model=lenet300",
        "trainer.train.epochs=8",
        "dataset.limit=1500,6000",
        "trainer.train.weight_decay=0.0,5e-4,5e-3",
        "trainer.train.learning_rate=0.01,0.05",
        "trainer.train.batch_size=32,128",
        "seed=0,1",
    ],
}
QUICK = [
    "dataset=digits",
    "model=mlp",
    "model.widths=[16,16]",
    "dataset.limit=300",
    "trainer.train.epochs=1,3",
    "seed=0,1",
    "calibration.samples=64",
]
SETTING = (
    "Networks of one structure that differ in weight decay, rate, batch size, number of training samples and "
    "seed; edges pruned once to a sixteenth of the parameters by magnitude (global) and by the reconstructed ℓq "
    "rule, without repair and without training. A theory's number is taken from the record, where it is computed "
    "on the dense network for the masks; N(λ) from a record of node pruning of the same network, half of the "
    "nodes of each layer. Spearman's rank correlation over networks, with a bootstrap over networks. A theory "
    "that ranks these networks may do so because it sees the training recipe; within a recipe there are two seeds "
    "only. Nothing is published in numbers."
)


@dataclass(frozen=True)
class Beside:
    """One theory's numbers paired with the drops, over the networks of a grid."""

    task: str
    method: str
    theory: str
    own: Sequence[Point]
    correlation: Correlation


def run(work: Workplace) -> Outcome:
    """Cells of the common sweep, for each grid by two edge methods and one of nodes."""
    grids = {"digits": QUICK} if work.quick else GRIDS
    found = []
    for task, words in grids.items():
        edges = {
            name: work.cells([*words, *SHARED, f"method={name}", f"budget.compression={COMPRESSION}"]) for name in EDGES
        }
        nodes = work.cells([*words, *SHARED, f"method={NODES}", "budget.keep=0.5"])
        found += list(beside(task, edges, nodes))
    return Outcome(tabulate(found), claims(found), SETTING, numbers={"points": _points(found)})


def beside(task: str, edges: Mapping[str, Sequence[Record]], nodes: Sequence[Record]) -> Iterator[Beside]:
    """Each theory with the drop of each edge method; theories of nodes with the drops of the same networks."""
    other = dict(_degrees_of_freedom(nodes))
    for method, records in edges.items():
        every = [point for point in points(records) if point.layer is None and point.outcome == DROP]
        keys = {record.key: dense_key(record.config) for record in records}
        drops = {keys[point.key]: point for point in every}
        for theory in THEORIES:
            own = [point for point in every if point.theory == theory]
            if not own:
                known = other.keys() & drops.keys()
                own = [replace(drops[each], theory=theory, predicted=other[each]) for each in sorted(known)]
            yield Beside(task, EDGES[method], THEORIES[theory], own, pooled(own))


def _degrees_of_freedom(nodes: Sequence[Record]) -> Iterator[tuple[str, float]]:
    """Per kept node, averaged over layers, by the key of the dense network."""
    theory = next(name for name, shown in THEORIES.items() if "N(λ)" in shown)
    for record in nodes:
        values = [each.predicted for each in record.predictions or [] if each.theory == theory]
        known = [value for value in values if value is not None]
        if known:
            yield dense_key(record.config), sum(known) / len(known)


def tabulate(found: Sequence[Beside]) -> pd.DataFrame:
    """One row per task, method and theory."""
    import pandas as pd

    rows = []
    for each in found:
        drops = [point.measured for point in each.own]
        rows.append(
            {
                "task": each.task,
                "method": each.method,
                "theory": each.theory,
                "spearman": each.correlation.value,
                "low": each.correlation.low,
                "high": each.correlation.high,
                "n": len(each.own),
                "smallest drop": min(drops, default=None),
                "largest drop": max(drops, default=None),
            }
        )
    return pd.DataFrame(rows)


def claims(found: Sequence[Beside]) -> list[Claim]:
    """One per task and theory: both methods' intervals above zero, or both below; else undecided."""
    stated = []
    for task in dict.fromkeys(each.task for each in found):
        for theory in dict.fromkeys(each.theory for each in found):
            own = [each for each in found if (each.task, each.theory) == (task, theory)]
            ends = [(each.correlation.low, each.correlation.high) for each in own]
            known = [(low, high) for low, high in ends if low is not None and high is not None]
            above = len(known) == len(own) and all(low > 0 for low, _ in known)
            below = len(known) == len(own) and all(high < 0 for _, high in known)
            stated.append(
                Claim(
                    f"{task}: a larger value of the {theory} goes with a larger drop",
                    True if above else False if below else None,
                    "; ".join(f"{each.method}: {each.correlation.text()}, n = {len(each.own)}" for each in own),
                )
            )
    return stated


def _points(found: Sequence[Beside]) -> pd.DataFrame:
    """One row per network, edge method and theory."""
    import pandas as pd

    return pd.DataFrame(
        {"task": each.task, "method": each.method, "theory": each.theory, "predicted": point.predicted, "drop": drop}
        for each in found
        for point in each.own
        for drop in [100 * point.measured]
    )


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """For each task a sheet: the drop of accuracy against each theory's number, a point per network."""
    points_ = outcome.numbers_of("points")
    ranks = outcome.table.set_index(["task", "theory", "method"])["spearman"]
    sheets = {}
    for number, task in enumerate(points_["task"].unique()):
        theories = list(points_[points_["task"] == task]["theory"].unique())
        means = ranks[task].groupby("theory").mean()  # a wrong sign is no knowledge
        best = means.idxmax()
        sheet = Sheet(
            f"{task}: which theory foretells, before pruning, how much accuracy a network loses? Best: {best} "
            f"(mean rho {means[best]:.2f})",
            rows=math.ceil(len(theories) / 2),
            columns=2,
            height=2.2,
            share_y="all",
            note=f"A point per network of the same structure, edges pruned to 1/{COMPRESSION} of the parameters; rho: "
            "Spearman's rank correlation.",
            key=[Sign(f"edges by {name}", nth(place), line=False) for place, name in enumerate(EDGES.values())],
        )
        for place, theory in enumerate(theories):
            panel = sheet.panel(place // 2, place % 2)
            for style, method in enumerate(EDGES.values()):
                each = (points_["task"] == task) & (points_["theory"] == theory) & (points_["method"] == method)
                own = points_[each]
                rho = ranks[task, theory, method]
                panel.points(
                    own["predicted"], own["drop"], nth(style), f"rho {rho:.2f}" if rho == rho else "", size=4.5
                )
            panel.label(theory, "drop of accuracy, points")
            if (points_[(points_["task"] == task) & (points_["theory"] == theory)]["predicted"] > 0).all():
                panel.log("x")
        if len(theories) % 2:
            sheet.words(len(theories) // 2, 1, "")
        sheets["compressibility" if not number else f"compressibility_{number + 1}"] = sheet
    return sheets
