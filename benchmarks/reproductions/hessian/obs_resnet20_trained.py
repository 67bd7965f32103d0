"""Single weights of our own ResNet-20 on CIFAR-10 images: magnitude, WoodFisher and CBS, in one shot and gradually.

The common trainer makes a network per seed from part of the images. It is less accurate than the published one, which
``obs_resnet20`` prunes: differences between methods can be compared, not the published levels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Outcome, Workplace
from benchmarks.reproductions.hessian._resnet20 import (
    ONE_SHOT,
    PUBLISHED,
    PUBLISHED_DENSE,
    accuracy,
    claims_of,
    methods,
    one_shot,
    row,
    sheet_of,
    tabulate,
)
from benchmarks.reproductions.networks import trained
from methods.progress import track

if TYPE_CHECKING:
    from benchmarks.data.splits import Data
    from methods.layers.statistics import Calibration

__all__ = ["PUBLISHED"]

PAPER = "Yu, Serra, Ramalingam & Zhe, ICML 2022 (CBS), ResNet20 table; Singh & Alistarh, NeurIPS 2020 (WoodFisher)"
GRADUAL = 0.9
STEPS = 3
OURS = "common trainer"
REPEATS = "seeds"


def run(work: Workplace) -> Outcome:
    """Two seeds in one shot, one gradually, from few gradients and on part of the images.

    About ten minutes on one core, and as much again for either dense network that is trained.
    """
    from benchmarks.cells.preparation import calibrate

    samples = 40 if work.quick else 500
    rows: list[dict[str, Any]] = []
    for seed in track(range(1 if work.quick else 2), "seeds, in one shot"):
        data, model = dense_network(work, seed)
        calibration = calibrate(data, {"samples": samples, "batch_size": 100}, seed)
        rows += one_shot(OURS, model, data, calibration, seed, work.quick)
        if seed == 0:
            rows += gradually(model, data, calibration, work.quick)
    table = tabulate(rows)
    level = table.attrs["dense"][OURS]
    setting = _setting(level, samples, len(data.train), len(data.test), work.quick)
    return Outcome(table, claims_of(table, REPEATS), setting, {"dense": level, f"dense, {OURS}": level})


def dense_network(work: Workplace, seed: int) -> tuple[Data, nn.Module]:
    """A network of the common trainer, and images to prune it with."""
    words = ["dataset=cifar10", "model=resnet20", "trainer=cifar_short", f"seed={seed}"]
    # the tiny version is quick everywhere: not every processor knows bf16
    words += ["dataset.limit=80", "dataset.limit_test=60", "trainer.train.precision=fp32"] if work.quick else []
    words += ["trainer.train.epochs=1", "trainer.train.warmup_epochs=0"] if work.quick else ["dataset.limit=10000"]
    data, network = trained(work, work.config(words))
    return data, network.model


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
        rows.append(row(OURS, name, "gradual", GRADUAL, 0, accuracy(pruned.model, data)))
    unpruned = copy.deepcopy(model)
    for step in range(STEPS):
        trainer("unpruned")(unpruned, {}, step)
    return [*rows, row(OURS, "unpruned, as many epochs", "gradual", 0.0, 0, accuracy(unpruned, data))]


def _setting(dense: float, samples: int, train: int, test: int, quick: bool) -> str:
    return (
        f"{'Tiny version. ' if quick else ''}CIFAR-10 (JPEG): networks of the common trainer ({train:,} images, 30 "
        f"epochs along a cosine, bf16, the best epoch by validation), one per seed, {dense:.2f} % on {test:,} test "
        f"images; the published network, which obs_resnet20 prunes, has {PUBLISHED_DENSE} %. {samples} gradients "
        f"(papers: 1,000) from these images; {ONE_SHOT} Two seeds. Gradual, one seed: all weights but biases and batch "
        f"norm, {STEPS} steps on a cubic schedule with an epoch of these training images after each (rate 0.005, "
        "bf16); the last line is the dense network with as many epochs. The papers train for 100 epochs."
    )


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """Change of accuracy in one shot: ours and what is quoted, side by side."""
    return {"obs_resnet20_trained": sheet_of(outcome, REPEATS)}
