"""From a cell's configuration to the objects it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from benchmarks.settings.arguments import fit, fitted, imported
from benchmarks.settings.home import PARTS
from benchmarks.storage.paths import require_name
from methods.allocation import Rounded
from methods.budgets.budget import Budget
from methods.errors import BadInput
from methods.pruner import Pruner
from methods.schedule import Schedule


def build_pruner(config: Mapping[str, Any]) -> Pruner:
    """The pruning method that the parts of ``config`` make up.

    Raises:
        BadInput: if a part refuses its options, or names a class that is not there.
    """
    sections = {name: _section(config, name) for name in PARTS}
    multiple = sections["allocation"].pop("round_to", None)
    parts = {name: build(section, name) for name, section in sections.items()}
    if multiple is not None:
        parts["allocation"] = Rounded(parts["allocation"], fit(multiple, int, "allocation.round_to", 8))
    return Pruner(**parts, prune_residual=bool(config.get("prune_residual")))


def _section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(config[name], Mapping):
        raise BadInput(
            f"{name}={config[name]} is not a section of options; choose a method as a whole, e.g. method=magnitude, "
            f"or give one option, {name}.<option>=<value>"
        )
    return dict(config[name])


def _factory(section: Mapping[str, Any]) -> Callable[..., Any] | None:
    """What ``section`` names; None where Hydra will have to say what is wrong with it."""
    try:
        found = imported(section["_target_"])
    except Exception:
        return None
    return found if callable(found) else None


def build(section: Mapping[str, Any], name: str) -> Any:
    """Instantiate ``section``; options that are null are left to the class's own default.

    Raises:
        BadInput: an option that the class does not have, that has another type or that the class refuses.
    """
    given = {key: value for key, value in section.items() if value is not None}
    try:
        factory = _factory(given)
        if factory is not None:
            given = fitted(factory, given, name)
        return instantiate(given, _convert_="all")
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
            if isinstance(cause, BadInput):
                raise cause from None
        target = section.get("_target_", "nothing")
        raise BadInput(f"{name} cannot be built from {target}: {str(cause).splitlines()[0]}") from error


def _check_schedule(config: Mapping[str, Any], schedule: Schedule) -> None:
    """Refuse a point to rewind to that the dense training never passes, and schedules that are another method."""
    whole = getattr(schedule, "method", None)
    if whole is not None and config["method"]["name"] != whole:
        raise BadInput(
            f"this schedule is the whole of method={whole}: it would ignore what makes up "
            f"{config['method']['name']}\ntype method={whole}"
        )
    if schedule.rewind == "none":
        return
    if config["dense"]["checkpoint"] is not None:
        raise BadInput(
            f"schedule.rewind={schedule.rewind} goes back to a point of the dense training, but dense.checkpoint was "
            "trained elsewhere\ntype schedule.rewind=none, or leave out dense.checkpoint"
        )
    epochs = config["trainer"]["train"]["epochs"]
    if schedule.rewind != "init" and int(schedule.rewind) > epochs:
        raise BadInput(
            f"schedule.rewind={schedule.rewind} is after the end of the dense training of {epochs} epochs; "
            f"type schedule.rewind={epochs} or less"
        )


def check(config: Mapping[str, Any]) -> None:
    """Raise :class:`BadInput` for what is wrong in ``config`` by itself, before any work is done."""
    from benchmarks.measure.latency import Settings
    from benchmarks.measure.memory import check_memory
    from benchmarks.models.build import check_arguments
    from benchmarks.settings.sections import check_types
    from benchmarks.training.optimisation import TrainerSettings

    check_types(config)
    for section in ("dataset", "model", "method"):
        if config[section].get("name") is not None:
            require_name(config[section]["name"], f"{section}.name")
    check_arguments(config["model"])
    pruner = build_pruner(config)
    Budget.parse(config["budget"]).require_fitting(pruner.selection.unit)
    for section in ("train", "finetune"):
        if not isinstance(config["trainer"][section], Mapping):
            raise BadInput(
                f"trainer.{section}={config['trainer'][section]} is not a section of keys; "
                f"type for instance trainer.{section}.epochs=5"
            )
        TrainerSettings.from_config(config["trainer"][section], f"trainer.{section}")
    _check_schedule(config, pruner.schedule)
    if config["measure"].get("latency"):
        Settings.parse(config["measure"]["latency"])
    if config["measure"].get("memory") is not None:
        check_memory(config)
    if config["calibration"]["batch_size"] < 1:
        size = config["calibration"]["batch_size"]
        raise BadInput(f"calibration.batch_size={size} is below 1; type for instance calibration.batch_size=256")
    samples = config["calibration"]["samples"]
    if samples is not None and samples < 1:
        raise BadInput(f"calibration.samples={samples} is below 1; type calibration.samples=1000, or null for all")
