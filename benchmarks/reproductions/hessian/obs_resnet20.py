"""Single weights of the published ResNet-20 on CIFAR-10 images: magnitude, WoodFisher and CBS, in one shot.

The dense network is that of the papers. It knows the original images; ours are JPEG copies, on which it is less
accurate before anything is pruned, and not at a minimum of the loss. So it is pruned twice: as it is, and after an
epoch of training on the copies. Changes against the dense network can be compared with the published ones, accuracies
cannot. Networks of our own, and pruning in steps, are in ``obs_resnet20_trained``.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from benchmarks.figures.sheet import Sheet
from benchmarks.reproductions import Outcome, Workplace
from benchmarks.reproductions.hessian._obs import published_weights
from benchmarks.reproductions.hessian._resnet20 import (
    ONE_SHOT,
    PUBLISHED,
    PUBLISHED_DENSE,
    Measured,
    claims_of,
    one_shot,
    sheet_of,
    tabulate,
)
from methods.progress import track

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.data.splits import Data

__all__ = ["PUBLISHED"]

PAPER = "Yu, Serra, Ramalingam & Zhe, ICML 2022 (CBS), ResNet20 table; Singh & Alistarh, NeurIPS 2020 (WoodFisher)"
RENAMED = {
    "module.": "",
    "bn": "norm",
    "layer": "stage",
    "downsample.0": "shortcut.conv",
    "downsample.1": "shortcut.norm",
    "fc.": "classifier.",
}
"""Parts of the published file's names and of ours."""
AS_IS, ADAPTED = "as published", "adapted to the copies"
"""The dense networks: the published weights, and the same after an epoch on our images."""
REPEATS = "draws of samples"
KEPT = "obs_resnet20"  # folder of the cache
WEIGHTS, THEIRS = "resnet20_cifar10.safetensors", "checkpoints/resnet20_cifar10.pth.tar"


def run(work: Workplace) -> Outcome:
    """Two draws of samples, as many as the papers'; about twelve minutes on one core.

    What has been measured stays in the cache: a run that was stopped resumes where it was.
    """
    from benchmarks.cells.preparation import calibrate

    samples = 40 if work.quick else 1000
    rows: list[dict[str, Any]] = []
    networks: list[tuple[str, Data, nn.Module]] = []
    for seed in track(range(1 if work.quick else 2), "draws of samples"):
        for network, data, model in networks if seed else dense_networks(work):
            if seed == 0:
                networks.append((network, data, model))
            measured = Measured(work.cache / KEPT / f"{network}.json", _facts(data, samples))
            calibration = calibrate(data, {"samples": samples, "batch_size": 100}, seed)
            rows += one_shot(network, model, data, calibration, seed, work.quick, seed > 0, measured)
    table = tabulate(rows)
    levels = {f"dense, {network}": level for network, level in table.attrs["dense"].items()}
    setting = _setting(table, samples, len(data.train), len(data.test), work.quick)
    return Outcome(table, claims_of(table, REPEATS), setting, {"dense": levels[f"dense, {ADAPTED}"], **levels})


def dense_networks(work: Workplace) -> Iterator[tuple[str, Data, nn.Module]]:
    """The published network as it is and adapted, with images: those to adapt it are also those to prune it with."""
    from benchmarks.data.splits import load

    words = ["dataset=cifar10", "model=resnet20", "dataset.mean=[0.5,0.5,0.5]", "dataset.std=[0.5,0.5,0.5]"]
    words += ["dataset.limit=80", "dataset.limit_test=60"] if work.quick else ["dataset.limit_test=2000"]
    config = work.config(words)
    model = published_network(config)
    data = load(config["dataset"], 0, work.cache)
    yield AS_IS, data, model
    yield ADAPTED, data, adapted(model, data, work)


def adapted(model: nn.Module, data: Data, work: Workplace) -> nn.Module:
    """A copy that had one epoch on our images, along a cosine from a tenth of the usual rate; kept in the cache."""
    from benchmarks.storage import checkpoint
    from benchmarks.training.trainer import TrainerSettings, fit

    settings = TrainerSettings(
        epochs=1,
        batch_size=128,
        learning_rate=0.01,
        weight_decay=1e-4,
        schedule="cosine",
        precision="fp32" if work.quick else "bf16",  # not every processor knows bf16
        channels_last=True,
    )
    copied, folder, facts = copy.deepcopy(model), work.cache / KEPT, {"of": _facts(data, 0), "settings": repr(settings)}
    known = checkpoint.load(folder, "adapted")
    if known is not None and known[1] == facts:
        copied.load_state_dict(known[0])
        return copied
    fit(copied, data, settings, 0, label="adapting the published network")
    checkpoint.save(folder, "adapted", copied.state_dict(), facts)
    return copied


def _facts(data: Data, samples: int) -> str:
    """What accuracies depend on, apart from the names of network, method and draw."""
    path = published_weights(WEIGHTS, THEIRS)
    weights = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return f"weights {weights}, images {data.checksum}, {len(data.train)} and {len(data.test)}, {samples} gradients"


def published_network(config: Mapping[str, Any]) -> nn.Module:
    """Our ResNet-20 with the published weights."""
    from safetensors.torch import load_file

    from benchmarks.models import build

    path = published_weights(WEIGHTS, THEIRS)
    model = build(config["model"], tuple(config["dataset"]["shape"]), int(config["dataset"]["classes"]), 0)
    model.load_state_dict({renamed(name): value for name, value in load_file(path).items()})
    return model.eval()


def renamed(name: str) -> str:
    """Our name of a tensor of the published file."""
    for theirs, ours in RENAMED.items():
        name = name.replace(theirs, ours)
    return name


def _setting(table: pd.DataFrame, samples: int, train: int, test: int, quick: bool) -> str:
    dense: dict[str, float] = table.attrs["dense"]
    return (
        f"{'Tiny version. ' if quick else ''}CIFAR-10 (JPEG): the published weights, {PUBLISHED_DENSE} % in the CBS "
        f"paper on the original images, have {dense[AS_IS]:.2f} % on {test:,} test images here ({AS_IS}), and "
        f"{dense[ADAPTED]:.2f} % after one epoch on {train:,} training images ({ADAPTED}: rate 0.01 along a cosine, "
        f"bf16, the usual augmentation). Two draws of {samples:,} samples for the gradients (papers: 1,000), one "
        f"network. Mean distance from the published changes, in points: {_distances(table)}. Here: {ONE_SHOT}"
    )


def _distances(table: pd.DataFrame) -> str:
    """How far our changes are from the published ones, a mean over sparsities for each method and network."""
    known = table[table["difference"].notna()]
    words = []
    for method, part in known.groupby("method", sort=False):
        by = part.assign(difference=part["difference"].abs()).groupby("network", sort=False)["difference"].mean()
        words.append(f"{method} {', '.join(f'{value:.1f} {network}' for network, value in by.items())}")
    return "; ".join(words)


def figures(outcome: Outcome) -> dict[str, Sheet]:
    """Change of accuracy in one shot: ours, for each dense network, and what is quoted, side by side."""
    return {"obs_resnet20": sheet_of(outcome, REPEATS)}
