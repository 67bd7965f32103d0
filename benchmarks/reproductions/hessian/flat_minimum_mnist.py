"""Neurons pruned towards flat minima while training (a reconstruction): flatter and more accurate than without?

LeNet-300-100 on MNIST is trained from scratch and loses most of its neurons on the way: with the penalty on the
spectral radius (mu > 0, under K-FAC or exact), with curvature but without the penalty (mu = 0), and by the norm of the
neurons' weights, at equal live neurons. What is called flat is the spectral radius of the true Hessian of the loss over
fixed training samples. Only the abstract of the paper was at hand: this says nothing about its own implementation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.boards.stats import paired_t, spread
from benchmarks.figures.looks import Look, look
from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Claim, Outcome, Workplace
from methods.curvature.flatness import hessian_radius
from methods.errors import Collapsed
from methods.hessian.flat_minimum import FlatMinimum
from methods.progress import track

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.data.splits import Data

PAPER = "Ebrahimi & Klabjan, arXiv 2111.08577 (IJCNN 2023), abstract; penalty after Sandler, Klabjan & Luo, 2102.11210"
CONTROLS: Mapping[str, Sequence[str]] = {
    "magnitude": ("schedule.score=magnitude", "schedule.mu=0", "schedule.update=false"),
    "mu = 0": ("schedule.mu=0",),
}
PENALISED: Mapping[str, Sequence[str]] = {
    "mu = 0.01, K-FAC": ("schedule.mu=0.01",),
    "mu = 0.03, K-FAC": ("schedule.mu=0.03",),
    "mu = 0.1, K-FAC": ("schedule.mu=0.1",),
    "mu = 0.01, Hessian": ("schedule.mu=0.01", "schedule.radius=hessian"),
}
KEEP = 0.1
SAMPLES = 500
WITHIN = 0.2  # points of accuracy: "as accurate as"


class Watched(FlatMinimum):
    """The schedule, which measures the true spectral radius just before the first and just after the last removal."""

    sample: tuple[Tensor, Tensor] | None = None

    def begin(self, *args: Any, **kwargs: Any) -> None:
        """As the schedule's; nothing has been measured yet."""
        self.before = self.after = math.nan
        super().begin(*args, **kwargs)

    def on_epoch(self, model: nn.Module, optimizer: Optimizer, epoch: int) -> bool:
        """As the schedule's, with the radius before and after."""
        if self.sample is not None and epoch == min(self.times):
            self.before = radius_of(model, self.sample)
        changed = super().on_epoch(model, optimizer, epoch)
        if self.sample is not None and epoch == max(self.times):
            self.after = radius_of(model, self.sample)
        return changed


def radius_of(model: nn.Module, sample: tuple[Tensor, Tensor]) -> float:
    """Largest |eigenvalue| of the Hessian of the mean loss over the sample."""
    return hessian_radius(model, *sample, tolerance=1e-2)[0].value


def run(work: Workplace) -> Outcome:
    """Seven trainings with three seeds on a part of MNIST; about ten minutes on one core."""
    words = ["dataset=mnist", "model=lenet300", "dataset.limit=10000", "trainer.train.epochs=12"]
    if work.quick:
        words = ["dataset=digits", "model=mlp_digits", "trainer.train.epochs=3"]
    words += ["method=flat_minimum", f"budget.keep={KEEP}", "schedule.every=2", "track=none"]
    variants = {**CONTROLS, **PENALISED}
    if work.quick:
        variants = {name: variants[name] for name in ("magnitude", "mu = 0", "mu = 0.1, K-FAC")}
    plan = [(seed, name) for seed in range(2 if work.quick else 3) for name in ("unpruned", *variants)]
    rows = []
    for seed, name in track(plan, "trainings"):
        row: dict[str, Any] = {"method": name, "seed": seed}
        try:
            row |= _train(work, [*words, *variants.get(name, ())], name, seed)
        except Collapsed:
            row |= dict.fromkeys(("accuracy", "validation", "radius"), math.nan)
        rows.append(row)
    return finish(rows, work)


def _train(work: Workplace, words: Sequence[str], name: str, seed: int) -> dict[str, Any]:
    """One training: accuracies in % and radii of what came out."""
    from benchmarks.cells.during_training import train_and_prune
    from benchmarks.cells.parts import build
    from benchmarks.data.splits import load
    from benchmarks.models import build as build_model
    from benchmarks.training.scoring import accuracy_of
    from benchmarks.training.trainer import TrainerSettings, fit
    from methods.budgets.budget import Budget

    config = work.config([*words, f"seed={seed}"])
    data: Data = load(config["dataset"], seed, work.cache)
    sample = data.train.to_inputs(slice(0, SAMPLES)), data.train.targets[:SAMPLES]
    row: dict[str, Any] = {}
    if name == "unpruned":
        model = build_model(config["model"], data.shape, data.classes, seed)
        fit(model, data, TrainerSettings.from_config(config["trainer"]["train"], "trainer.train"), seed, label=name)
    else:
        target = f"{Watched.__module__}.{Watched.__qualname__}"
        schedule = build(config["schedule"] | {"_target_": target}, "schedule")
        schedule.sample = sample
        folder = work.cache / "flat_minimum_mnist" / f"{seed}-{name}"
        model = train_and_prune(schedule, config, data, Budget("keep", KEEP), folder)[0].model
        row = {"before": schedule.before, "after": schedule.after, "live": sum(schedule.widths.values())}
    test, validation = (100 * accuracy_of(model, split) for split in (data.test, data.validation))
    return row | {"accuracy": test, "validation": validation, "radius": radius_of(model, sample)}


