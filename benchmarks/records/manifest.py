"""Manifests: the planned cells of a sweep, from which missing ones are found."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.records.store import Problem
from benchmarks.storage.paths import safe_name, write_atomically
from benchmarks.storage.reading import Unfit, content_of, fault_of, plain_json

FOLDER = ".sweeps"
LONGEST = 500_000_000  # bytes; a cell has some hundreds
RUNNING = ".running"  # folder of the leases of cells that are being run


class PlannedCell(BaseModel):
    """One cell of a sweep; ``overrides`` are the command-line words that ask for it."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(pattern=r"^[0-9a-f]{16}$")
    dataset: str
    model: str
    method: str
    budget: dict[str, float] = Field(default_factory=dict)
    seed: int = Field(ge=-(2**63), lt=2**63)  # boards keep it in 64 bits
    overrides: list[str] = Field(default_factory=list)


class Manifest(BaseModel):
    """A named sweep, the command that started it, and its cells."""

    model_config = ConfigDict(extra="forbid")

    name: str
    command: str
    cells: list[PlannedCell]


def write_manifest(runs: Path, manifest: Manifest) -> Path:
    """Write ``manifest`` to ``<runs>/.sweeps/<name>.json``; a sweep of the same name is replaced."""
    path = runs / FOLDER / f"{safe_name(manifest.name)}.json"
    write_atomically(path, manifest.model_dump_json(indent=1) + "\n")
    return path


def read_manifests(runs: Path) -> tuple[list[Manifest], list[Problem]]:
    """All sweeps under ``runs``, sorted by name, and the files that are not manifests."""
    manifests, problems = [], []
    for path in sorted((runs / FOLDER).glob("*.json")):
        try:
            manifests.append(Manifest.model_validate(plain_json(content_of(path, LONGEST))))
        except FileNotFoundError:  # replaced
            continue
        except (Unfit, ValidationError) as error:
            problems.append(Problem(path, f"not a sweep's manifest ({fault_of(error)})"))
    return manifests, problems
