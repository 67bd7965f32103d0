"""The two terms of spectral pruning's generalisation bound against lambda, and the test error against the width.

The theorem bounds the error of a compressed network by its training error, a bias that grows with lambda, and a
variance that grows with the widths N_l(lambda). Without its constants: bias = sum_l sqrt(lambda_l), variance =
sqrt(sum_l m_l m_(l+1) log(n) / n), for three sizes of the training set. What follows is reported; the paper asserts no
numbers, and a curve of test errors need not have the bound's shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks.boards.stats import spread
from benchmarks.figures.panel import nth
from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Claim, Outcome, Workplace
from methods.spectral.selection import bias_variance, degrees_of_freedom

if TYPE_CHECKING:
    import pandas as pd

PAPER = "Suzuki et al., IJCAI 2020 (arXiv 1808.08558), the generalisation bound of section 4; no numbers published"
SIZES: tuple[int, ...] = (500, 2000, 10000)
KEEPS: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
LAMBDAS = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 1))
OWN = "compensation=as_published"
HELD_OUT = 0.1  # of the training images, for validation
WORDS = ("dataset=mnist", "model=lenet300", "trainer.train.epochs=20", "trainer.finetune.epochs=0", "track=none")


@dataclass(frozen=True)
class Terms:
    """The bound at one lambda: both terms and the mean share of the nodes that N_l(lambda) is."""

    bias: float
    variance: float
    share: float


def run(work: Workplace) -> Outcome:
    """Three training sizes; three networks each for the errors, the first of them for the bound."""
    sizes, keeps, seeds, words = SIZES, KEEPS, "seed=0,1,2", [*WORDS]
    if work.quick:
        sizes, keeps, seeds = (200, 600), (0.1, 0.5), "seed=0"
        words += ["dataset.limit_test=500", "trainer.train.epochs=2"]
    bounds = {size: _bound(work, [*words, _limit(size), "seed=0"], size) for size in sizes}
    rows: list[dict[str, Any]] = []
    for size in sizes:
        grid = f"budget.keep={','.join(map(str, keeps))}"
        for record in work.cells([*words, "measure=none", "method=spectral", OWN, _limit(size), grid, seeds]):
            keep = next(iter(record.budget.requested.values()))
            metrics = record.metrics.pruned
            error = 1 - metrics.accuracy if metrics and metrics.accuracy is not None else None
            rows.append({"n": size, "keep": keep, "seed": record.seed, "error": error})
    table = _table(bounds, rows)
    setting = (
        "LeNet-300-100 on MNIST, 20 epochs, no fine-tuning, the training images as calibration samples up to 1000. The "
        "bound leaves out all constants, so only its shape and the direction in which its minimum moves mean anything; "
        "its widths are N_l(lambda) rounded up, without the factor 5 log(80 N), which would exceed the layers."
    )
    return Outcome(table, _claims(bounds, rows), setting, numbers={"bound": _terms(bounds)})


def _limit(size: int) -> str:
    return f"dataset.limit={round(size / (1 - HELD_OUT))}"


def _bound(work: Workplace, words: Sequence[str], size: int) -> dict[float, Terms]:
    from benchmarks.cells.preparation import calibrate, trained_network
    from benchmarks.data.splits import load
    from benchmarks.reproductions.spectra import node_layers
    from benchmarks.storage.paths import Paths

    config = work.config(words)
    data = load(config["dataset"], config["seed"], work.cache)
    model = trained_network(config, data, Paths.of(config["paths"])).model
    layers = node_layers(model, calibrate(data, config["calibration"], config["seed"]))
    traces = [layer.covariance.trace().item() for layer in layers]
    found = {}
    for lam in LAMBDAS:
        lams = [lam * trace for trace in traces]
        degrees = [float(degrees_of_freedom(layer.covariance, own)) for layer, own in zip(layers, lams, strict=True)]
        widths = [math.prod(data.shape), *(math.ceil(each) for each in degrees), data.classes]
        bias, variance = bias_variance(lams, widths, size)
        share = fmean(each / layer.size for each, layer in zip(degrees, layers, strict=True))
        found[lam] = Terms(bias, variance, share)
    return found


def _best(bound: dict[float, Terms]) -> float:
    return min(bound, key=lambda lam: bound[lam].bias + bound[lam].variance)


def _errors(rows: Sequence[dict[str, Any]], size: int) -> dict[float, list[float]]:
    own = [row for row in rows if row["n"] == size and row["error"] is not None]
    return {keep: [row["error"] for row in own if row["keep"] == keep] for keep in sorted({row["keep"] for row in own})}


def _table(bounds: dict[int, dict[float, Terms]], rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    lines = []
    for size, bound in bounds.items():
        for lam, terms in bound.items():
            what = f"bound at lambda {lam:.3g} Tr, N / m = {terms.share:.3f}"
            lines.append({"n_train": size, "what": what, "ours": terms.bias + terms.variance, "std": None, "n": 1})
        for keep, errors in _errors(rows, size).items():
            found = spread(errors)
            what = f"test error, keep {keep:g}"
            lines.append({"n_train": size, "what": what, "ours": found.mean, "std": found.std, "n": found.n})
    return pd.DataFrame(lines)


def _claims(bounds: dict[int, dict[float, Terms]], rows: Sequence[dict[str, Any]]) -> list[Claim]:
    best = {size: _best(bound) for size, bound in bounds.items()}
    inner = all(min(LAMBDAS) < lam < max(LAMBDAS) for lam in best.values())
    shares = [bounds[size][lam].share for size, lam in best.items()]
    grows = all(a <= b for a, b in pairwise(shares)) and shares[-1] > shares[0]
    where = ", ".join(
        f"n = {size}: lambda {lam:.2g} Tr, N / m = {bounds[size][lam].share:.3f}" for size, lam in best.items()
    )
    means = {size: {keep: fmean(errors) for keep, errors in _errors(rows, size).items()} for size in bounds}
    least = {size: min(own, key=own.__getitem__) for size, own in means.items()}
    turned = any(least[size] < max(means[size]) for size in least)
    smallest = ", ".join(f"n = {size}: keep {keep:g}, error {means[size][keep]:.4f}" for size, keep in least.items())
    return [
        Claim("the sum of bias and variance has its minimum inside the range of lambda", inner, where),
        Claim("the more training samples, the wider the network at that minimum", grows, where),
        Claim("some pruned network has a smaller mean test error than the dense one (a U shape)", turned, smallest),
    ]


def _terms(bounds: dict[int, dict[float, Terms]]) -> pd.DataFrame:
    """One row per size of the training set and lambda."""
    import pandas as pd

    return pd.DataFrame(
        {"n_train": size, "lambda": lam} | asdict(terms)
        for size, bound in bounds.items()
        for lam, terms in bound.items()
    )


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """The bound and its terms, the widths that belong to lambda, and measured errors."""
    bound, table = outcome.numbers_of("bound"), outcome.table
    bound["sum"] = bound["bias"] + bound["variance"]
    measured = table[table["what"].str.startswith("test error")]
    measured = measured.assign(keep=measured["what"].str.rpartition(" ")[2].astype(float))
    best = bound.loc[bound.groupby("n_train")["sum"].idxmin()]
    sizes = sorted(bound["n_train"].unique())
    widths = ", ".join(f"{100 * share:.0f}" for share in best["share"])
    sheet = Sheet(
        f"The bound is least with {widths} % of the nodes (for {' / '.join(f'{size:,}' for size in sizes)} "
        f"training images), the measured error is least {_where(measured)}",
        rows=2,
        columns=2,
        height=2.7,
        note="LeNet-300-100 on MNIST, no fine-tuning. Bound: one network per size, without constants; marks are its "
        f"minima. Errors: means over {measured['n'].max():g} networks, bars: sample standard deviation.",
    )
    total = sheet.panel(0, 0, "the bound: bias + variance")
    parts = sheet.panel(0, 1, f"its terms, n = {sizes[-1]:,}")
    width = sheet.panel(1, 0, "how wide the network is at lambda")
    errors = sheet.panel(1, 1, "measured")
    for number, size in enumerate(sizes):
        own, least = bound[bound["n_train"] == size], best[best["n_train"] == size]
        style, name = nth(number), f"n = {size:,}"
        for panel, column in ((total, "sum"), (width, "share")):
            factor = 100 if column == "share" else 1
            panel.line(own["lambda"], factor * own[column], style, name, marker=False)
            panel.points(least["lambda"], factor * least[column], style, size=7)
        each = measured[measured["n_train"] == size]
        errors.line(100 * each["keep"], 100 * each["ours"], style, name, 100 * each["std"].fillna(0))
    own = bound[bound["n_train"] == sizes[-1]]
    for number, column in enumerate(("bias", "variance")):
        parts.line(own["lambda"], own[column], nth(3 + number), column, marker=False)
    total.label("lambda / trace", "bias + variance (no constants)")
    parts.label("lambda / trace", "term of the bound (no constants)")
    width.label("lambda / trace", "N(lambda) / nodes, %", (0, 100))
    errors.label("nodes kept, %", "test error, %", (0, 100))
    for panel in (total, parts, width, errors):
        panel.log("x", falling=panel is errors)
        panel.log("y")
    errors.ticks("x", [2, 5, 10, 20, 50, 100])
    return {"spectral_bias_variance": sheet}


def _where(measured: pd.DataFrame) -> str:
    least = {float(own.sort_values("ours")["keep"].iloc[0]) for _, own in measured.groupby("n_train")}
    return "with all of them" if least == {1.0} else f"with {', '.join(f'{100 * keep:g} %' for keep in sorted(least))}"
