"""What the reproductions with ResNet-20 share: methods, one-shot pruning, tables, verdicts and the figure.

A row names the dense network that was pruned. Accuracies are in %, and changes are against that network, in points.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from benchmarks.boards.stats import spread
from benchmarks.figures.looks import together
from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Claim, Outcome
from benchmarks.reproductions.hessian._obs import OneShot, group_obs, kept_weights
from benchmarks.storage.paths import write_atomically
from methods.allocation import Allocation, Global, Uniform
from methods.baselines.magnitude import MagnitudeSelection
from methods.compensation import Compensation
from methods.hessian.cbs import CBSSelection
from methods.hessian.obs import OBSCompensation, OBSSelection
from methods.layers.seen import EdgeLayer
from methods.progress import track
from methods.selection import Selection

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.data.splits import Data
    from methods.layers.statistics import Calibration

PUBLISHED: Mapping[str, Mapping[float, float]] = {
    "magnitude": {0.5: 88.44, 0.6: 85.24, 0.7: 78.79, 0.8: 54.01},
    "WoodFisher": {0.5: 90.23, 0.6: 87.96, 0.7: 81.05, 0.8: 62.63},
    "CBS": {0.5: 90.58, 0.6: 88.88, 0.7: 81.84, 0.8: 51.28},
}
"""Quoted from memory of the paper's table: shown, never asserted."""
PUBLISHED_DENSE = 91.36
DAMPING = 1e-5
DENSE = "dense"
ONE_SHOT = (
    "one Fisher block per layer, damping 1e-5, gradients of the true labels. One shot: the 18 convolutions of the "
    "blocks, sparsity relative to them, no fine-tuning, no new batch-norm statistics. CBS: 5 perturbed starts (paper: "
    "50) and at most 15 passes, losses on the samples of the gradients, swaps by the full Fisher. Published numbers "
    "are quoted from memory; differences are of the change against the dense network."
)
"""What holds for every network, in words."""

Parts = tuple[Selection[EdgeLayer], Allocation, Compensation]


def block_convolutions(model: nn.Module, example: Tensor) -> list[str]:
    """The 18 layers that the papers prune: the 3x3 convolutions of the blocks."""
    from methods.layers.views import edge_layers

    return [name for name in edge_layers(model, example[:2]) if ".conv" in name and "shortcut" not in name]


def methods(quick: bool) -> dict[str, Parts]:
    """Selection, allocation and compensation of each method; blocks of the Fisher are layers."""
    if quick:
        surgeon = CBSSelection(damping=DAMPING, block="layer", trials=2, passes=2)
    else:
        surgeon = CBSSelection(damping=DAMPING, block="layer", trials=5, passes=15, patience=3)
    woodfisher = OBSSelection(damping=DAMPING, block="layer")
    return {
        "magnitude": (MagnitudeSelection(unit="edge"), Global(), Compensation()),
        "WoodFisher": (woodfisher, Global(), OBSCompensation("sum")),
        "WoodFisher set + group update": (woodfisher, Global(), OBSCompensation("group")),
        "CBS": (surgeon, Uniform(), group_obs(DAMPING, "layer")),
    }


class Measured:
    """Accuracies by name, kept in a file, so that a run that was stopped resumes where it was.

    Args:
        path: the path of the file; None keeps nothing.
        setting: all that the accuracies depend on, in words; those of another setting are forgotten.
    """

    def __init__(self, path: Path | None = None, setting: str = "") -> None:
        self.path, self.setting = path, setting
        self.known: dict[str, float] = {}
        if path is not None and path.is_file():
            stored = json.loads(path.read_text(encoding="utf-8"))
            self.known = stored["accuracies"] if stored["setting"] == setting else {}

    def of(self, name: str, measure: Callable[[], float]) -> float:
        """The accuracy that is known under ``name``, or that ``measure`` gives now."""
        if name not in self.known:
            self.known[name] = measure()
            if self.path is not None:
                write_atomically(self.path, json.dumps({"setting": self.setting, "accuracies": self.known}, indent=1))
        return self.known[name]


