"""Which part matters, the choice of the nodes or the repair: five selections, with and without least squares.

Spectral pruning consists of a selection and a reconstruction, and so do ThiNet and DIVNET. Here every selection is run
with either, on the same dense networks and with the same number of nodes in every layer, without and with fine-tuning.
The numbers are accuracies on the test split. No paper has this table; the expected order is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.boards.stats import paired_t, spread
from benchmarks.figures.looks import look
from benchmarks.figures.sheet import Sheet, Sign
from benchmarks.reproductions import Claim, Outcome, Workplace

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.records.schema import Record

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
    return Outcome(_summary(table), _claims(table), _setting(table, work.quick))


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


SHOWN = {"spectral": "spectral", "thinet": "ThiNet", "magnitude": "magnitude", "dpp": "DPP", "random": "random"}
NETWORKS = {"digits/mlp_digits": "digits", "mnist/lenet300": "MNIST"}
SIZE = 0.1  # of the nodes: the size of the first figure


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """What the repair gives each selection at one size, before and after fine-tuning; and all sizes."""
    return {"selection_x_compensation": _gains(outcome.table), "sizes": _sizes(outcome.table)}


def _gains(table: pd.DataFrame) -> Sheet:
    sizes = table["keep"].unique()
    size = SIZE if SIZE in sizes else float(sizes.min())
    at = table[table["keep"] == size]
    networks = list(at["network"].unique())
    before = at.groupby(["repair", "selection"])[STAGES["pruned"]].mean() * 100
    sheet = Sheet(
        f"With {100 * size:g} % of the nodes left, random ones reach {before['least squares', 'random']:.0f} % "
        f"accuracy with least squares, the best choice without it {before['none'].max():.0f} %",
        columns=2,
        height=0.45 + 0.235 * (len(SHOWN) * len(networks)),
        share_x="all",
        share_y="all",
        key=[Sign("with least squares", line=False), Sign("without repair", line=False, filled=False)],
        note=f"Perceptrons on {' and '.join(NETWORKS.get(name, name) for name in networks)}; means over seeds, bars: "
        f"sample standard deviation. Each layer keeps {100 * size:g} % of its nodes.",
    )
    rows = [(network, selection) for network in networks for selection in SHOWN]
    names = [f"{NETWORKS.get(network, network)}: {SHOWN[selection]}" for network, selection in rows]
    for column, (title, stage) in enumerate((("before fine-tuning", "pruned"), ("fine-tuned", "tuned"))):
        panel = sheet.panel(0, column, title)
        panel.x_bounds = (0, 100)
        for row, (network, selection) in enumerate(rows):
            own = at[(at["network"] == network) & (at["selection"] == selection)].set_index("repair")
            value, std = 100 * own[STAGES[stage]], 100 * own[f"std ({STAGES[stage]})"].fillna(0)
            style = look(selection)
            panel.span((value["none"], row), (value["least squares"], row), style)
            for repair, filled in (("none", False), ("least squares", True)):
                panel.points([value[repair]], [row], style, x_std=[std[repair]], filled=filled, size=7)
        panel.rows(names, [len(SHOWN) - 0.5] if len(networks) > 1 else [])
        panel.level(10, "chance 10 %", vertical=True)
        panel.level(100 * at["dense"].mean(), f"dense {100 * at['dense'].mean():.1f} %", below=True, vertical=True)
        panel.label("test accuracy, %", "")
    return sheet


def _sizes(table: pd.DataFrame) -> Sheet:
    networks = list(table["network"].unique())
    smallest = table[table["keep"] == table["keep"].min()].groupby("repair")[STAGES["tuned"]].mean() * 100
    sheet = Sheet(
        f"With {100 * table['keep'].min():g} % of the nodes left, fine-tuned networks are "
        f"{smallest['least squares']:.0f} % accurate on average after least squares, {smallest['none']:.0f} % without",
        rows=2 * len(networks),
        columns=2,
        height=2.1,
        share_x="all",
        share_y="all",
        note="Means over seeds, bars: sample standard deviation. Every layer keeps the same share of its nodes.",
    )
    for line, network in enumerate(networks):
        for place, said in enumerate(STAGES.values()):
            for column, repair in enumerate(("none", "least squares")):
                shown = "no repair" if repair == "none" else repair
                panel = sheet.panel(2 * line + place, column, f"{NETWORKS.get(network, network)}, {shown}, {said}")
                own = table[(table["network"] == network) & (table["repair"] == repair)]
                for selection, label in SHOWN.items():
                    part = own[own["selection"] == selection].sort_values("keep")
                    error, std = 100 * (1 - part[said]), 100 * part[f"std ({said})"].fillna(0)
                    panel.line(100 * part["keep"], error, look(selection), label if column else "", std)
                dense = 100 * (1 - own["dense"].mean())
                panel.level(dense, f"dense {dense:.1f} %", below=True)
                panel.level(90, "chance 90 %")
                panel.label("nodes kept in every layer, %", "test error, %", (0, 100))
                panel.log("x", falling=True)
                panel.log("y")
                panel.ticks("x", [5, 10, 20, 30])
    return sheet
