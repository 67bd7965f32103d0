"""What the sweeps over one option of spectral pruning have in common: cells, a table, a figure, paired comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.boards.stats import Comparison, paired_t, spread
from benchmarks.reproductions import Claim, Workplace
from benchmarks.reproductions.figures import canvas, curve, save

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from benchmarks.records.record import Record

COMMON = ("method=spectral", "compensation=as_published", "trainer.finetune.epochs=0", "measure=none", "track=none")
DIGITS = ("dataset=digits", "model=mlp_digits", "seed=0,1,2,3,4")
MNIST = ("dataset=mnist", "model=lenet300", "trainer.train.epochs=10", "seed=0,1,2")
FOUR_COLUMNS = 36  # characters of a legend that fit below a panel side by side
QUICK = ("dataset=digits", "model=mlp_digits", "trainer.train.epochs=5", "seed=0,1")


def sweep(work: Workplace, grids: Sequence[Sequence[str]], columns: Mapping[str, str]) -> pd.DataFrame:
    """Test accuracy without fine-tuning of every cell of the grids, one row each.

    Args:
        work: where the cells run.
        grids: words of the command line beyond those common to all.
        columns: for each column of the table the dotted place of its value in the configuration.
    """
    import pandas as pd

    records = [record for words in grids for record in work.cells([*words, *COMMON])]
    return pd.DataFrame([_row(record, columns) for record in records])


def _row(record: Record, columns: Mapping[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "network": f"{record.dataset}/{record.model}",
        "keep": next(iter(record.budget.requested.values())),
        "seed": record.seed,
    }
    for name, place in columns.items():
        value: Any = record.config
        for part in place.split("."):
            value = value[part]
        row[name] = float(value)
    pruned, dense = record.metrics.pruned, record.metrics.dense
    return row | {"accuracy": pruned.accuracy if pruned else None, "dense": dense.accuracy if dense else None}


def summary(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean and sample deviation over the seeds."""
    import pandas as pd

    rows = []
    for place, part in table.groupby(["network", *by], sort=False):
        found = spread(part["accuracy"].dropna().tolist())
        row = dict(zip(["network", *by], place, strict=True))
        rows.append(row | {"accuracy": found.mean, "std": found.std, "n": found.n, "dense": part["dense"].mean()})
    return pd.DataFrame(rows)


def compared(
    table: pd.DataFrame, column: str, first: float, second: float, within: Sequence[str] = ("network", "keep", "seed")
) -> Comparison:
    """Accuracy at ``column`` = first minus that at second, paired within everything else."""
    part = table.set_index(list(within))
    values = [part[part[column] == value]["accuracy"] for value in (first, second)]
    return paired_t((values[0] - values[1]).dropna().tolist())


def larger(text: str, found: Comparison, least: float = 0.0) -> Claim:
    """The claim that the first setting is more accurate than the second, by ``least`` or more on average."""
    if found.difference is None:
        return Claim(text, None, "no pairs")
    p = "" if found.p is None else f", p = {found.p:.2g}"
    evidence = f"mean difference {found.difference:+.4f} over {found.n} pairs{p}"
    if found.p is None or found.p > 0.05:
        return Claim(text, None, evidence)
    return Claim(text, found.difference > least, evidence)


def equal(text: str, found: Comparison, most: float) -> Claim:
    """The claim that two settings give the same accuracy, within ``most``."""
    if found.difference is None:
        return Claim(text, None, "no pairs")
    return Claim(text, abs(found.difference) <= most, f"mean difference {found.difference:+.4f} over {found.n} pairs")


def plot(
    table: pd.DataFrame, x: str, by: str, folder: Path, name: str, label: str, scale: str = "linear"
) -> list[Path]:
    """Accuracy against ``x``, one panel per network, one line per value of ``by``."""
    networks = list(table["network"].unique())
    figure, axes = canvas(len(networks), width=5.2)
    for axis, network in zip(axes, networks, strict=True):
        own = table[table["network"] == network]
        for number, value in enumerate(sorted(own[by].unique(), reverse=True)):
            part = own[own[by] == value].groupby(x)["accuracy"].agg(["mean", "std"]).fillna(0)
            curve(axis, part.index, part["mean"], part["std"], number, f"{by} {value:g}")
        axis.axhline(own["dense"].mean(), color="0.4", linewidth=0.8)
        if scale == "symlog":
            positive = min(value for value in own[x] if value > 0)
            axis.set_xscale("symlog", linthresh=positive)
            axis.set_xlim(left=-positive / 4)
        elif scale == "log":
            axis.set_xscale("log")
            places = sorted(own[x].unique())
            axis.set_xticks(places, [f"{place:g}" for place in places], fontsize="small")
            axis.minorticks_off()
        axis.set(title=network, xlabel=label, ylabel="test accuracy, no fine-tuning")
        columns = 4 if sum(map(len, axis.get_legend_handles_labels()[1])) <= FOUR_COLUMNS else 2
        axis.legend(fontsize="small", ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.17), frameon=False)
    return save(figure, folder, name)


def dense_accuracies(table: pd.DataFrame) -> str:
    """The networks of a table and how accurate they are unpruned, as a sentence."""
    means = table.groupby("network", sort=False)["dense"].mean()
    return "Dense test accuracy: " + ", ".join(f"{name} {value:.4f}" for name, value in means.items()) + "."
