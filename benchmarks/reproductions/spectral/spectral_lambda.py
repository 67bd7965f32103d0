"""Spectral pruning against its ridge lambda, relative to the trace of the covariance, without fine-tuning.

The paper's figure 1c sweeps lambda for a VGG-13 on CIFAR-10 and tunes the widths for every lambda; here the widths
stay, so that only the selection and the reconstruction depend on lambda. No numbers are published.
"""

from __future__ import annotations

from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Outcome, Workplace
from benchmarks.reproductions.spectral._spectral import (
    DIGITS,
    MNIST,
    QUICK,
    compared,
    dense_accuracies,
    equal,
    larger,
    plot,
    summary,
    sweep,
)

PAPER = "Suzuki et al., IJCAI 2020 (arXiv 1808.08558), figure 1c (design); no numbers published"
LAMBDAS = (0.0, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SMALL = 1e-4  # ridges up to this are said to change nothing
FLAT = 0.01  # accuracies this close are a plateau


def run(work: Workplace) -> Outcome:
    """The sweep on digits (5 seeds) and MNIST (3 seeds)."""
    lambdas = ",".join(f"{lam:g}" for lam in LAMBDAS)
    grids = [[*DIGITS, "budget.keep=0.3,0.2,0.1"], [*MNIST, "budget.keep=0.2,0.1"]]
    if work.quick:
        lambdas, grids = "1e-6,1e-4,1e-2,1", [[*QUICK, "budget.keep=0.2"]]
    table = sweep(work, [[*grid, f"selection.lam={lambdas}"] for grid in grids], {"lambda": "selection.lam"})
    claims = [
        equal("1e-4 and 1e-6 of the trace give the same accuracy", compared(table, "lambda", 1e-4, 1e-6), FLAT),
        larger("1e-2 of the trace costs accuracy", compared(table, "lambda", 1e-6, 1e-2)),
        larger("a lambda as large as the trace destroys the network", compared(table, "lambda", 1e-6, 1.0), 0.5),
    ]
    if 0.0 in table["lambda"].unique():
        found = compared(table, "lambda", 1e-6, 0.0)
        claims.insert(0, equal("1e-6 of the trace and no ridge at all give the same accuracy", found, FLAT))
    setting = (
        f"{dense_accuracies(table)} theta = 0.5, 1000 calibration samples, uniform widths that do not depend on "
        f"lambda, no fine-tuning. 'The same' means within {FLAT:g} on average over networks, sizes and seeds."
    )
    return Outcome(summary(table, ["keep", "lambda"]), claims, setting)


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """Test error against the ridge, a line per size."""
    error = 100 * (1 - outcome.table.groupby("lambda")["accuracy"].mean())
    small = error[error.index <= SMALL]
    title = (
        f"Ridges up to {SMALL:g} of the trace: mean errors of {small.min():.1f} to {small.max():.1f} %; "
        f"a ridge of {error.index.max():g} times the trace: {error.iloc[-1]:.0f} %"
    )
    ticks = {10.0**power: rf"$10^{{{power}}}$" for power in range(-8, 1)} | {
        0.0: "0",
        1e-8: "",
        1e-5: "",
        1e-3: "",
        1e-1: "",
    }
    return {"spectral_lambda": plot(outcome, "lambda", "keep", title, "ridge lambda / trace of the covariance", ticks)}
