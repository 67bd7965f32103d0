"""The trials of a cell that is tuned: several runs from the dense network to a fine-tuned one, of which one is kept.

All rates are tried with the preset's options, then each option at the best rate. The best has the highest accuracy on
the validation split (a regression: the lowest loss); ties are broken by the lowest loss, then by order. The test split
is not touched. A trial that fails has its reason in the record and is not chosen; where all fail, the cell fails as
the first did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from benchmarks.training.scoring import Score
from methods.errors import BadInput, Collapsed, Skipped

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: its number, from 0.
        rate: multiple of the rate that pruned networks are trained with.
        options: values by dotted key, in place of the preset's.
    """

    number: int
    rate: float = 1.0
    options: Mapping[str, Any] | None = None


@dataclass
class Found(Generic[Outcome]):
    """What came out of a trial; ``merit`` orders outcomes, larger is better, and ``row`` is for the record."""

    trial: Trial
    outcome: Outcome
    merit: tuple[float, ...]
    row: dict[str, Any]


def search(
    tune: Mapping[str, Any],
    attempt: Callable[[Trial], Outcome],
    score: Callable[[Outcome], Score],
) -> tuple[Outcome, dict[str, Any]]:
    """Try all trials; returns the outcome of the best one, and the record's list of all.

    Args:
        tune: ``rates``, multiples of the fine-tuning rate, and ``options``, settings of the method's own.
        attempt: carries out a trial.
        score: scores an outcome on the validation split.

    Raises:
        BadInput, Collapsed, Skipped: as the first trial did, where no trial has a result.
    """
    best: Found[Outcome] | None = None
    rows: list[dict[str, Any]] = []
    errors: list[Exception] = []

    def carry_out(trial: Trial) -> None:
        nonlocal best
        row = {"rate": trial.rate, "options": dict(trial.options or {}), "accuracy": None, "loss": None, "reason": None}
        rows.append(row)
        try:
            outcome = attempt(trial)
        except (BadInput, Collapsed, Skipped) as error:
            errors.append(error)
            row["reason"] = str(error)
            return
        found = score(outcome)
        row |= {"accuracy": found.accuracy, "loss": found.loss}
        sound = found.loss < float("inf")
        loss = -found.loss if sound else float("-inf")
        merit = (float(sound), loss if found.accuracy is None else found.accuracy, loss)
        if best is None or merit > best.merit:
            best = Found(trial, outcome, merit, row)

    for rate in tune["rates"]:
        carry_out(Trial(len(rows), rate))
    rate = best.trial.rate if best else float(tune["rates"][0])
    for options in tune["options"]:
        carry_out(Trial(len(rows), rate, options))
    if best is None:
        raise errors[0]
    by = "validation loss" if best.row["accuracy"] is None else "validation accuracy"
    return best.outcome, {"trials": len(rows), "by": by, "chosen": best.trial.number, "attempts": rows}