def one_shot(
    network: str,
    model: nn.Module,
    data: Data,
    calibration: Calibration,
    seed: int,
    quick: bool,
    drawing: bool = False,
    measured: Measured | None = None,
) -> list[dict[str, Any]]:
    """Accuracies of a dense network and of what each method makes of it at each sparsity.

    Args:
        network: its name in the rows.
        model: the network itself; left as it is.
        data: its test split is measured.
        calibration: samples for gradients and losses.
        seed: root of the random streams.
        quick: one sparsity, and a short search.
        drawing: leave out what draws nothing, neither samples nor numbers: magnitude, and the dense network.
        measured: what is known already.
    """
    measured = measured or Measured()
    sparsities = (0.7,) if quick else tuple(PUBLISHED["CBS"])
    dense = OneShot(model, block_convolutions(model, calibration.inputs), calibration, seed)

    def pruned(name: str, sparsity: float) -> float:
        selection, _, compensation = chosen[name]
        masks = dense.masks(selection, kept_weights(sparsity, dense.size))
        return accuracy(dense.network(masks, compensation, selection), data)

    def found(name: str, sparsity: float, measure: Callable[[], float]) -> dict[str, Any]:
        value = measured.of(f"{network}, seed {seed}: {name} {sparsity:g}", measure)
        return row(network, name, "one shot", sparsity, seed, value)

    chosen = methods(quick)
    rows = [] if drawing else [found(DENSE, 0.0, partial(accuracy, model, data))]
    for name in track(list(chosen), f"methods, {network}"):
        if not (drawing and isinstance(chosen[name][0], MagnitudeSelection)):
            rows += [found(name, sparsity, partial(pruned, name, sparsity)) for sparsity in sparsities]
    dense.forget()
    return rows


def accuracy(model: nn.Module, data: Data) -> float:
    """Test accuracy in %."""
    from benchmarks.training.scoring import accuracy_of

    return 100 * accuracy_of(model, data.test, batch_size=250)


def row(network: str, method: str, schedule: str, sparsity: float, seed: int, value: float) -> dict[str, Any]:
    """One measurement."""
    return {
        "network": network,
        "method": method,
        "schedule": schedule,
        "sparsity": sparsity,
        "seed": seed,
        "accuracy": value,
    }


