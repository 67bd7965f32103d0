"""Checks for your own pruning methods, in the manner of scikit-learn's ``check_estimator``.

    from secateurs.testing import check_method
    print(check_method(MySelection()))

or, for a method with a preset, ``python -m benchmarks.conformance method=mine``.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from methods.errors import BadInput, Skipped, Unreachable, first_line
from methods.progress import track
from methods.pruner import Pruner
from secateurs.presets import Method, pruner_of
from secateurs.promises import PLACES, PROMISES, Promise, Trial

__all__ = ["BrokenPromise", "Check", "Report", "check_method", "check_one", "trials"]

MARKS = {"kept": "✓", "broken": "✗", "refused": "–"}


class BrokenPromise(AssertionError):
    """Raised when a method breaks a promise that all methods make; the message is the report."""


@dataclass(frozen=True)
class Check:
    """One promise of a method on one network.

    Attributes:
        promise: its name.
        network: a name of :mod:`secateurs.examples`.
        status: ``kept``; ``broken``; or ``refused``, where the method says that it does not apply to the network.
        message: what was found and what was expected, or the method's reason.
    """

    promise: str
    network: str
    status: Literal["kept", "broken", "refused"]
    message: str = ""


@dataclass
class Report:
    """All checks of one method; printed, a table with an explanation of each failure below it."""

    method: str
    checks: list[Check] = field(default_factory=list)

    @property
    def broken(self) -> list[Check]:
        """The promises that are not kept."""
        return [check for check in self.checks if check.status == "broken"]

    @property
    def passed(self) -> bool:
        """Whether no promise is broken and at least one was kept: a method that refuses everything proves nothing."""
        return not self.broken and any(check.status == "kept" for check in self.checks)

    def __str__(self) -> str:
        """The table, the reasons, and one line that sums up."""
        found = {(check.promise, check.network): check for check in self.checks}
        promises = list(dict.fromkeys(check.promise for check in self.checks))
        networks = [place for place in PLACES if any(check.network == place for check in self.checks)]
        width = max(map(len, promises), default=0)
        lines = [f"{self.method}", "", " " * width + "".join(f"  {network:>11}" for network in networks)]
        for promise in promises:
            marks = [MARKS[found[promise, place].status] if (promise, place) in found else " " for place in networks]
            lines.append((f"{promise:<{width}}" + "".join(f"  {mark:>11}" for mark in marks)).rstrip())
        lines += ["", *self._reasons()]
        count = {status: sum(check.status == status for check in self.checks) for status in MARKS}
        if count["refused"]:
            lines.append(f"{count['refused']} refused: the method says that it does not apply to these networks.")
        if self.broken:
            lines.append(f"{count['broken']} of {len(self.checks)} checks failed.")
        elif self.passed:
            lines.append(f"All {count['kept']} checks passed.")
        else:
            lines.append("The method refuses every network, so that nothing was checked.")
        return "\n".join(lines)

    def _reasons(self) -> Iterator[str]:
        for status in ("broken", "refused"):
            places: dict[tuple[str, str], list[str]] = {}
            for check in self.checks:
                if check.status == status:
                    what = check.promise if status == "broken" else "refused"
                    networks = places.setdefault((what, check.message), [])
                    networks += [check.network] if check.network not in networks else []
            for (what, message), networks in places.items():
                indented = message.replace("\n", "\n    ")
                yield f"{MARKS[status]} {what} ({', '.join(networks)}):\n    {indented}"


def check_method(
    method: Method,
    *,
    overrides: Sequence[str] = (),
    stochastic: bool | None = None,
    on_fail: Literal["raise", "report"] = "raise",
) -> Report:
    """Check whether a pruning method keeps the promises that every method of the suite keeps, on five small networks.

    The promises are: the budget is met (units, parameters, MACs; within 1 %, or within 5 % with a note), also in
    steps; the result depends on the seed alone; the original is untouched; removing nodes equals masking them; keep=1
    changes nothing; scores are finite and of the right shape, and exactly the wanted number of units stays.

    Args:
        method: a preset's name (also one from the configuration folder in SECATEURS_CONF), a selection, or a pruner.
        overrides: options of a preset as on the command line, for instance to make it quick.
        stochastic: whether the method draws random numbers: if True, another seed has to give another result; if
            False, the same one; None checks neither.
        on_fail: ``raise``, or ``report`` to return the report even if a promise is broken.

    Returns:
        The report; ``print`` it to read it.

    Raises:
        BrokenPromise: a promise is broken, or the method refuses all networks; the message is the report.
        BadInput: there is no such method.
    """
    if on_fail not in ("raise", "report"):
        raise BadInput(f"on_fail={on_fail}; expected 'raise' or 'report'")
    pruner = pruner_of(method, overrides=overrides)
    report = Report(_title(method, pruner))
    every = list(trials(pruner, stochastic))
    for promise, trial in track(every, f"checking {report.method}", len(every)):
        report.checks.append(check_one(promise, trial))
    if on_fail == "raise" and not report.passed:
        raise BrokenPromise(f"\n{report}")
    return report


def trials(pruner: Pruner, stochastic: bool | None = None) -> Iterator[tuple[Promise, Trial]]:
    """Every promise that applies to a method, with each network on which it does."""
    for promise in PROMISES:
        for network in PLACES:
            trial = Trial(pruner, network, stochastic)
            if promise.concerns(trial):
                yield promise, trial


def check_one(promise: Promise, trial: Trial) -> Check:
    """Check one promise on one network; whatever the method raises is caught."""
    try:
        promise.check(trial)
    except AssertionError as error:
        return Check(promise.name, trial.network, "broken", str(error) or _place(error))
    except Exception as error:  # a method may fail in any way
        if isinstance(error, Skipped) and not isinstance(error, Unreachable):  # all budgets here can be met
            return Check(promise.name, trial.network, "refused", str(error))
        return Check(
            promise.name, trial.network, "broken", f"{type(error).__name__}: {first_line(error)} ({_place(error)})"
        )
    return Check(promise.name, trial.network, "kept")


def _place(error: BaseException) -> str:
    """File and line where the error arose."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(last.filename).name}, line {last.lineno}"


def _title(method: Method, pruner: Pruner) -> str:
    parts = [
        type(part).__name__ for part in (pruner.selection, pruner.allocation, pruner.compensation, pruner.schedule)
    ]
    name = f"{method}: " if isinstance(method, str) else ""
    return f"{name}{', '.join(parts)}"
