"""Which part matters, the choice of the nodes or the repair: five selections, with and without least squares.

Spectral pruning consists of a selection and a reconstruction, and so do ThiNet and DIVNET. Here every selection is run
with either, on the same dense networks and with the same number of nodes in every layer, without and with fine-tuning.
The numbers are accuracies on the test split. No paper has this table; the expected order is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.boards.stats import paired_t, spread
from benchmarks.reproductions import Claim, Outcome, Workplace
from benchmarks.reproductions.figures import canvas, curve, save

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from benchmarks.records.record import Record

PAPER = "Suzuki et al., IJCAI 2020 (arXiv 1808.08558), section 5, taken apart; the grid itself is ours"
SELECTIONS = ("spectral", "thinet", "magnitude", "random", "dpp")
COMPENSATIONS = ("as_published", "none")
STAGES = {"pruned": "without fine-tuning", "tuned": "fine-tuned"}
CLOSE = 0.02  # "about equal": the difference of two mean accuracies over all settings


def run(work: Workplace) -> Outcome:
    """The grid on digits (5 seeds, four sizes) and MNIST (3 seeds, two sizes)."""
    common = [f"method={','.join(SELECTIONS)}", f"compensation={','.join(COMPENSATIONS)}", "measure=none", "track=none"]
    digits = ["dataset=digits", "model=mlp_digits", "budget.keep=0.3,0.2,0.1,0.05", "seed=0,1,2,3,4"]
    mnist = ["dataset=mnist", "model=lenet300", "budget.keep=0.2,0.1", "seed=0,1,2"]
    mnist += ["trainer.train.epochs=10", "trainer.finetune.epochs=1"]
    if work.quick:
        digits = ["dataset=digits", "model=mlp_digits", "budget.keep=0.1", "seed=0,1"]
        digits += ["trainer.train.epochs=5", "trainer.finetune.epochs=1"]
    records = work.cells([*digits, *common])
    if not work.quick:
        records += work.cells([*mnist, *common])
    table = tabulate(records)
    return Outcome(_summary(table), _claims(table), _setting(table, work.quick), _plot(table, work.folder))


def tabulate(records: Sequence[Record]) -> pd.DataFrame:
    """One row per cell and stage."""
    import pandas as pd

    rows = []
    for record in records:
        repair = "none" if record.config["compensation"]["_target_"].endswith(".Compensation") else "least squares"
        for stage in STAGES:
            metrics = getattr(record.metrics, stage)
            rows.append(
                {
                    "network": f"{record.dataset}/{record.model}",
                    "keep": next(iter(record.budget.requested.values())),
                    "selection": record.method,
                    "repair": repair,
                    "stage": stage,
                    "seed": record.seed,
                    "accuracy": metrics.accuracy if metrics else None,
                    "dense": record.metrics.dense.accuracy if record.metrics.dense else None,
                }
            )
    return pd.DataFrame(rows)


def _summary(table: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for (network, keep, selection, repair), part in table.groupby(
        ["network", "keep", "selection", "repair"], sort=False
    ):
        row = {"network": network, "keep": keep, "selection": selection, "repair": repair}
        for stage, name in STAGES.items():
            found = spread(part[part["stage"] == stage]["accuracy"].dropna().tolist())
            row |= {f"{name}": found.mean, f"std ({name})": found.std, "n": found.n}
        rows.append(row | {"dense": part["dense"].mean()})
    return pd.DataFrame(rows)


def _difference(table: pd.DataFrame, stage: str, first: tuple[str, str], second: tuple[str, str]) -> list[float]:
    """Paired differences in accuracy of two (selection, repair) over all networks, sizes and seeds."""
    part = table[table["stage"] == stage].set_index(["network", "keep", "seed"])

    def of(which: tuple[str, str]) -> pd.Series:
        return part[(part["selection"] == which[0]) & (part["repair"] == which[1])]["accuracy"]

    return (of(first) - of(second)).dropna().tolist()


def _compared(
    table: pd.DataFrame, text: str, first: tuple[str, str], second: tuple[str, str], stage: str = "pruned"
) -> Claim:
    result = paired_t(_difference(table, stage, first, second))
    if result.difference is None:
        return Claim(text, None, "no pairs")
    evidence = f"mean difference {result.difference:+.3f} over {result.n} pairs"
    evidence += "" if result.p is None else f", p = {result.p:.2g}"
    if result.p is None or result.p > 0.05:
        return Claim(text, None, evidence)
    return Claim(text, result.difference > 0, evidence)


def _claims(table: pd.DataFrame) -> list[Claim]:
    repair, none = "least squares", "none"
    pairs = {
        "without fine-tuning, spectral + repair is more accurate than ThiNet + repair": (
            ("spectral", repair),
            ("thinet", repair),
        ),
        "… ThiNet + repair than magnitude + repair": (("thinet", repair), ("magnitude", repair)),
        "… spectral + repair than random + repair": (("spectral", repair), ("random", repair)),
        "… spectral + repair than DPP + repair (DIVNET)": (("spectral", repair), ("dpp", repair)),
        "… random + repair than spectral without repair": (("random", repair), ("spectral", none)),
        "… random + repair than ThiNet without repair": (("random", repair), ("thinet", none)),
        "… spectral without repair than random without repair": (("spectral", none), ("random", none)),
    }
    claims = [_compared(table, text, *which) for text, which in pairs.items()]
    result = paired_t(_difference(table, "pruned", ("magnitude", repair), ("random", repair)))
    if result.difference is not None:
        claims.append(
            Claim(
                "… magnitude + repair and random + repair are about equal",
                abs(result.difference) <= CLOSE,
                f"mean difference {result.difference:+.3f} over {result.n} pairs (about equal: at most {CLOSE:g})",
            )
        )
    text = "after fine-tuning, spectral + repair is still more accurate than random + repair"
    claims.append(_compared(table, text, ("spectral", repair), ("random", repair), "tuned"))
    text = "after fine-tuning, the repair still helps spectral pruning"
    claims.append(_compared(table, text, ("spectral", repair), ("spectral", none), "tuned"))
    return claims


def _setting(table: pd.DataFrame, quick: bool) -> str:
    dense = table.groupby("network")["dense"].mean()
    networks = "; ".join(f"{name}: dense accuracy {value:.4f}" for name, value in dense.items())
    own = "tiny version" if quick else "digits: 5 seeds, 10 epochs of fine-tuning. MNIST: 3 seeds, one epoch"
    return (
        f"{networks}. {own}. 1000 calibration samples, uniform allocation, every method with its preset's options "
        "(DPP: RBF kernel on the partly pruned network, reweighting with the original targets). Magnitude and random "
        "have no repair of their own; with least squares they get the minimum-norm solution without a ridge. "
        "Claims compare all networks, sizes and seeds in pairs; undecided means p > 0.05."
    )


def _plot(table: pd.DataFrame, folder: Path) -> list[Path]:
    networks = list(table["network"].unique())
    figure, axes = canvas(2, len(networks))
    for line, network in enumerate(networks):
        for column, (stage, name) in enumerate(STAGES.items()):
            axis = axes[2 * line + column]
            part = table[(table["network"] == network) & (table["stage"] == stage)]
            for number, selection in enumerate(SELECTIONS):
                for repair in ("least squares", "none"):
                    own = part[(part["selection"] == selection) & (part["repair"] == repair)]
                    own = own.groupby("keep")["accuracy"].agg(["mean", "std"]).fillna(0)
                    label = selection if repair != "none" else f"{selection}, no repair"
                    drawn = curve(axis, own.index, own["mean"], own["std"], number, label)
                    drawn.set_linestyle(":" if repair == "none" else "-")
            axis.axhline(part["dense"].mean(), color="0.4", linewidth=0.8)
            axis.set_ylim(top=min(axis.get_ylim()[1], 1.01))
            axis.set(
                title=f"{network}, {name}", xlabel="share of the nodes kept in every layer", ylabel="test accuracy"
            )
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(SELECTIONS), fontsize="small")
    return save(figure, folder, "selection_x_compensation")
