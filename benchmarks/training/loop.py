"""The training loop that dense training, fine-tuning and every schedule share, on Lightning Fabric."""

from __future__ import annotations

import functools
import logging
import math
import platform
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from benchmarks.storage import checkpoint as store
from benchmarks.training.distillation import Teacher
from benchmarks.training.optimisation import TrainerSettings, build_optimizer, learning_rate
from benchmarks.training.scoring import Score, device_of, evaluate, labelled, loss_of
from methods.errors import BadInput, first_line
from methods.hooks import TrainingHook
from methods.network.reading import keep_modes
from methods.progress import track
from methods.seeds import derive_seed, stream

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from benchmarks.data.splits import Data


LOG = logging.getLogger(__name__)


CHECK_EVERY = 200  # steps between two looks at whether the loss is finite; each look waits for the device


OnEpoch = Callable[[dict[str, float]], None]  # is told the row of each epoch
STATE = "training"  # name of the checkpoint in its folder


@dataclass
class History:
    """How a training went: one row per finished epoch, counted from 1 in the rows and in ``best_epoch``.

    ``best_epoch`` is 0 if no epoch was better than the initial network, whose score is in ``start``.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int | None = None
    seconds: float = 0.0
    collapsed: str | None = None
    start: dict[str, float] | None = None

    @property
    def setback(self) -> str | None:
        """A note that training lost accuracy (a regression: loss) on the validation split; None where it did not."""
        if self.start is None or not self.epochs:
            return None
        name, sign = ("validation_accuracy", 1) if "validation_accuracy" in self.start else ("validation_loss", -1)
        first, last = self.start[name], self.epochs[-1].get(name)
        if last is None or not sign * last < sign * first:
            return None
        what = name.removeprefix("validation_")
        values = f"{first:.2%} to {last:.2%}" if what == "accuracy" else f"{first:.4g} to {last:.4g}"
        stays = "the pruned network as it was" if self.best_epoch == 0 else f"epoch {self.best_epoch}"
        return f"fine-tuning ended with a worse validation {what} than it began with ({values}); kept: {stays}"


@dataclass  # not frozen: Fabric, which hands it to other processes, would refuse that
class Task:
    """What is trained, and how: what every process of a training has to know.

    Attributes are arguments of :func:`benchmarks.training.trainer.fit`, which says what they mean.
    """

    model: nn.Module
    data: Data
    settings: TrainerSettings
    seed: int
    masks: Mapping[str, Tensor]
    checkpoint: Path | None
    label: str
    first_epoch: int
    teacher: Teacher | None = None


def train(fabric: Fabric, task: Task, on_epoch: OnEpoch | None = None, hooks: Sequence[TrainingHook] = ()) -> History:
    """What :func:`fit` does, in each process that ``fabric`` has launched."""
    model, device = task.model, device_of(task.model)
    with keep_modes(model), torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
        try:
            training = _Training(fabric, task, hooks)
            training.run(on_epoch)
        finally:
            model.to(device)
            if task.settings.channels_last:  # the memory layout is chosen where speed is measured
                model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as below
    return training.history


class _Training:
    """The state of one training, and its loop."""

    def __init__(self, fabric: Fabric, task: Task, hooks: Sequence[TrainingHook]) -> None:
        self.fabric, self.task, self.hooks = fabric, task, hooks
        self.model, self.data, self.settings = task.model, task.data, task.settings
        self.teacher = task.teacher.placed(fabric.device) if task.teacher else None
        self.history = History()
        self.best: dict[str, Tensor] | None = None
        self.best_score: tuple[float, ...] = ()
        self.steps_per_epoch = self.settings.steps_per_epoch(len(self.data.train))
        self.identity = self._identity() if task.checkpoint else ""
        self._set_up({})
        if task.checkpoint:
            self._resume(task.checkpoint)
        if self.settings.include_start and self.history.start is None and not self.history.epochs:
            self._remember_start()

    def _set_up(self, old_state: Mapping[Tensor, dict[str, Any]]) -> None:
        """Hand the network as it is now to Fabric and build its optimizer; again whenever a hook has changed it."""
        if self.settings.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no stub of it
        self.model.train()
        self.wrapped = self.fabric.setup_module(self.model)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.parameters, self.settings)
        for parameter in self.parameters:
            if parameter in old_state:
                self.optimizer.state[parameter] = old_state[parameter]
        named = dict(self.model.named_parameters())
        self.masked = [(named[name], mask.to(named[name])) for name, mask in self.task.masks.items()]
        self._zero_masked()

    def run(self, on_epoch: OnEpoch | None) -> None:
        """All epochs that are not done yet."""
        done = self.task.first_epoch + len(self.history.epochs)
        remaining = (self.settings.epochs - done) * self.steps_per_epoch
        with _ticks(self.task.label or self.data.name, remaining) as ticks:
            while done < self.settings.epochs and not self.history.collapsed:
                row = self._epoch(done, ticks)
                if row is not None:
                    self.history.epochs.append(row)
                if self.task.checkpoint and self.fabric.is_global_zero:
                    self._save(self.task.checkpoint)
                if row is not None and on_epoch:
                    on_epoch(row)
                done += 1
        if self.best is not None:
            _load(self.model, self.best)

    def _epoch(self, epoch: int, ticks: Iterator[int]) -> dict[str, float] | None:
        """Train one epoch and validate; None if the loss is no longer finite."""
        started = time.perf_counter()
        self.model.train()
        train_loss = self._train(epoch, ticks)
        if not math.isfinite(train_loss):
            self.history.collapsed = f"the training loss is not finite in epoch {epoch + 1}"
            return None
        changed = [hook.on_epoch(self.model, self.optimizer, epoch) for hook in self.hooks]
        if any(changed):
            self._set_up(self.optimizer.state)
            self.best, self.best_score = None, ()
        row = {"epoch": epoch + 1, "lr": self.optimizer.param_groups[0]["lr"], "train_loss": train_loss}
        score = None
        if len(self.data.validation):
            score = evaluate(self.model, self.data.validation, device=self.fabric.device)
            if not math.isfinite(score.loss):
                self.history.collapsed = f"the validation loss is not finite after epoch {epoch + 1}"
                return None
            row |= {"validation_accuracy": score.accuracy, "validation_loss": score.loss}
        self._remember_if_best(epoch, score)
        row["seconds"] = time.perf_counter() - started
        self.history.seconds += row["seconds"]
        return row

    def _train(self, epoch: int, ticks: Iterator[int]) -> float:
        """One pass over the training data; returns the mean loss, which is not finite if any batch's was not."""
        rank, world = self.fabric.global_rank, self.fabric.world_size
        torch.manual_seed(derive_seed(self.task.seed, "dropout", epoch, rank))
        order = stream(self.task.seed, "train", epoch)
        settings, first, count = self.settings, epoch * self.steps_per_epoch, 0
        total = torch.zeros((), device=self.fabric.device)
        batches = self.data.train.batches(
            settings.batch_size,
            generator=order,
            augment=settings.augment,
            device=self.fabric.device,
            share=(rank, world),
        )
        for step, (x, y) in zip(range(first, first + self.steps_per_epoch), batches, strict=False):
            size = min(settings.batch_size, len(self.data.train) - (step - first) * settings.batch_size)
            if settings.channels_last and x.ndim == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            own = labelled(y)
            loss = self._step(x, y, step, len(x) * world / size)
            total += loss.detach() * own
            count += own
            next(ticks, None)
            # One of several devices must not stop on its own: the others would wait for its gradients.
            if world == 1 and (step + 1) % CHECK_EVERY == 0 and not math.isfinite(total.item()):
                break
        sums = self.fabric.all_reduce(torch.stack((total, total.new_tensor(count))), reduce_op="sum")
        return (sums[0] / sums[1]).item()

    def _step(self, x: Tensor, y: Tensor, step: int, share: float) -> Tensor:
        """One update. ``share`` weighs this device's mean so that the mean over devices is that of the whole batch."""
        rate = learning_rate(self.settings, step, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        outputs = self.wrapped(x)
        plain = loss = loss_of(outputs, y, label_smoothing=self.settings.label_smoothing)
        if self.teacher is not None:
            loss = self.teacher.loss(x, outputs, plain)
        for hook in self.hooks:
            loss = hook.on_step_loss(self.model, x, y, loss, step)
        self.fabric.backward(loss if share == 1 else loss * share)
        for parameter, mask in self.masked:
            if parameter.grad is not None:
                parameter.grad.mul_(mask)
        for hook in self.hooks:
            hook.before_step(self.model, self.optimizer, step)
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        self.optimizer.step()
        self._zero_masked()
        for hook in self.hooks:
            hook.after_step(self.model, self.optimizer, step)
        return plain

    @torch.no_grad()
    def _zero_masked(self) -> None:
        for parameter, mask in self.masked:
            parameter.mul_(mask)

    def _remember_start(self) -> None:
        """Keep the initial network as the first candidate; without a validation split there is nothing to judge by."""
        if not len(self.data.validation):
            return
        score = evaluate(self.model, self.data.validation, device=self.fabric.device)
        named = {"validation_accuracy": score.accuracy, "validation_loss": score.loss}
        self.history.start = {name: value for name, value in named.items() if value is not None}
        if math.isfinite(score.loss):
            self._remember_if_best(-1, score)

    def _remember_if_best(self, epoch: int, score: Score | None) -> None:
        ranks = () if score is None else tuple(v for v in (score.accuracy, -score.loss) if v is not None)
        if self.best is None or ranks >= self.best_score:
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
            self.best_score, self.history.best_epoch = ranks, epoch + 1

    def _identity(self) -> str:
        """A text that is equal for checkpoints of the same training."""
        facts = {
            "settings": self.settings.training_facts(),
            "seed": self.task.seed,
            "data": [self.data.name, len(self.data.train), len(self.data.validation)],
            "targets": store.checksum(store.to_bytes({"y": self.data.train.targets})),
            "weights": store.checksum(store.to_bytes(self.model.state_dict())),
            "hooks": [type(hook).__qualname__ for hook in self.hooks],
            "masks": store.checksum(store.to_bytes(dict(self.task.masks))),
        } | ({"first_epoch": self.task.first_epoch} if self.task.first_epoch else {})
        if (teacher := self.task.teacher) is not None:
            taught = store.checksum(store.to_bytes(teacher.model.state_dict()))
            facts["teacher"] = [teacher.temperature, teacher.weight, taught]
        return store.checksum(repr(facts).encode())

    def _save(self, folder: Path) -> None:
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        parts: dict[str, Any] = {"model": self.model.state_dict(), "best": self.best or {}, "optimizer": {}}
        for parameter, state in self.optimizer.state.items():
            parts["optimizer"] |= {f"{names[parameter]}|{key}": value for key, value in state.items()}
        parts |= {f"hook{i}": hook.state() for i, hook in enumerate(self.hooks)}
        flat = {f"{part}/{key}": value for part, values in parts.items() for key, value in values.items()}
        tensors = {key: value for key, value in flat.items() if isinstance(value, Tensor)}
        facts = {
            "identity": self.identity,
            "history": asdict(self.history),
            "best_score": self.best_score,
            "values": {key: value for key, value in flat.items() if key not in tensors},
        }
        store.save(folder, STATE, tensors, facts)

    def _resume(self, folder: Path) -> None:
        stored = store.load(folder, STATE)
        if stored is None:
            return
        tensors, facts = stored
        if facts.get("identity") != self.identity:
            LOG.warning("the checkpoint in %s belongs to another training; starting afresh", folder)
            return
        parts: dict[str, dict[str, Any]] = {"best": {}}
        for key, value in (facts["values"] | tensors).items():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = value.to(self.fabric.device) if isinstance(value, Tensor) else value
        if self.hooks:
            for i, hook in enumerate(self.hooks):
                hook.restore(self.model, parts.get(f"hook{i}", {}))
            self._set_up({})
        _load(self.model, parts["model"])
        named = dict(self.model.named_parameters())
        for key, value in parts.get("optimizer", {}).items():
            name, _, entry = key.rpartition("|")
            self.optimizer.state[named[name]][entry] = value
        self.best, self.best_score = parts["best"] or None, tuple(facts["best_score"])
        self.history = History(**facts["history"])
        LOG.info("resuming after epoch %d of %d", len(self.history.epochs), self.settings.epochs)


@contextmanager
def _ticks(label: str, count: int) -> Iterator[Iterator[int]]:
    """A progress display that advances with every ``next``; it is taken away however the training ends."""
    ticks = track(range(count), f"training {label}, batches", count)
    try:
        yield ticks
    finally:
        if isinstance(ticks, Generator):
            ticks.close()


@torch.no_grad()
def _load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    model.load_state_dict(state)  # copies into the model's own tensors, never shares them


def fabric_of(settings: TrainerSettings) -> Fabric:
    """Fabric for the hardware that ``settings`` name; not launched yet."""
    from lightning_fabric import Fabric

    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed" if settings.precision == "bf16" else "32-true"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*srun.*")  # on a login node nobody wants Fabric to use it
            fabric = Fabric(
                accelerator=settings.accelerator,
                devices=settings.devices,
                strategy=settings.strategy,
                precision=precision,
            )
    except (ValueError, TypeError, RuntimeError) as error:
        wanted = f"accelerator={settings.accelerator}, devices={settings.devices}, strategy={settings.strategy}"
        raise BadInput(f"the trainer cannot run with {wanted}: {first_line(error)}") from None
    if settings.precision == "bf16" and fabric.device.type == "cpu":
        warn_of_emulation()
    return fabric


@functools.cache
def warn_of_emulation() -> None:
    """Warn once that bf16 costs time instead of saving it: x86 processors compute in it only from AVX-512 on."""
    capability = torch.backends.cpu.get_cpu_capability()
    if platform.machine().lower() in ("x86_64", "amd64") and capability in ("DEFAULT", "NO AVX", "AVX2"):
        LOG.warning(
            "precision=bf16 is emulated on this processor (%s) and several times slower than fp32; "
            "type trainer.train.precision=fp32",
            capability,
        )
