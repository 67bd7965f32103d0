"""Spectra, degrees of freedom and compression error of a 300-1000-300 perceptron on MNIST and on CIFAR-10.

In figures 1a and 1b, eigenvalues of the third hidden layer decay much faster on MNIST than on CIFAR-10, and
with them the relative error ||f - f#|| / ||f|| when the third layer alone is compressed (lambda = 1e-6 of the trace,
theta = 0.5): about a hundred times smaller on MNIST.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING

from benchmarks.boards.stats import spread
from benchmarks.figures.panel import nth
from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Claim, Outcome, Workplace
from benchmarks.reproductions.spectra import FLOOR, LayerSpectrum, layer_spectra, visible

if TYPE_CHECKING:
    import pandas as pd

PAPER = "Suzuki et al., IJCAI 2020 (arXiv 1808.08558), figures 1a and 1b; no numbers published"
DATASETS = ("mnist", "cifar10")
LAST = "fc3"
NAMES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
WIDTHS: tuple[int, ...] = (1, 2, 3, 5, 8, 12, 20, 30, 45, 70, 100, 140, 200, 250, 290)
WORDS = ("model=nn3", "trainer=mnist", "trainer.train.epochs=10", "dataset.augment=null")


def run(work: Workplace) -> Outcome:
    """Three networks per data set; about a quarter of an hour on one core."""
    seeds, words, widths = range(3), [*WORDS, "calibration.samples=null"], WIDTHS
    if work.quick:
        seeds, widths = range(1), (5, 40)
        words = [*WORDS[:2], "trainer.train.epochs=1", "dataset.augment=null", "calibration.samples=300"]
        words += ["dataset.limit=1000", "dataset.limit_test=200", "model.widths=[60,80,60]"]
    found: dict[str, list[list[LayerSpectrum]]] = {name: [] for name in DATASETS}
    accuracy: dict[str, list[float]] = {name: [] for name in DATASETS}
    for name in DATASETS:
        for seed in seeds:
            layers, score = _network(work, [f"dataset={name}", *words, f"seed={seed}"], widths)
            found[name].append(layers)
            accuracy[name].append(score)
    setting = (
        "Dense test accuracy: "
        + ", ".join(f"{name} {fmean(values):.4f}" for name, values in accuracy.items())
        + f". {len(seeds)} networks per data set, trained 10 epochs on all images but those of the validation "
        "split; the same images are the calibration samples. Only the third hidden layer is compressed. CIFAR-10 "
        "without augmentation, JPEG-compressed copies where $SECATEURS_DATA holds those."
    )
    numbers = {"spectrum": _spectrum(found), "degrees": _degrees(found)}
    return Outcome(_table(found), _claims(found), setting, numbers=numbers)


def _network(work: Workplace, words: Sequence[str], widths: Sequence[int]) -> tuple[list[LayerSpectrum], float]:
    from benchmarks.cells.preparation import calibrate, trained_network
    from benchmarks.data.splits import load
    from benchmarks.storage.paths import Paths
    from benchmarks.training.scoring import accuracy_of

    config = work.config([*words, "track=none"])
    data = load(config["dataset"], config["seed"], work.cache)
    model = trained_network(config, data, Paths.of(config["paths"])).model
    calibration = calibrate(data, config["calibration"], config["seed"])
    return layer_spectra(model, calibration, widths={LAST: widths}), accuracy_of(model, data.test)


def _last(layers: Sequence[LayerSpectrum]) -> LayerSpectrum:
    return next(layer for layer in layers if layer.name == LAST)


def _errors(networks: Sequence[Sequence[LayerSpectrum]], width: int) -> list[float]:
    return [_last(layers).errors[width] for layers in networks]


def _ratios(found: dict[str, list[list[LayerSpectrum]]]) -> dict[int, float]:
    """CIFAR-10's mean error over MNIST's, by width."""
    widths = _last(found["mnist"][0]).errors
    return {width: fmean(_errors(found["cifar10"], width)) / fmean(_errors(found["mnist"], width)) for width in widths}


def _table(found: dict[str, list[list[LayerSpectrum]]]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for name, networks in found.items():
        for layer in range(len(networks[0])):
            own = [layers[layer] for layers in networks]
            for lam in (1e-6, 1e-4, 1e-2):
                near = min(own[0].degrees, key=lambda value: abs(math.log(value / lam)))
                values = spread(each.degrees[near] for each in own)
                what = f"N({lam:g} Tr), {own[0].name} of {own[0].size}"
                rows.append({"dataset": name, "what": what, "ours": values.mean, "std": values.std, "n": values.n})
        for width in _last(networks[0]).errors:
            values = spread(_errors(networks, width))
            what = f"relative error, {LAST} to {width}"
            rows.append({"dataset": name, "what": what, "ours": values.mean, "std": values.std, "n": values.n})
    return pd.DataFrame(rows)


def _claims(found: dict[str, list[list[LayerSpectrum]]]) -> list[Claim]:
    mean = {
        name: [fmean(values) for values in zip(*(_last(each).eigenvalues for each in networks), strict=True)]
        for name, networks in found.items()
    }
    places = [i for i in range(10, len(mean["mnist"])) if mean["cifar10"][i] > FLOOR]
    below = sum(mean["mnist"][i] < mean["cifar10"][i] for i in places) / max(1, len(places))
    degrees = {
        name: {lam: fmean(_last(each).degrees[lam] for each in networks) for lam in _last(networks[0]).degrees}
        for name, networks in found.items()
    }
    range_ = [lam for lam in degrees["mnist"] if 0.9e-6 <= lam <= 1.1e-1]
    fewer = sum(degrees["mnist"][lam] < degrees["cifar10"][lam] for lam in range_)
    ratios = _ratios(found)
    middle = median(ratios.values())
    evidence = ", ".join(f"{width}: {ratio:.3g}" for width, ratio in ratios.items())
    return [
        Claim(
            "the third layer's normalised spectrum lies lower on MNIST than on CIFAR-10 from the tenth eigenvalue on",
            below > 0.95,
            f"at {below:.0%} of the eigenvalues (means over networks)",
        ),
        Claim(
            "the third layer has fewer degrees of freedom on MNIST, for lambda from 1e-6 to 1e-1 of the trace",
            fewer == len(range_),
            f"at {fewer} of {len(range_)} values of lambda",
        ),
        Claim(
            "the relative error is smaller on MNIST at every width of the third layer",
            min(ratios.values()) > 1,
            f"CIFAR-10's error over MNIST's by width: {evidence}",
        ),
        Claim(
            "the relative error is one to two orders of magnitude smaller on MNIST",
            middle >= 10,
            f"median ratio {middle:.3g}",
        ),
    ]


def _spectrum(found: dict[str, list[list[LayerSpectrum]]]) -> pd.DataFrame:
    """Eigenvalues of the last hidden layer over the largest: mean and extremes over networks."""
    import pandas as pd

    return pd.DataFrame(
        {"dataset": name, "index": index, "mean": fmean(values), "low": min(values), "high": max(values)}
        for name, networks in found.items()
        for index, values in enumerate(zip(*(_last(each).eigenvalues for each in networks), strict=True), 1)
    )


def _degrees(found: dict[str, list[list[LayerSpectrum]]]) -> pd.DataFrame:
    """Degrees of freedom of the last hidden layer."""
    import pandas as pd

    rows = []
    for name, networks in found.items():
        for lam in _last(networks[0]).degrees:
            values = spread(_last(each).degrees[lam] for each in networks)
            rows.append({"dataset": name, "lambda": lam, "mean": values.mean, "std": values.std, "n": values.n})
    return pd.DataFrame(rows)


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """Spectrum, degrees of freedom, errors, and how much larger those are on CIFAR-10."""
    spectra, degrees, table = outcome.numbers_of("spectrum"), outcome.numbers_of("degrees"), outcome.table
    errors = table[table["what"].str.startswith("relative error")]
    errors = errors.assign(kept=errors["what"].str.rpartition(" ")[2].astype(int))
    wide = errors.pivot(index="kept", columns="dataset", values="ours")
    ratio = wide["cifar10"] / wide["mnist"]
    sheet = Sheet(
        f"With only the third layer compressed, the error on CIFAR-10 is {ratio.min():.1f} to {ratio.max():.1f} times "
        "that on MNIST (the paper: about 100 times)",
        rows=2,
        columns=2,
        height=2.7,
        note=f"Perceptron 300-1000-300; means over {errors['n'].max():g} networks per data set, bars: sample standard "
        "deviation, shaded: from the least to the largest. Only the third hidden layer is compressed.",
    )
    spectrum, freedom = sheet.panel(0, 0, "spectrum of the third layer"), sheet.panel(0, 1, "degrees of freedom")
    error, times = sheet.panel(1, 0, "only this layer compressed"), sheet.panel(1, 1, "CIFAR-10 against MNIST")
    for number, (name, said) in enumerate(NAMES.items()):
        style = nth(number)
        own = spectra[spectra["dataset"] == name]
        spectrum.line(own["index"], visible(own["mean"].tolist()), style, said, marker=False)
        low, high = (visible(own[column].tolist()) for column in ("low", "high"))
        spectrum.axes.fill_between(own["index"], low, high, alpha=0.2, color=style.colour, linewidth=0)
        part = degrees[degrees["dataset"] == name]
        freedom.line(part["lambda"], part["mean"], style, said, part["std"].fillna(0))
        each = errors[errors["dataset"] == name]
        error.line(each["kept"], each["ours"], style, said, each["std"].fillna(0))
    times.line(ratio.index, ratio, nth(2))
    times.level(1, "equal errors", below=True)
    times.level(100, "the paper: about 100")
    spectrum.label("index of the eigenvalue", "eigenvalue / largest")
    freedom.label("lambda / trace", "degrees of freedom N(lambda)", (0, math.inf))
    error.label("nodes kept of 300", "relative error of the outputs", (0, math.inf))
    times.label("nodes kept of 300", "CIFAR-10's error / MNIST's")
    freedom.log("x")
    for panel in (spectrum, error, times):
        panel.log("y")
    return {"spectral_nn3": sheet}
