"""What the sweeps over one option of spectral pruning have in common: cells, a table, a figure, paired comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.boards.stats import Comparison, paired_t, spread
from benchmarks.figures.panel import nth
from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Claim, Outcome, Workplace

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.records.schema import Record

COMMON = ("method=spectral", "compensation=as_published", "trainer.finetune.epochs=0", "measure=none", "track=none")
DIGITS = ("dataset=digits", "model=mlp_digits", "seed=0,1,2,3,4")
MNIST = ("dataset=mnist", "model=lenet300", "trainer.train.epochs=10", "seed=0,1,2")
NAMES = {
    "digits/mlp_digits": "perceptron on digits",
    "mnist/lenet300": "LeNet-300-100 on MNIST",
    "cifar10/vgg11": "narrow VGG-11 on CIFAR-10 (JPEG)",
}
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
    outcome: Outcome, x: str, by: str, title: str, label: str, ticks: Mapping[float, str], share_y: bool = True
) -> Sheet:
    """Test error against ``x``, one panel per network, one line per value of ``by``.

    Args:
        outcome: what is stored.
        x: the column along x; its values stand at equal distances.
        by: the column whose values are lines.
        title: the title of the sheet.
        label: what x is.
        ticks: how values of x read, where not as they are; an empty text is no tick.
        share_y: whether all panels have one axis of errors.
    """
    table = outcome.table
    networks = list(table["network"].unique())
    counts = ", ".join(f"{table[table['network'] == name]['n'].max():g} ({NAMES.get(name, name)})" for name in networks)
    sheet = Sheet(
        title,
        columns=len(networks),
        height=3.1,
        share_y="row" if share_y else "none",
        note=f"No fine-tuning. Means over seeds: {counts}; bars: sample standard deviation.",
    )
    for column, network in enumerate(networks):
        own = table[table["network"] == network]
        panel = sheet.panel(0, column, NAMES.get(network, network))
        places = {value: place for place, value in enumerate(sorted(own[x].unique()))}
        for number, value in enumerate(sorted(own[by].unique(), reverse=True)):
            part = own[own[by] == value].sort_values(x)
            error, std = 100 * (1 - part["accuracy"]), 100 * part["std"].fillna(0)
            panel.line([places[each] for each in part[x]], error, nth(number), _said(by, value), std)
        dense = 100 * (1 - own["dense"].mean())
        panel.level(dense, f"dense {dense:.1f} %", below=True)
        panel.level(90, "chance 90 %")
        panel.label(label, "test error, %", (0, 100))
        panel.log("y")
        shown = {place: ticks.get(value, f"{value:g}") for value, place in places.items()}
        panel.ticks("x", [place for place, text in shown.items() if text], [text for text in shown.values() if text])
    return sheet


def _said(by: str, value: float) -> str:
    return f"{100 * value:g} % kept" if by == "keep" else f"ridge {value:g}".replace("e-0", "e-")


def dense_accuracies(table: pd.DataFrame) -> str:
    """The networks of a table and how accurate they are unpruned, as a sentence."""
    means = table.groupby("network", sort=False)["dense"].mean()
    return "Dense test accuracy: " + ", ".join(f"{name} {value:.4f}" for name, value in means.items()) + "."
