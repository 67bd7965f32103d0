"""Describe what produced a number: versions, processor, threads, precision, commit; no machine, user or folder name."""

import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import secateurs
from benchmarks.storage.paths import REPOSITORY

PACKAGES = ("torch", "torch_pruning", "numpy")
SETS_THE_PACE = ("cpu", "cores", "threads", "gpu", "precision", "torch", "platform")
CODE = ("methods", "benchmarks", "secateurs", "hydra_plugins", "conf", "run.py")


def fingerprint(precision: str | None = None) -> dict[str, Any]:
    """The software and hardware of this process.

    Args:
        precision: the number format of training, as the trainer names it.
    """
    import torch

    commit, dirty = _commit()
    return {
        "secateurs": secateurs.__version__,
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "platform": f"{platform.system()}-{platform.machine()}",
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "precision": precision,
        "commit": commit,
        "dirty": dirty,
    }


def comparable(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether latencies measured under the two fingerprints may be ranked together."""
    return all(first.get(name) == second.get(name) for name in SETS_THE_PACE)


def pace(mark: Mapping[str, Any]) -> tuple[Any, ...]:
    """The part of a fingerprint that determines a network's speed; equal if and only if two are :func:`comparable`."""
    return tuple(mark.get(name) for name in SETS_THE_PACE)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return None


@cache
def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache  # the code of a process is the code at its start, whatever is committed while it runs
def _commit() -> tuple[str | None, bool | None]:
    top = _git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != REPOSITORY:  # installed as a package, perhaps inside another repository
        return None, None
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", *CODE)
    return commit, None if changes is None else bool(changes)


def _git(*words: str) -> str | None:
    try:
        command = ["git", "-C", str(REPOSITORY), *words]
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return outcome.stdout.strip() if outcome.returncode == 0 else None