def tabulate(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Means over the seeds; the published loss of accuracy is shown with ours, since the dense levels differ.

    ``attrs["dense"]`` has the mean accuracy of the dense networks by name.
    """
    import pandas as pd

    whole = pd.DataFrame(rows)
    unpruned = whole["method"] == DENSE
    levels = {
        str(name): float(part.mean()) for name, part in whole[unpruned].groupby("network", sort=False)["accuracy"]
    }
    result = []
    groups = whole[~unpruned].groupby(["network", "schedule", "method", "sparsity"], sort=False)
    for (network, schedule, method, sparsity), part in groups:
        assert isinstance(method, str) and isinstance(sparsity, float)
        found, dense = spread(part["accuracy"].tolist()), levels[str(network)]
        published = PUBLISHED.get(method, {}).get(sparsity) if schedule == "one shot" else None
        lost = None if published is None else published - PUBLISHED_DENSE
        assert found.mean is not None
        ours = found.mean - dense
        result.append(
            {
                "network": network,
                "schedule": schedule,
                "method": method,
                "sparsity": sparsity,
                "published": published,
                "certainty": "" if published is None else "memory",
                "ours": found.mean,
                "std": found.std,
                "n": found.n,
                "published change": lost,
                "our change": ours,
                "difference": None if lost is None else ours - lost,
            }
        )
    order = ["schedule", "sparsity"]
    table = pd.DataFrame(result).sort_values(order, ascending=[False, True], kind="stable")
    rank = {name: number for number, name in enumerate(levels)}
    table = table.sort_values("network", key=lambda names: names.map(rank), kind="stable")
    table.attrs["dense"] = levels
    return table


def claims_of(table: pd.DataFrame, repeats: str) -> list[Claim]:
    """Which method is better, for each dense network; ``repeats`` says what ``n`` counts.

    Where there is one network alone, its name is left out.
    """
    index = ["network", "schedule", "method", "sparsity"]
    ours: dict[Any, float] = table.set_index(index)["ours"].to_dict()
    claims = []
    for first, second in (("WoodFisher", "magnitude"), ("CBS", "WoodFisher"), ("CBS", "magnitude")):
        for network, schedule in dict.fromkeys((key[0], key[1]) for key in ours):
            pairs = {
                key[3]: ours[key] - ours[network, schedule, second, key[3]]
                for key in ours
                if key[:3] == (network, schedule, first) and (network, schedule, second, key[3]) in ours
            }
            if not pairs:
                continue
            part = table[(table["network"] == network) & (table["schedule"] == schedule) & (table["method"] == first)]
            where = f", {network}" if table["network"].nunique() > 1 else ""
            text = f"{first} is more accurate than {second}, {schedule}{where}"
            evidence = ", ".join(f"{sparsity:g}: {value:+.2f}" for sparsity, value in pairs.items())
            same = len({value > 0 for value in pairs.values()}) == 1
            clear = same and min(map(abs, pairs.values())) > 1
            seen = next(iter(pairs.values())) > 0 if clear else None
            count = f"{int(part['n'].max())} {repeats}"
            claims.append(Claim(text, seen, f"{evidence} points ({count}; within one point is undecided)"))
    return claims


SHOWN = {
    "magnitude": ("magnitude", "magnitude_edge"),
    "WoodFisher": ("WoodFisher", "obs"),
    "WoodFisher set + group update": ("WoodFisher's set,\nexact update", "exact_obs"),
    "CBS": ("CBS", "cbs"),
}


def sheet_of(outcome: Outcome, repeats: str) -> Sheet:
    """Change of accuracy in one shot: ours, for each dense network, and what is quoted, side by side."""
    table = outcome.table[outcome.table["schedule"] == "one shot"]
    looks = together(*(name for _, name in SHOWN.values()))
    networks = list(dict.fromkeys(table["network"]))
    main, most = table[table["network"] == networks[-1]], float(table["sparsity"].max())
    loss = main[main["sparsity"] == most].set_index("method")["our change"]
    lost = ", ".join(f"{name} {-loss[name]:.0f}" for name in ("CBS", "WoodFisher", "magnitude") if name in loss)
    sheet = Sheet(
        f"ResNet-20 with {100 * most:g} % of the weights gone in one shot: points of accuracy lost, {lost}",
        columns=len(networks) + 1,
        height=3.1,
        share_x="all",
        share_y="all",
        note=f"CIFAR-10 (JPEG). Ours: means over {table['n'].max():g} {repeats}, bars: sample standard deviation"
        f"{f'; the title is of the panel {networks[-1]}' if len(networks) > 1 else ''}. The paper's images are the "
        "original ones; its numbers are from memory and not asserted. Weights: of the "
        "blocks' convolutions. Points of one sparsity stand side by side.",
    )
    panels = {name: (f"ours, {name}", table[table["network"] == name], "our change") for name in networks}
    panels["published"] = ("published", main, "published change")
    for column, (name, (title, shown, values)) in enumerate(panels.items()):
        panel = sheet.panel(0, column, title)
        for number, (method, (label, look)) in enumerate(SHOWN.items()):
            part = shown[shown["method"] == method]
            if part[values].notna().any():
                std = part["std"].fillna(0) if values == "our change" else None
                apart = 0.4 * (number - 1.5)  # lines that lie on each other would hide each other
                panel.line(100 * part["sparsity"] + apart, part[values], looks[look], label, std)
        level = PUBLISHED_DENSE if name == "published" else outcome.level(f"dense, {name}")
        panel.level(0, f"dense {level:.1f} %", "right")
        panel.level(10 - level, "chance", "left")
        panel.label("weights pruned, %", "change of accuracy, points")
        panel.ticks("x", sorted(100 * table["sparsity"].unique()))
    return sheet
