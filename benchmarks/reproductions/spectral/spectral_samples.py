"""How many calibration samples spectral pruning needs, and which ridge goes with few of them.

The papers build their covariances from the whole training set. Here the samples shrink to fewer than the kept nodes,
where the covariance has no full rank any more. Our extension; no numbers are published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Claim, Outcome, Workplace
from benchmarks.reproductions.spectral._spectral import (
    DIGITS,
    MNIST,
    QUICK,
    compared,
    dense_accuracies,
    larger,
    plot,
    summary,
    sweep,
)

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.boards.stats import Comparison

PAPER = "Suzuki et al., IJCAI 2020 (arXiv 1808.08558), section 2; the sweep is ours"
COLUMNS = {"samples": "calibration.samples", "lambda": "selection.lam"}
WITHIN = ("network", "keep", "seed", "samples")


def run(work: Workplace) -> Outcome:
    """The sweep on digits (5 seeds) and MNIST (3 seeds), keeping 20 % of the nodes."""
    grids = [
        [*DIGITS, "calibration.samples=20,30,50,100,300,1000", "selection.lam=1e-8,1e-6,1e-4,1e-3"],
        [*MNIST, "calibration.samples=20,50,100,300,1000,10000", "selection.lam=1e-8,1e-6,1e-4,1e-3"],
    ]
    if work.quick:
        grids = [[*QUICK, "calibration.samples=30,300", "selection.lam=1e-6,1e-3"]]
    table = sweep(work, [[*grid, "budget.keep=0.2"] for grid in grids], COLUMNS)
    few, many = table[table["samples"] <= 50], table[table["samples"] >= 300]
    claims: list[Claim] = [
        larger("with 50 samples or fewer 1e-3 of the trace beats 1e-6", compared(few, "lambda", 1e-3, 1e-6, WITHIN)),
        larger("with 300 samples or more 1e-6 beats 1e-3", compared(many, "lambda", 1e-6, 1e-3, WITHIN)),
        larger("1000 samples beat 100 (at lambda 1e-6)", _more(table, 1000, 100)),
    ]
    setting = (
        f"{dense_accuracies(table)} Keep 20 % (30, 60, 30 nodes on digits; 60 and 20 on MNIST), theta = 0.5, no "
        "fine-tuning. Calibration samples are drawn per seed from the training split."
    )
    return Outcome(summary(table, ["samples", "lambda"]), claims, setting)


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """Test error against the number of calibration samples, a line per ridge."""
    table = outcome.table
    error = 100 * (1 - table.groupby(["samples", "lambda"])["accuracy"].mean())
    few, many = int(table["samples"].min()), int(table["samples"].max())
    title = (
        f"With {few} calibration samples mean errors are {error[few].min():.0f} to {error[few].max():.0f} %, depending "
        f"on the ridge; with {many:,} they are {error[many].min():.1f} to {error[many].max():.1f} %"
    )
    return {
        "spectral_samples": plot(
            outcome, "samples", "lambda", title, "calibration samples", {1000.0: "1k", 10000.0: "10k"}
        )
    }


def _more(table: pd.DataFrame, more: int, fewer: int) -> Comparison:
    return compared(table[table["lambda"] == 1e-6], "samples", more, fewer)
