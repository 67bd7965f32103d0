"""Single weights of ResNet-20 on CIFAR-10 images: magnitude, WoodFisher and CBS, in one shot and gradually.

With SECATEURS_CHECKPOINTS set, the dense network is the published one. It knows the original images; ours are JPEG
copies, on which it is less accurate before anything is pruned. Without, the common trainer makes one per seed from part
of the images. Either way differences between methods are what can be compared, not the published levels.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from benchmarks.boards.stats import spread
from benchmarks.figures.looks import together
from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Claim, Outcome, Workplace
from benchmarks.reproductions.hessian._obs import FOLDER, OneShot, group_obs, kept_weights, published_weights
from benchmarks.reproductions.networks import trained
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

PAPER = "Yu, Serra, Ramalingam & Zhe, ICML 2022 (CBS), ResNet20 table; Singh & Alistarh, NeurIPS 2020 (WoodFisher)"
PUBLISHED: Mapping[str, Mapping[float, float]] = {
    "magnitude": {0.5: 88.44, 0.6: 85.24, 0.7: 78.79, 0.8: 54.01},
    "WoodFisher": {0.5: 90.23, 0.6: 87.96, 0.7: 81.05, 0.8: 62.63},
    "CBS": {0.5: 90.58, 0.6: 88.88, 0.7: 81.84, 0.8: 51.28},
}
"""Quoted from memory of the paper's table: shown, never asserted."""
PUBLISHED_DENSE = 91.36
RENAMED = {
    "module.": "",
    "bn": "norm",
    "layer": "stage",
    "downsample.0": "shortcut.conv",
    "downsample.1": "shortcut.norm",
    "fc.": "classifier.",
}
"""Parts of the published file's names and of ours."""
DAMPING = 1e-5
GRADUAL = 0.9
STEPS = 3

Parts = tuple[Selection[EdgeLayer], Allocation, Compensation]


def run(work: Workplace) -> Outcome:
    """Two seeds in one shot, one gradually, from few gradients and on part of the images.

    About ten minutes on one core, and as much again for either dense network that is trained.
    """
    from benchmarks.cells.preparation import calibrate

    samples = 40 if work.quick else 500
    sparsities = (0.7,) if work.quick else tuple(PUBLISHED["CBS"])
    rows: list[dict[str, Any]] = []
    dense = []
    for seed in track(range(1 if work.quick else 2), "seeds, in one shot"):
        data, model = dense_network(work, seed)
        dense.append(accuracy(model, data))
        calibration = calibrate(data, {"samples": samples, "batch_size": 100}, seed)
        network = OneShot(model, block_convolutions(model, calibration.inputs), calibration, seed)
        for name, (selection, _, compensation) in methods(work.quick).items():
            for sparsity in sparsities:
                masks = network.masks(selection, kept_weights(sparsity, network.size))
                pruned = network.network(masks, compensation, selection)
                rows.append(_row(name, "one shot", sparsity, seed, accuracy(pruned, data)))
        network.forget()
        if seed == 0:
            rows += gradually(model, data, calibration, work.quick)
    mean = sum(dense) / len(dense)
    table = tabulate(rows, mean)
    setting = _setting(mean, samples, len(data.train), len(data.test), work.quick)
    return Outcome(table, _claims(table), setting, {"dense": mean})


def dense_network(work: Workplace, seed: int) -> tuple[Data, nn.Module]:
    """The published network where there is one, else one of the common trainer, and images to prune it with."""
    from benchmarks.data.splits import load

    words = ["dataset=cifar10", "model=resnet20", "trainer=cifar_short"]
    # the tiny version is quick everywhere: not every processor knows bf16
    words += ["dataset.limit=80", "dataset.limit_test=60", "trainer.train.precision=fp32"] if work.quick else []
    if FOLDER in os.environ:
        words += ["dataset.mean=[0.5,0.5,0.5]", "dataset.std=[0.5,0.5,0.5]"]
        words += [] if work.quick else ["dataset.limit=4000", "dataset.limit_test=2000"]
        config = work.config(words)
        data = load(config["dataset"], seed, work.cache)
        return data, published_network(config, data)
    words += ["trainer.train.epochs=1", "trainer.train.warmup_epochs=0"] if work.quick else ["dataset.limit=10000"]
    data, network = trained(work, work.config([*words, f"seed={seed}"]))
    return data, network.model


