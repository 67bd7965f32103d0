"""Build a method's pruner from its name: the presets of conf/method, shared by the command line and this package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from methods.allocation import Allocation
from methods.compensation import Compensation
from methods.errors import BadInput
from methods.pruner import Pruner
from methods.schedule import Schedule
from methods.selection import Selection

Method = str | Selection[Any] | Pruner


def pruner_of(
    method: Method,
    *,
    allocation: str | Allocation | None = None,
    compensation: str | Compensation | None = None,
    schedule: str | Schedule | None = None,
    overrides: Sequence[str] = (),
    prune_residual: bool = False,
) -> Pruner:
    """The pruner of a method, as the command line would build it.

    Args:
        method: a preset's name, with the preset's own allocation, compensation and schedule; or a selection, with
            uniform allocation, no compensation and one step unless they are given; or a whole pruner.
        allocation: replaces the method's own; a name of conf/allocation or an object.
        compensation: likewise.
        schedule: likewise.
        overrides: options as on the command line, for instance ``["selection.theta=0.3"]``.
        prune_residual: whether residual streams are pruned too, as one coupled group each.

    Raises:
        BadInput: an unknown name or option, or parts that do not fit together.
    """
    parts = {"allocation": allocation, "compensation": compensation, "schedule": schedule}
    if isinstance(method, Pruner):
        if any(part is not None for part in parts.values()) or overrides or prune_residual:
            raise BadInput("method is a Pruner, which has all its parts already; give these to Pruner(...) instead")
        return method
    if isinstance(method, str):
        name = method
    elif isinstance(method, Selection):
        name = "random_edge" if method.unit == "edge" else "random"  # a preset that sets nothing but the selection
        if any(word.lstrip("+~").startswith("selection") for word in overrides):
            raise BadInput("method is a Selection, which has its options already; give them to its class instead")
    else:
        raise BadInput(
            f"method is {type(method).__name__}; expected a preset's name such as 'spectral', a Selection or a Pruner"
        )
    chosen = {part: choice for part, choice in parts.items() if isinstance(choice, str)}
    words = [f"method={name}", *(f"{part}={choice}" for part, choice in chosen.items()), *overrides]
    preset = preset_of([*words, "prune_residual=true"] if prune_residual else words)
    given: dict[str, Any] = {
        part: choice for part, choice in parts.items() if part not in chosen and choice is not None
    }
    for part, kind in (("allocation", Allocation), ("compensation", Compensation), ("schedule", Schedule)):
        if part in given and not isinstance(given[part], kind):
            raise BadInput(f"{part} is {type(given[part]).__name__}; expected a name or an object of {kind.__name__}")
    if isinstance(method, Selection):
        given["selection"] = method
    if not given:
        return preset
    own = {part: getattr(preset, part) for part in ("selection", *parts)}
    return Pruner(**(own | given), prune_residual=prune_residual)


def preset_of(words: Sequence[str]) -> Pruner:
    """The pruner that words such as ``method=spectral`` mean on the command line."""
    from benchmarks.cells.parts import build_pruner

    return build_pruner(configuration(words))


def configuration(words: Sequence[str]) -> dict[str, Any]:
    """The configuration of the cell that ``words`` ask for, composed from conf/ (or SECATEURS_CONF) by Hydra."""
    from benchmarks.settings.home import CONF
    from benchmarks.sweeps.composition import Composer

    with hydra_of_the_caller():
        return Composer(CONF).cell(list(words))


@contextmanager
def hydra_of_the_caller() -> Iterator[None]:
    """Restore the caller's Hydra state afterwards: it is global, and the caller may be a Hydra application itself."""
    from hydra.core.global_hydra import GlobalHydra

    found = GlobalHydra.instance().hydra
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = found
