"""Named reproductions of published tables and figures, one file each, discovered in folders of related papers.

A module there has a docstring whose first line says what it reproduces, a ``PAPER``,
``run(work: Workplace) -> Outcome``, and ``figures(outcome: Outcome) -> dict[str, Sheet]``.
``python -m benchmarks.reproduce NAME`` runs it and stores what came out under ``results/reproductions/NAME/``; figures
are drawn from what is stored and from nothing else, so that they can be drawn again without running anything.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from methods.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.records.schema import Record
    from benchmarks.sweeps.composition import Composer

FINE_TUNING = (
    "trainer.finetune.include_start=null",
    "trainer.finetune.clip_norm=${trainer.train.clip_norm}",
    "trainer.finetune.warmup_epochs=0",
)
"""Words for fine-tuning as papers have it: from the first step at the full rate, gradients as in the dense training."""


class NotStored(BadInput):
    """A figure needs a number that was not stored: only running the reproduction again gives it."""


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, whether it was seen, and the figures that show it.

    ``seen`` is None where the run cannot decide (too few repeats, a setting that does not apply).
    """

    text: str
    seen: bool | None
    evidence: str


@dataclass
class Outcome:
    """What a reproduction found.

    Attributes:
        table: one row per setting; the columns ``published``, ``ours``, ``std``, ``n`` and ``difference`` where there
            is a published number, whatever identifies the setting before them.
        claims: the paper's statements, seen or not.
        setting: how ours differs from the paper's, in sentences.
        levels: single numbers that figures need, such as ``dense``, the accuracy of the unpruned network.
        numbers: further tables that figures need, by name.
    """

    table: pd.DataFrame
    claims: list[Claim] = field(default_factory=list)
    setting: str = ""
    levels: dict[str, float] = field(default_factory=dict)
    numbers: dict[str, pd.DataFrame] = field(default_factory=dict)

    def level(self, name: str) -> float:
        """A single number.

        Raises:
            NotStored: there is none of this name.
        """
        if name not in self.levels:
            raise NotStored(f"the level '{name}' is not stored")
        return self.levels[name]

    def numbers_of(self, name: str) -> pd.DataFrame:
        """A further table.

        Raises:
            NotStored: there is none of this name.
        """
        if name not in self.numbers:
            raise NotStored(f"{name}.csv is not stored")
        return self.numbers[name]


@dataclass(frozen=True)
class Workplace:
    """Where a reproduction works.

    Attributes:
        folder: for what it leaves behind.
        results: the root of the records.
        cache: the root of all caches.
        quick: a smaller version for trying out and for tests; its outcome is not stored among the results.
    """

    folder: Path
    results: Path = Path("results")
    cache: Path = Path(".cache")
    quick: bool = False

    @property
    def _folders(self) -> list[str]:
        return [f"paths.results={self.results}", f"paths.cache={self.cache}"]

    @functools.cached_property
    def _composer(self) -> Composer:
        from benchmarks.settings.home import CONF
        from benchmarks.sweeps.composition import Composer

        return Composer(CONF)

    def config(self, words: Sequence[str]) -> dict[str, Any]:
        """The configuration of the cell that the command-line ``words`` describe, fine-tuned as papers have it."""
        return self._composer.cell([*FINE_TUNING, *words, *self._folders])

    def cells(self, words: Sequence[str], recipe: Sequence[str] = FINE_TUNING) -> list[Record]:
        """Run the sweep that the command-line ``words`` ask for, as far as it is missing; its records in order.

        Fine-tuning is as papers have it unless ``recipe`` says otherwise; a method's own repair and allocation, where
        these are not the preset's, stand in the words (``# As published:`` in the method's file).

        Raises:
            BadInput: a cell failed, or has no record: a table without it would be another table.
        """
        from benchmarks.records.store import Store
        from benchmarks.sweeps.application import run
        from benchmarks.sweeps.request import Request

        outcome = run(Request([*recipe, *words, *self._folders], multirun=True, concluded=False))
        store = Store(self.results / "runs", self.results / "cells")
        found = [store.find(cell.key, committed=True) for cell in outcome.cells]
        records = [record for record in found if record is not None]
        for record in records:
            if record.status == "failed":
                raise BadInput(f"cell {record.key} ({record.dataset}, {record.method}) failed: {record.reason}")
        if outcome.faults or len(records) < len(outcome.cells):
            why = next(iter(outcome.faults), "run it again to see why")
            raise BadInput(f"{len(outcome.cells) - len(records)} of {len(outcome.cells)} cells have no record: {why}")
        return records


def names() -> list[str]:
    """All reproductions there are."""
    return sorted(_modules())


def module_of(name: str) -> ModuleType:
    """The module of one reproduction."""
    return importlib.import_module(_modules()[name])


@functools.cache
def _modules() -> dict[str, str]:
    """The module of each name; families of papers are folders."""
    families = [Path(__file__).parent / module.name for module in pkgutil.iter_modules(__path__) if module.ispkg]
    return {
        module.name: f"{__name__}.{family.name}.{module.name}"
        for family in families
        for module in pkgutil.iter_modules([str(family)])
        if not module.name.startswith("_")
    }


def summary(module: Any) -> str:
    """First line of a reproduction's docstring."""
    return (module.__doc__ or "").strip().splitlines()[0]
