"""Neurons of LeNet-300-100 under Kronecker-factored curvature: C-OBD, C-OBS, Kron-OBD, Kron-OBS, EigenDamage.

Beside them the norm of the incoming weights and chance, at 50, 75 and 90 % of the neurons pruned, before and after
fine-tuning. The paper has no perceptron (VGG19 and ResNet32 on CIFAR): what is compared is the order of the methods.
EigenDamage removes directions, not neurons; it gets as many parameters as Kron-OBS leaves at the same size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.boards.stats import paired_t, spread
from benchmarks.figures.looks import together
from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Claim, Outcome, Workplace

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.records.schema import Record

PAPER = "Wang, Grosse, Fidler & Zhang, EigenDamage, ICML 2019 (arXiv 1905.05934)"
NAMES = {
    "kron_obd": "Kron-OBD",
    "kron_obs": "Kron-OBS",
    "obd_filter": "C-OBD",
    "obs_filter": "C-OBS",
    "eigendamage": "EigenDamage",
    "magnitude": "magnitude",
    "random": "random",
}
STAGES = {"pruned": "before fine-tuning", "tuned": "fine-tuned"}
KEEP = (0.5, 0.25, 0.1)


def run(work: Workplace) -> Outcome:
    """Three sizes, five seeds, one epoch of fine-tuning; about a quarter of an hour on one core."""
    common = ["dataset=mnist", "model=lenet300", "seed=0,1,2,3,4", "trainer.train.epochs=10"]
    if work.quick:
        common = ["dataset=digits", "model=mlp_digits", "seed=0,1", "trainer.train.epochs=5"]
    common += ["trainer.finetune.epochs=1", "measure=none", "track=none"]
    keeps = KEEP[1:2] if work.quick else KEEP
    sizes = f"budget.keep={','.join(f'{keep:g}' for keep in keeps)}"
    curved = ["method=kron_obd,kron_obs,obd_filter,obs_filter", "allocation=global_floor"]
    rows = tabulate([*work.cells([*curved, sizes, *common]), *work.cells(["method=magnitude,random", sizes, *common])])
    for keep in keeps:
        matched = [row["compression"] for row in rows if row["method"] == "kron_obs" and row["keep"] == keep]
        words = [
            "method=eigendamage",
            "selection.floor=0.01",
            f"budget.compression={sum(matched) / len(matched):.3g}",
            *common,
        ]
        rows += [row | {"keep": keep} for row in tabulate(work.cells(words))]
    return finish(rows, work)


def tabulate(records: Sequence[Record]) -> list[dict]:
    """One row per cell and stage, accuracies in %."""
    rows = []
    for record in records:
        compression = record.budget.achieved.compression
        assert compression is not None
        for stage in STAGES:
            metrics, dense = getattr(record.metrics, stage), record.metrics.dense
            whole = dense.accuracy if dense else None
            rows.append(
                {
                    "method": record.method,
                    "keep": next(iter(record.budget.requested.values())),
                    "compression": compression,
                    "stage": stage,
                    "seed": record.seed,
                    "accuracy": 100 * metrics.accuracy if metrics else None,
                    "dense": 100 * whole if whole is not None else None,
                }
            )
    return rows


def finish(rows: Sequence[dict], work: Workplace) -> Outcome:
    """The outcome of these rows."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    summary = []
    for (keep, method), part in frame.groupby(["keep", "method"], sort=False):
        assert isinstance(keep, float) and isinstance(method, str)
        row: dict[str, Any] = {"neurons pruned": f"{100 * (1 - keep):g} %", "method": NAMES[method]}
        row["parameters kept"] = f"{100 * (1 / part['compression']).mean():.1f} %"
        for stage, name in STAGES.items():
            found = spread(part[part["stage"] == stage]["accuracy"].tolist())
            row |= {name: found.mean, f"std ({name})": found.std, "n": found.n}
        summary.append(row)
    setting = (
        f"{'Tiny version on digits. ' if work.quick else ''}"
        f"Dense accuracy {frame['dense'].mean():.2f} %. {frame['seed'].nunique()} seeds, "
        f"{'5' if work.quick else '10'} epochs of dense training, one of fine-tuning (rate 0.01). 1000 samples for the "
        "factors with labels sampled from the predictions (paper: the whole training set). The curvature methods rank "
        "all neurons globally and keep 5 % of each layer at least; magnitude (L1 norm) and random keep the same "
        "fraction of both layers, so they differ in parameters, too. EigenDamage may go down to 1 % of a layer's "
        "directions (paper: 5 %), since 5 % of 784 input directions is more than the smallest networks have. "
        "Kron-OBD and Kron-OBS use w A w^T as in the "
        "paper; sets of neurons get the exact joint update. No number of the paper applies to this network."
    )
    return Outcome(pd.DataFrame(summary), _claims(frame), setting, {"dense": float(frame["dense"].mean())})