def published_network(config: Mapping[str, Any], data: Data) -> nn.Module:
    """Our ResNet-20 with the published weights."""
    from safetensors.torch import load_file

    from benchmarks.models import build

    path = published_weights("resnet20_cifar10.safetensors", "checkpoints/resnet20_cifar10.pth.tar")
    model = build(config["model"], data.shape, data.classes, 0)
    model.load_state_dict({renamed(name): value for name, value in load_file(path).items()})
    return model.eval()


def renamed(name: str) -> str:
    """Our name of a tensor of the published file."""
    for theirs, ours in RENAMED.items():
        name = name.replace(theirs, ours)
    return name


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


def gradually(model: nn.Module, data: Data, calibration: Calibration, quick: bool) -> list[dict[str, Any]]:
    """Every method on a cubic schedule, an epoch of training after each step; the dense network gets as many epochs."""
    from benchmarks.training.trainer import TrainerSettings, fit
    from methods.budgets.budget import Budget
    from methods.pruner import Pruner
    from methods.schedule import Iterative
    from methods.seeds import derive_seed

    settings = TrainerSettings(
        epochs=1,
        batch_size=128,
        learning_rate=0.005,
        weight_decay=1e-4,
        precision="fp32" if quick else "bf16",
        channels_last=True,
    )

    def trainer(name: str) -> Callable[[nn.Module, Mapping[str, Tensor], int], None]:
        def train(network: nn.Module, masks: Mapping[str, Tensor], step: int) -> None:
            own = derive_seed(0, "gradual", step)
            fit(network, data, settings, own, masks=masks, label=f"{name}, step {step + 1}")

        return train

    rows = []
    chosen = {name: parts for name, parts in methods(quick).items() if "group update" not in name}
    for name, parts in track(list(chosen.items()), "methods, gradually"):
        pruner = Pruner(*parts, Iterative(STEPS, "cubic"))
        pruned = pruner.prune(model, calibration, Budget("keep", 1 - GRADUAL), 0, trainer(name))
        trainer(name)(pruned.model, pruned.masks, STEPS - 1)
        rows.append(_row(name, "gradual", GRADUAL, 0, accuracy(pruned.model, data)))
    unpruned = copy.deepcopy(model)
    for step in range(STEPS):
        trainer("unpruned")(unpruned, {}, step)
    return [*rows, _row("unpruned, as many epochs", "gradual", 0.0, 0, accuracy(unpruned, data))]


def accuracy(model: nn.Module, data: Data) -> float:
    """Test accuracy in %."""
    from benchmarks.training.scoring import accuracy_of

    return 100 * accuracy_of(model, data.test, batch_size=250)


def _row(method: str, schedule: str, sparsity: float, seed: int, value: float) -> dict[str, Any]:
    return {"method": method, "schedule": schedule, "sparsity": sparsity, "seed": seed, "accuracy": value}


