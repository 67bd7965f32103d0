"""Pruning any network with any method in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.allocation import Allocation
from methods.budgets.budget import KINDS, Budget
from methods.compensation import Compensation
from methods.errors import BadInput
from methods.hooks import TrainingHook
from methods.layers.statistics import Calibration
from methods.pruned import Pruned
from methods.pruner import Pruner
from methods.schedule import Schedule
from secateurs.inputs import Inputs, Samples, called_by_row, given_back, is_plain, own_copy
from secateurs.presets import Method, pruner_of
from secateurs.result import PrunedNetwork

Train = Callable[[nn.Module, Mapping[str, Tensor], int], None]


def prune(
    model: nn.Module,
    inputs: Inputs,
    labels: Tensor,
    method: Method = "spectral",
    *,
    keep: float | None = None,
    compression: float | None = None,
    speedup: float | None = None,
    latency: float | None = None,
    allocation: str | Allocation | None = None,
    compensation: str | Compensation | None = None,
    schedule: str | Schedule | None = None,
    overrides: Sequence[str] = (),
    prune_residual: bool = False,
    seed: int = 0,
    batch_size: int = 256,
    train: Train | None = None,
    initial: nn.Module | None = None,
) -> PrunedNetwork:
    """A pruned copy of ``model`` that meets one budget; ``model`` itself is left untouched.

    Give exactly one of ``keep``, ``compression``, ``speedup`` and ``latency``; each is for the whole model.

    Args:
        model: a trained network, on any device. Its output is a tensor (n, classes) of logits or (n, d) of values, or
            holds one under ``logits`` or as its first entry.
        inputs: (n, ...) training samples that the method may use, preprocessed as the network expects; for a network
            with several arguments, a tuple (positional) or a mapping (by keyword) of tensors of n rows. A thousand
            samples are usual. Never pass validation or test samples.
        labels: (n,) int64 classes, or (n, d) floating-point values; only methods that need curvature read them.
        method: a preset's name (``python run.py --help`` lists them) with the preset's own allocation, compensation and
            schedule; or a selection of your own; or a whole pruner.
        keep: fraction of the prunable units that stays, in (0, 1].
        compression: dense / remaining parameters, at least 1.
        speedup: dense / remaining multiply-accumulates of matrix products and convolutions, at least 1.
        latency: dense / remaining time of a forward pass of 32 samples, measured, at least 1; for methods of nodes.
        allocation: how many units each layer keeps, if not by the method's own allocation; a name or an object.
        compensation: how the remaining units make up for the removed ones, likewise.
        schedule: when units are removed, likewise.
        overrides: options of the preset as on the command line, for instance ``["selection.theta=0.3"]``.
        prune_residual: whether residual streams are pruned too, as one coupled group each.
        seed: root of every random stream of the method.
        batch_size: samples per forward pass.
        train: called as ``train(model, masks, step)`` between the steps of an iterative schedule, to train ``model`` in
            place; weights where a mask of its parameter is False have to stay zero. Without it nothing is trained.
        initial: the network with the weights that a schedule with ``rewind`` goes back to; for methods that prune
            before the training (SNIP) the network as it was initialised, which is pruned instead of ``model``.

    Returns:
        The pruned network, of the class of ``model``, and how it came about.

    Raises:
        BadInput: an unknown method or option, a budget that cannot be reached, parts or samples that do not fit.
        Skipped: the method does not apply to this network; the message names the layer.

    Every preset in conf/method names its method's paper. The default is spectral pruning (Suzuki et al., IJCAI 2020):
    it keeps nodes that reconstruct what the next layer reads, and repairs by least squares.
    """
    budget = _budget({"keep": keep, "compression": compression, "speedup": speedup, "latency": latency})
    pruner = pruner_of(
        method,
        allocation=allocation,
        compensation=compensation,
        schedule=schedule,
        overrides=overrides,
        prune_residual=prune_residual,
    )
    _require_possible(pruner, initial)
    if pruner.schedule.origin == "init" and initial is not None:
        model, initial = initial, None
    own, samples = own_copy(model), Samples(inputs)
    plain, calibration = _calibration(own, samples, labels, seed, batch_size)
    run = pruner.prune if plain else _by_row(pruner, samples)
    found = run(own, calibration, budget, seed, train, initial)
    return PrunedNetwork.of(found, own, samples, pruner)


def _calibration(
    model: nn.Module, samples: Samples, labels: Tensor, seed: int, batch_size: int
) -> tuple[bool, Calibration]:
    """Whether the network takes one tensor and returns one, and the samples in the form that the engine needs."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    plain = is_plain(model, samples, device)
    labels = _labels(labels, len(samples), device)
    return plain, Calibration(samples.for_engine(plain, device), labels, seed=seed, batch_size=batch_size)


def _by_row(pruner: Pruner, samples: Samples) -> Callable[..., Pruned]:
    """:meth:`Pruner.prune` for a network that is called by the row numbers of ``samples``."""

    def prune_by_row(
        model: nn.Module, calibration: Calibration, budget: Budget, seed: int, train: Train | None, *others: Any
    ) -> Pruned:
        with called_by_row(model, samples) as kind:

            def train_in_its_own_way(network: nn.Module, masks: Mapping[str, Tensor], step: int) -> None:
                assert train is not None
                with given_back(network, kind):
                    train(network, masks, step)

            found = pruner.prune(model, calibration, budget, seed, train_in_its_own_way if train else None, *others)
        found.model.__class__ = kind
        return found

    return prune_by_row


def _budget(given: Mapping[str, float | None]) -> Budget:
    chosen = {kind: value for kind, value in given.items() if value is not None}
    if len(chosen) != 1:
        found = " and ".join(f"{kind}={value:g}" for kind, value in chosen.items())
        raise BadInput(
            f"{f'two budgets at once: {found}' if chosen else 'no budget was given'}; expected one of "
            f"{', '.join(KINDS)}: write for instance speedup=2"
        )
    [(kind, value)] = chosen.items()
    return Budget(kind, float(value))


def _require_possible(pruner: Pruner, initial: nn.Module | None) -> None:
    """Raise :class:`BadInput` for schedules that need more than a trained network."""
    if isinstance(pruner.schedule, TrainingHook):
        raise BadInput(
            f"{type(pruner.schedule).__name__} prunes while it trains, by the benchmark's trainer; it cannot prune "
            "a network by itself\ntype python run.py method=... with your model (model._target_=package.Class), or "
            "give schedule='one_shot'"
        )
    if pruner.schedule.origin == "init" and initial is None:
        raise BadInput(
            "this schedule prunes the network as it was initialised, before its training\n"
            "give that network: initial=..., or schedule='one_shot'"
        )
    if pruner.schedule.rewind != "none" and initial is None:
        raise BadInput(
            f"this schedule puts the survivors back to earlier weights (rewind={pruner.schedule.rewind}); "
            "give the network that has them: initial=..., or schedule='one_shot'"
        )


def _labels(labels: Tensor, count: int, device: torch.device) -> Tensor:
    if not isinstance(labels, Tensor) or labels.dim() == 0 or len(labels) != count:
        found = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise BadInput(f"labels are {found}; expected a tensor of {count} rows, one for each sample")
    return labels.to(device) if labels.is_floating_point() else labels.to(device, torch.int64)
