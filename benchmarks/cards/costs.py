"""What one pruning of ResNet-20 costs with each method: measured once, kept in a file, shown on the methods' cards."""

from __future__ import annotations

import json
import multiprocessing
import resource
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.storage.paths import REPOSITORY, write_atomically

FILE = REPOSITORY / "results" / "costs.json"
SAMPLES = 1000
LIMIT = 120  # seconds of processor time after which a method is given up
LONG = 60  # seconds above which a card has to say why
SETTING_UP = 15  # seconds of processor time that the child may need in addition


@dataclass(frozen=True)
class Cost:
    """Seconds of processor time; ``more`` where the measurement was ended there; ``refused`` is why there are none."""

    seconds: float | None
    more: bool = False
    refused: str | None = None

    def told(self) -> str:
        """In a table: ``4.2 s``, ``> 120 s``, or ``does not apply``."""
        if self.seconds is None:
            return "does not apply"
        return (
            f"> {self.seconds:.0f} s"
            if self.more
            else f"{self.seconds:.2g} s"
            if self.seconds < 10
            else f"{self.seconds:.0f} s"
        )

    @property
    def long(self) -> bool:
        """Whether it is more than a minute."""
        return self.seconds is not None and (self.more or self.seconds > LONG)


def known() -> tuple[str, dict[str, Cost]]:
    """The machine that the file's figures were measured on, and the figures by method; empty without a file."""
    if not FILE.is_file():
        return "", {}
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    return stored["machine"], {name: Cost(**row) for name, row in stored["costs"].items()}


def keep(found: Mapping[str, Cost]) -> None:
    """Write figures into the file, which keeps those of other methods."""
    _, before = known()
    rows = {name: vars(cost) for name, cost in sorted({**before, **found}.items())}
    text = json.dumps({"machine": machine(), "costs": rows}, indent=1, ensure_ascii=False)
    write_atomically(FILE, f"{text}\n")


def machine() -> str:
    """The processor, and the versions that set the pace."""
    from benchmarks.records.fingerprint import fingerprint

    own = fingerprint()
    return f"{own['cpu'] or 'an unknown processor'}, one thread, PyTorch {own['torch']}"


def measure(name: str) -> Cost:
    """:func:`seconds_of` in a separate process, for at most ``LIMIT`` seconds of its processor time."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_limited, args=(name, theirs))
    child.start()
    theirs.close()
    try:
        cost: Cost = ours.recv()
    except EOFError:
        cost = Cost(LIMIT, more=True)
    child.join()
    if not cost.more and child.exitcode:
        raise RuntimeError(f"{name} could not be measured: its process ended with code {child.exitcode}")
    if cost.more and child.exitcode != -signal.SIGXCPU:
        raise RuntimeError(f"{name} could not be measured; see above")
    return Cost(LIMIT, more=True) if cost.seconds is not None and cost.seconds > LIMIT else cost


def _limited(name: str, answer: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT + SETTING_UP, LIMIT + SETTING_UP + 5))
    answer.send(seconds_of(name))


def seconds_of(name: str, samples: int = SAMPLES, width: float = 1.0) -> Cost:
    """Prune half of the units of ResNet-20 in one step, with its defaults: processor seconds of this process.

    Args:
        name: the name of the method.
        samples: the samples of calibration, random images of CIFAR-10's shape with random labels.
        width: the width of the network; 1 is ResNet-20's.
    """
    import torch

    from benchmarks.models import build
    from methods.budgets.budget import Budget
    from methods.errors import Skipped
    from methods.layers.statistics import Calibration
    from methods.seeds import stream
    from secateurs.presets import configuration, pruner_of

    config: dict[str, Any] = configuration(["model=resnet20", "dataset=cifar10", f"model.width={width}"])
    model = build(config["model"], tuple(config["dataset"]["shape"]), 10, 0).eval()
    random = stream(0, "cost")
    inputs = torch.randn(samples, 3, 32, 32, generator=random)
    data = Calibration(inputs, torch.randint(10, (samples,), generator=random))
    pruner = pruner_of(name, schedule="one_shot")
    torch.set_num_threads(1)
    started = time.process_time()
    try:
        pruner.prune(model, data, Budget("keep", 0.5))
    except Skipped as skipped:
        return Cost(None, refused=str(skipped).splitlines()[0])
    return Cost(round(time.process_time() - started, 2))
