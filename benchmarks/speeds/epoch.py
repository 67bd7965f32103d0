"""One epoch of the common trainer compared with a bare PyTorch loop over the same batches, to the same weights.

The trainer's time is that of the whole call, setting up Fabric and the optimizer included, without a validation split;
the bare loop indexes one float tensor and does nothing but forward, backward and step.
"""

import copy
import os
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.data.splits import Data, Split, load
from benchmarks.measure.side_by_side import Finding, Promise, alternate
from benchmarks.speeds._settings import cache_folder, composed, network
from benchmarks.training.optimisation import TrainerSettings
from benchmarks.training.trainer import fit
from methods.seeds import stream

PROMISE = Promise(ratio=1.05)
FEW = 16  # batches after which different rounding has not grown yet
BATCH = 128


def measure(quick: bool) -> Iterator[Finding]:
    """Time LeNet-5 on MNIST and ResNet-20 on batches of CIFAR-10, with the plain SGD loop and the fused one."""
    yield from _epoch("lenet5", "mnist", 4 if quick else None, 1 if quick else 15, quick)
    yield from _epoch("resnet20", "cifar10", 1 if quick else 16, 1 if quick else 15, quick)


def _epoch(model: str, dataset: str, batches: int | None, pairs: int, quick: bool) -> Iterator[Finding]:
    data, source = _data(dataset, batches)
    start = network(model, dataset)
    inputs, targets = data.train.to_inputs(slice(None)), data.train.targets
    settings = TrainerSettings(epochs=1, batch_size=BATCH, learning_rate=0.02, momentum=0.9, augment=False)
    weights: dict[str, nn.Module] = {}

    def ours() -> None:
        weights["ours"] = copy.deepcopy(start)
        fit(weights["ours"], data, settings, seed=0)

    def plain() -> None:
        weights["plain"] = bare_epoch(copy.deepcopy(start), inputs, targets, settings, fused=False)

    def fused() -> None:
        weights["fused"] = bare_epoch(copy.deepcopy(start), inputs, targets, settings, fused=True)

    count = -(-len(inputs) // BATCH)
    for name, times in zip(
        ("plain", "fused"), alternate(ours, plain, fused, pairs=pairs, warm_up=not quick), strict=True
    ):
        yield Finding(
            f"{'an epoch' if batches is None else f'{count} batches'} of {model} on {dataset}",
            times,
            f"bare PyTorch loop, {name} SGD",
            None if quick else PROMISE,
            # Ours is fused; the other form rounds differently, and a whole epoch makes two networks of that.
            _same(weights["ours"], weights[name]) if name == "fused" or count <= FEW else None,
            f"{source}, {count} batches of {BATCH}",
        )


def bare_epoch(model: nn.Module, inputs: Tensor, targets: Tensor, settings: TrainerSettings, fused: bool) -> nn.Module:
    """The shortest loop that does the same."""
    optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate, settings.momentum, fused=fused)
    model.train()
    order = torch.randperm(len(inputs), generator=stream(0, "train", 0))
    for rows in order.split(settings.batch_size):
        optimizer.zero_grad()
        # inputs[rows] may order the strides of a single channel otherwise, and convolutions then round otherwise.
        x, y = inputs.index_select(0, rows), targets.index_select(0, rows)
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def _same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-4) for a, b in pairs)


def _data(dataset: str, batches: int | None) -> tuple[Data, str]:
    """The training images without a validation split, and where they come from."""
    section = composed(f"dataset={dataset}")["dataset"]
    channels, *size = section["shape"]
    if os.environ.get("SECATEURS_DATA"):
        data, source = load(section, 0, cache_folder()), "real images"
        images, labels = data.train.inputs, data.train.targets
    else:
        total = batches * BATCH if batches else 54_000
        random = stream(0, "speed", dataset)
        images = torch.randint(256, (total, channels, *size), generator=random, dtype=torch.uint8)
        labels = torch.randint(section["classes"], (total,), generator=random)
        source = "random images"
    chosen = slice(None if batches is None else batches * BATCH)
    split = Split(images[chosen], labels[chosen], section["mean"], section["std"], section["levels"])
    empty = replace(split, inputs=images[:0], targets=labels[:0])
    return Data(dataset, split, empty, empty, section["classes"], tuple(section["shape"])), source
