"""Spectral pruning against theta, the share of the input information loss, without fine-tuning.

The paper's figure 1d: on a VGG-13 and CIFAR-10 a mix of input and output loss beats either alone, theta around 0.3 is
best at every compression rate, and at light compression theta hardly matters. No numbers are published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Claim, Outcome, Workplace
from benchmarks.reproductions.spectral._spectral import (
    DIGITS,
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

PAPER = "Suzuki et al., IJCAI 2020 (arXiv 1808.08558), figure 1d; no numbers published"
THETAS = "0,0.1,0.3,0.5,0.7,0.9,1"
VGG = (
    "dataset=cifar10",
    "dataset.limit=4000",
    "dataset.limit_test=1000",
    "model=vgg11",
    "model.width=0.25",
    "trainer.train.epochs=8",
    "trainer.train.learning_rate=0.05",
    "seed=0,1",
)


def run(work: Workplace) -> Outcome:
    """The sweep on digits with a perceptron (5 seeds) and on CIFAR-10 with a narrow VGG-11 (2 seeds)."""
    grids = [[*DIGITS, "budget.keep=0.5,0.3,0.2,0.1"], [*VGG, "budget.keep=0.7,0.5,0.3,0.2"]]
    thetas = THETAS
    if work.quick:
        thetas, grids = "0,0.3,1", [[*QUICK, "budget.keep=0.2"]]
    table = sweep(work, [[*grid, f"selection.theta={thetas}"] for grid in grids], {"theta": "selection.theta"})
    claims = [claim for network in table["network"].unique() for claim in _claims(table, network)]
    setting = (
        f"{dense_accuracies(table)} lambda = 1e-6 of the trace, 1000 calibration samples, uniform widths, "
        "simultaneous procedure, no fine-tuning. The VGG is a VGG-11 (the paper: 13) with a quarter of the channels "
        "that learned from 3,600 images of CIFAR-10 (JPEG-compressed copies where $SECATEURS_DATA holds those) in 8 "
        "epochs and is tested on 1,000: far less accurate than the paper's network."
    )
    return Outcome(summary(table, ["keep", "theta"]), claims, setting)


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """Test error against theta, a line per size."""
    means = outcome.table.groupby(["network", "keep", "theta"])["accuracy"].mean().unstack()
    inner = means.drop(columns=[0.0, 1.0])
    gain = 100 * (inner.max(axis=1) - means[[0.0, 1.0]].max(axis=1))
    title = (
        f"Mixing input and output loss: the best theta between 0 and 1 is {gain.min():+.1f} to {gain.max():+.1f} "
        "points more accurate than the better end"
    )
    x = "theta (0: output loss, 1: input loss)"
    return {"spectral_theta": plot(outcome, "theta", "keep", title, x, {}, share_y=False)}


def _claims(table: pd.DataFrame, network: str) -> list[Claim]:
    own = table[table["network"] == network]
    means = own.groupby(["keep", "theta"])["accuracy"].mean().unstack()
    best = means.idxmax(axis=1)
    inner = best.between(0.05, 0.95)
    evidence = ", ".join(f"keep {keep:g}: {theta:g}" for keep, theta in best.items())
    light = means.loc[means.index.max()]
    ends = [larger(f"{network}: theta = 0.3 beats theta = {end:g}", compared(own, "theta", 0.3, end)) for end in (0, 1)]
    decided = all(claim.seen is not None for claim in ends)
    seen = False if not inner.all() else True if decided else None  # the best of seven equals would be noise
    return [
        *ends,
        Claim(f"{network}: the best theta lies strictly between 0 and 1 at every size", seen, evidence),
        Claim(
            f"{network}: at the lightest pruning theta hardly matters (within 0.02)",
            bool(light.max() - light.min() <= 0.02),
            f"accuracies between {light.min():.4f} and {light.max():.4f} at keep {means.index.max():g}",
        ),
    ]