def tabulate(rows: Sequence[Mapping[str, Any]], dense: float) -> pd.DataFrame:
    """Means over the seeds; the published loss of accuracy stands beside ours, since the dense levels differ."""
    import pandas as pd

    result = []
    for (schedule, method, sparsity), part in pd.DataFrame(rows).groupby(
        ["schedule", "method", "sparsity"], sort=False
    ):
        assert isinstance(method, str) and isinstance(sparsity, float)
        found = spread(part["accuracy"].tolist())
        published = PUBLISHED.get(method, {}).get(sparsity) if schedule == "one shot" else None
        lost = None if published is None else published - PUBLISHED_DENSE
        assert found.mean is not None
        ours = found.mean - dense
        result.append(
            {
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
    return pd.DataFrame(result).sort_values(["schedule", "sparsity"], ascending=[False, True], kind="stable")


def _claims(table: pd.DataFrame) -> list[Claim]:
    ours: dict[Any, float] = table.set_index(["schedule", "method", "sparsity"])["ours"].to_dict()
    n = int(table["n"].max())
    claims = []
    for first, second in (("WoodFisher", "magnitude"), ("CBS", "WoodFisher"), ("CBS", "magnitude")):
        for schedule in ("one shot", "gradual"):
            pairs = {
                sparsity: ours[schedule, first, sparsity] - ours[schedule, second, sparsity]
                for where, method, sparsity in ours
                if (where, method) == (schedule, first) and (schedule, second, sparsity) in ours
            }
            text = f"{first} is more accurate than {second}, {schedule}"
            evidence = ", ".join(f"{sparsity:g}: {value:+.2f}" for sparsity, value in pairs.items())
            same = len({value > 0 for value in pairs.values()}) == 1
            clear = same and min(map(abs, pairs.values()), default=0) > 1
            seen = next(iter(pairs.values())) > 0 if clear else None
            evidence += f" points ({n if schedule == 'one shot' else 1} seeds; within one point is undecided)"
            claims.append(Claim(text, seen, evidence))
    return claims


def _setting(dense: float, samples: int, train: int, test: int, quick: bool) -> str:
    if FOLDER in os.environ:
        origin = (
            f"the published weights (dense {PUBLISHED_DENSE} % in the CBS paper, on the original images) have "
            f"{dense:.2f} % here, on {test:,} test images; the network is not at a minimum of the loss on these images"
        )
    else:
        origin = (
            f"networks of the common trainer ({train:,} images, 30 epochs along a cosine, bf16, the best epoch by "
            f"validation), one per seed, {dense:.2f} % on {test:,} test images; the published network, not at hand, "
            f"has {PUBLISHED_DENSE} %"
        )
    return (
        f"{'Tiny version. ' if quick else ''}CIFAR-10 (JPEG): {origin}. {samples} gradients (papers: 1,000) from "
        f"{train:,} training images, with the true labels, one Fisher block per layer, damping 1e-5. One shot: "
        "the 18 convolutions of the blocks, sparsity relative to them, no fine-tuning, no new batch-norm statistics; "
        "two seeds. CBS: 5 perturbed starts (paper: 50) and at most 15 passes, losses on the samples of the gradients, "
        f"swaps by the full Fisher. Gradual, one seed: all weights but biases and batch norm, {STEPS} steps on a cubic "
        "schedule with an epoch of these training images after each (rate 0.005, bf16); the last line is the dense "
        "network with as many epochs. The papers train for 100 epochs. Published numbers are quoted from memory; "
        "differences are of the change against the dense network."
    )


SHOWN = {
    "magnitude": ("magnitude", "magnitude_edge"),
    "WoodFisher": ("WoodFisher", "obs"),
    "WoodFisher set + group update": ("WoodFisher's set,\nexact update", "exact_obs"),
    "CBS": ("CBS", "cbs"),
}


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """Change of accuracy in one shot: ours and what is quoted, side by side."""
    table = outcome.table[outcome.table["schedule"] == "one shot"]
    looks = together(*(name for _, name in SHOWN.values()))
    dense, most = outcome.level("dense"), float(table["sparsity"].max())
    loss = table[table["sparsity"] == most].set_index("method")["our change"]
    lost = ", ".join(f"{name} {-loss[name]:.0f}" for name in ("CBS", "WoodFisher", "magnitude") if name in loss)
    sheet = Sheet(
        f"ResNet-20 with {100 * most:g} % of the weights gone in one shot: points of accuracy lost, {lost}",
        columns=2,
        height=3.1,
        share_x="all",
        share_y="all",
        note=f"CIFAR-10 (JPEG). Ours: means over {table['n'].max():g} networks of {dense:.1f} %, bars: sample standard "
        f"deviation. The paper's network has {PUBLISHED_DENSE} %; its numbers are from memory and not asserted. "
        "Points of one sparsity stand side by side.",
    )
    for column, (title, values) in enumerate({"ours": "our change", "published": "published change"}.items()):
        panel = sheet.panel(0, column, title)
        for number, (method, (label, name)) in enumerate(SHOWN.items()):
            part = table[table["method"] == method]
            if part[values].notna().any():
                std = part["std"].fillna(0) if values == "our change" else None
                apart = 0.4 * (number - 1.5)  # lines that lie on each other would hide each other
                panel.line(100 * part["sparsity"] + apart, part[values], looks[name], label, std)
        level = dense if values == "our change" else PUBLISHED_DENSE
        panel.level(0, f"dense {level:.1f} %", "right")
        panel.level(10 - level, "chance", "left")
        panel.label("weights pruned in the blocks' convolutions, %", "change of accuracy, points")
        panel.ticks("x", sorted(100 * table["sparsity"].unique()))
    return {"obs_resnet20": sheet}
