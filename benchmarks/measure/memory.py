"""Measure the peak memory of inference and of pruning, each in its own process.

A process never returns all the memory that it once used, and memory that it already holds hides what is needed now. So
the figure is taken in a fresh process that does nothing else: the peak of its resident memory minus the level before
the task. For inference this is the memory of the activations, to which the bytes of the weights are added; for pruning
it is what the method needs in addition to the dense network and the calibration samples, which it is given.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from benchmarks.storage.checkpoint import unshared
from benchmarks.storage.paths import REPOSITORY
from methods.errors import BadInput

if TYPE_CHECKING:
    from benchmarks.data.tokens import Tokens

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PATIENCE = 3600  # seconds
# Make large freed blocks go back to the system at once, so that each counts again when it is needed again.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def measure_memory(
    dense: nn.Module,
    pruned: nn.Module,
    config: Mapping[str, Any],
    shape: Sequence[int],
    classes: int,
    tokens: Tokens | None = None,
) -> dict[str, Any]:
    """Measure the memory of inference with both networks at batch size ``config["measure"]["memory"]``, and of pruning.

    Returns:
        ``batch``, ``dense_mb``, ``pruned_mb``, ``prune_mb``, and a ``note`` where one could not be measured.
    """
    batch = check_memory(config)
    figures: dict[str, Any] = {"batch": batch}
    notes = []
    for name, model in (("dense_mb", dense), ("pruned_mb", pruned)):
        figures[name], note = inference_memory(model, config["model"], shape, classes, batch, tokens)
        notes.append(note)
    figures["prune_mb"], note = in_child({"what": "pruning", "config": config})
    notes.append(note)
    return figures | {"note": "; ".join(sorted({note for note in notes if note})) or None}


def check_memory(config: Mapping[str, Any]) -> int:
    """The batch size that ``measure.memory`` asks for; raise :class:`BadInput` if it is not a positive integer."""
    batch = config["measure"]["memory"]
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise BadInput(f"measure.memory={batch}; expected a batch size, for instance measure.memory=32, or null")
    return batch


def inference_memory(
    model: nn.Module,
    model_cfg: Mapping[str, Any],
    shape: Sequence[int],
    classes: int,
    batch: int,
    tokens: Tokens | None = None,
) -> tuple[float | None, str | None]:
    """Megabytes that one forward pass of ``batch`` samples takes, weights included; or None, and the reason."""
    from benchmarks.models.saved import save_network

    with tempfile.TemporaryDirectory() as folder:
        try:
            save_network(Path(folder), model, model_cfg, shape, classes, tokens=tokens)
        except BadInput as error:
            return None, str(error)
        activations, note = in_child({"what": "inference", "folder": folder, "batch": batch})
    if activations is None:
        return None, note
    weights = sum(tensor.numel() * tensor.element_size() for tensor in unshared(model).values())
    return activations + weights / 2**20, note


def in_child(request: Mapping[str, Any]) -> tuple[float | None, str | None]:
    """Megabytes that a task takes in its own process, in which ``main`` reads the request; or None, and the reason."""
    environment = {**os.environ, **ALLOCATOR, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    try:
        child = subprocess.run(
            [sys.executable, "-c", "from benchmarks.measure.memory import main; main()"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"memory of {request['what']}: {type(error).__name__}"
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        return None, f"memory of {request['what']} was not measured: {last[:200]}"
    return float(json.loads(child.stdout.splitlines()[-1])["mb"]), None


def growth(task: Callable[[], object]) -> float:
    """Megabytes by which the peak resident memory of this process exceeds its initial level while ``task`` runs."""
    gc.collect()
    _give_back()
    before = _resident("VmRSS")
    try:
        RESET.write_text("5")  # reset the peak
    except OSError:
        before = max(before, _resident("VmHWM"))
    task()
    return max(0.0, _resident("VmHWM") - before)


def _resident(field: str) -> float:
    """Megabytes of resident memory: current (``VmRSS``) or peak (``VmHWM``; outside Linux always the peak)."""
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _give_back() -> None:
    """Ask the C library to return free memory to the system, where it can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def inference_task(request: Mapping[str, Any]) -> Callable[[], object]:
    """A forward pass of the saved network in ``request``, after one that sets the libraries up."""
    import torch

    from benchmarks.measure.runtimes.eager import in_inference_mode
    from benchmarks.models.saved import load_network, probe, read_network, tokens_in

    torch.set_num_threads(1)
    description, _ = read_network(Path(request["folder"]))
    network = load_network(request["folder"])
    tokens = tokens_in(description)
    in_inference_mode(network, probe(description["shape"], 1, tokens))()  # what libraries set up once is not counted
    return in_inference_mode(network, probe(description["shape"], request["batch"], tokens))


# By name, so that a child of one kind does not import what only the other needs.
TASKS = {
    "inference": "benchmarks.measure.memory:inference_task",
    "pruning": "benchmarks.cells.pruning_memory:pruning_task",
}


def main() -> None:
    """Carry out, in the child process, the request on standard input, and print the megabytes as JSON."""
    request = json.load(sys.stdin)
    module, _, name = TASKS[request["what"]].partition(":")
    task = getattr(importlib.import_module(module), name)(request)
    sys.stdout.write(json.dumps({"mb": growth(task)}) + "\n")