def finish(rows: Sequence[Mapping[str, Any]], work: Workplace) -> Outcome:
    """The outcome of these rows."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    summary = []
    for method, part in frame.groupby("method", sort=False):
        accuracy, radius = (spread(part[name].dropna().tolist()) for name in ("accuracy", "radius"))
        summary.append(
            {
                "method": method,
                "live neurons": part["live"].mean(),
                "accuracy": accuracy.mean,
                "std (accuracy)": accuracy.std,
                "validation accuracy": part["validation"].mean(),
                "radius before pruning": part["before"].mean(),
                "radius after pruning": part["after"].mean(),
                "radius at the end": radius.mean,
                "std (radius)": radius.std,
                "n": accuracy.n,
            }
        )
    best = _best(frame)
    setting = (
        f"{'Tiny version on digits. ' if work.quick else ''}A reconstruction from the abstract; mu, K = 0, schedule "
        f"and the network are ours. {'3 epochs.' if work.quick else '9,000 training images, 12 epochs.'} Dense "
        f"trainer settings otherwise, {100 * KEEP:g} % of the neurons live at the end, ranked over both hidden layers; "
        "penalty and factors at every second step. Radii: true Hessian of the mean loss over "
        f"{SAMPLES} training images by all live parameters, just before the first removal, just after the last one, "
        "and of the final network. Flatness is compared only within this set-up, since rescaling a ReLU network "
        f"changes it. The mu of the claims has the best validation accuracy among those tried: {best}."
    )
    return Outcome(pd.DataFrame(summary), _claims(frame, best), setting)


def _best(frame: pd.DataFrame) -> str:
    own = frame[frame["method"].isin(list(PENALISED))]
    return str(own.groupby("method")["validation"].mean().idxmax(skipna=True))


def _claims(frame: pd.DataFrame, best: str) -> list[Claim]:
    wide = frame.set_index(["method", "seed"])
    claims = []
    for other in CONTROLS:
        for quantity, sign, word in (("radius", -1, "flatter"), ("accuracy", 1, "more accurate")):
            found = paired_t((wide.loc[best][quantity] - wide.loc[other][quantity]).dropna().tolist())
            if found.difference is None:
                continue
            p = math.nan if found.p is None else found.p
            evidence = f"{quantity}: mean difference {found.difference:+.3g} over {found.n} seeds, p = {p:.2g}"
            seen = None if not p <= 0.05 else sign * found.difference > 0
            claims.append(Claim(f"{best} ends {word} than {other} at equal live neurons", seen, evidence))
    for name in (name for name in PENALISED if name in set(frame["method"])):
        found = paired_t((wide.loc[name]["radius"] - wide.loc["mu = 0"]["radius"]).dropna().tolist())
        if found.difference is None:
            claims.append(Claim(f"{name} lowers the radius", None, "every training collapsed"))
            continue
        p = math.nan if found.p is None else found.p
        evidence = f"mean difference {found.difference:+.3g} over {found.n} seeds, p = {p:.2g}"
        claims.append(Claim(f"{name} lowers the radius", None if not p <= 0.05 else found.difference < 0, evidence))
    means = frame.groupby("method")["accuracy"].mean()
    margin = float(means["mu = 0"] - means["magnitude"])
    text = f"neurons chosen by curvature (mu = 0) are as accurate as by magnitude, within {WITHIN:g} points"
    claims.append(Claim(text, margin >= -WITHIN, f"mean difference {margin:+.2f} points"))
    return claims


SHOWN = {
    "unpruned": ("not pruned", look("dense")),
    "magnitude": ("pruned by norm", look("magnitude")),
    "mu = 0": ("by curvature, no penalty", look("kron_obd")),
    "mu = 0.01, K-FAC": ("penalty 0.01", Look("#d84a4a", "triangle-down", (1, 0))),
    "mu = 0.03, K-FAC": ("penalty 0.03", Look("#d84a4a", "triangle-up", (1, 0))),
    "mu = 0.1, K-FAC": ("penalty 0.1", Look("#d84a4a", "diamond", (1, 0))),
    "mu = 0.01, Hessian": ("penalty 0.01 on\nthe true Hessian", Look("#d84a4a", "cross", (1, 0))),
}


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """Accuracy against the spectral radius, a point per way of training."""
    table = outcome.table.set_index("method")
    radius, accuracy = table["radius at the end"], table["accuracy"]
    name = min((name for name in PENALISED if name in radius.index), key=lambda each: float(radius[each]))
    sheet = Sheet(
        f"Spectral radius and accuracy: {radius['mu = 0']:.1f} and {accuracy['mu = 0']:.1f} % without the penalty; "
        f"where it makes the radius least, {radius[name]:.1f} and {accuracy[name]:.1f} %",
        height=3.1,
        note=f"Means over {table['n'].max():g} seeds, bars: sample standard deviation. All but the unpruned network "
        f"have {100 * KEEP:g} % of their neurons left. Our reconstruction from an abstract, not the paper's algorithm.",
    )
    panel = sheet.panel(title="LeNet-300-100 on MNIST, pruned while it trains")
    for method, (label, own) in SHOWN.items():
        if method in table.index:
            row = table.loc[[method]]
            panel.points(
                *(row["radius at the end"], row["accuracy"], own, label),
                std=row["std (accuracy)"].fillna(0),
                x_std=row["std (radius)"].fillna(0),
                size=7,
            )
    panel.log("x")
    panel.label(
        "spectral radius of the Hessian at the end of training (smaller is flatter)", "test accuracy, %", (0, 100)
    )
    return {"flat_minimum_mnist": sheet}