def _compared(frame: pd.DataFrame, first: str, second: str, stage: str) -> Claim:
    part = frame[frame["stage"] == stage].set_index(["keep", "seed"])
    values = [part[part["method"] == name]["accuracy"] for name in (first, second)]
    differences = (values[0] - values[1]).dropna()
    # Sizes of one seed share its dense network: the seed is what repeats.
    found = paired_t(differences.groupby("seed").mean().tolist())
    text = f"{NAMES[first]} is more accurate than {NAMES[second]}, {STAGES[stage]}"
    if found.difference is None or found.p is None:
        return Claim(text, None, "no pairs")
    sizes = differences.groupby("keep").mean().sort_index(ascending=False)
    each = ", ".join(f"{100 * (1 - keep):g} %: {value:+.2f}" for keep, value in zip(sizes.index, sizes, strict=True))
    evidence = f"mean difference {found.difference:+.2f} points over {found.n} seeds, p = {found.p:.2g} ({each})"
    return Claim(text, None if found.p > 0.05 else found.difference > 0, evidence)


def _claims(frame: pd.DataFrame) -> list[Claim]:
    pairs = [
        ("kron_obs", "kron_obd", "pruned"),
        ("kron_obd", "obd_filter", "pruned"),
        ("kron_obs", "obs_filter", "pruned"),
        ("eigendamage", "kron_obs", "pruned"),
        ("kron_obs", "magnitude", "pruned"),
        ("kron_obs", "random", "pruned"),
        ("kron_obs", "kron_obd", "tuned"),
        ("kron_obs", "obs_filter", "tuned"),
        ("eigendamage", "kron_obs", "tuned"),
        ("kron_obs", "magnitude", "tuned"),
        ("kron_obs", "random", "tuned"),
    ]
    return [_compared(frame, *pair) for pair in pairs]


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """Test error against the parameters that are left, which differ at the same number of neurons."""
    table = outcome.table.assign(left=outcome.table["parameters kept"].str.rstrip(" %").astype(float))
    looks = together(*NAMES)
    dense = 100 - outcome.level("dense")
    sizes = list(dict.fromkeys(table["neurons pruned"]))
    own = table[table["neurons pruned"] == sizes[-1]].set_index("method")
    before, after = own["before fine-tuning"], own["fine-tuned"]
    sheet = Sheet(
        f"With {sizes[-1]} of the neurons pruned, accuracies of the methods lie between {before.min():.0f} and "
        f"{before.max():.0f} % before fine-tuning, and between {after.min():.0f} and {after.max():.0f} % after it",
        columns=2,
        height=3.6,
        share_x="all",
        share_y="all",
        note=f"LeNet-300-100 on MNIST with {', '.join(sizes)} of the neurons pruned: the points of a line, from the "
        f"left. Means over {table['n'].max():g} seeds, bars: sample standard deviation; one epoch of fine-tuning.",
    )
    for column, stage in enumerate(STAGES.values()):
        panel = sheet.panel(0, column, stage)
        for method, label in NAMES.items():
            part = table[table["method"] == label]
            error = 100 - part[stage]
            panel.line(part["left"], error, looks[method], label if column else "", part[f"std ({stage})"].fillna(0))
        panel.level(dense, f"dense {dense:.1f} %", below=True)
        panel.level(90, "chance 90 %")
        panel.label("parameters kept, %", "test error, %", (0, 100))
        panel.log("x", falling=True)
        panel.log("y")
    return {"kronecker_lenet300": sheet}
