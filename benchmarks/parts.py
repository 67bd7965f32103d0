"""From a cell's configuration to the objects it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from methods.allocation import Rounded
from methods.budget import Budget
from methods.errors import BadInput
from methods.pruner import Pruner

PARTS = ("selection", "allocation", "compensation", "schedule")


def build_pruner(config: Mapping[str, Any]) -> Pruner:
    """The pruning method that the parts of ``config`` make up.

    Raises:
        BadInput: if a part refuses its options, or names a class that is not there.
    """
    sections = {name: dict(config[name]) for name in PARTS}
    multiple = sections["allocation"].pop("round_to", None)
    parts = {name: build(section, name) for name, section in sections.items()}
    if multiple is not None:
        parts["allocation"] = Rounded(parts["allocation"], multiple)
    return Pruner(**parts, prune_residual=bool(config.get("prune_residual")))


def build(section: Mapping[str, Any], name: str) -> Any:
    """Instantiate ``section``; options that are null are left to the class's own default."""
    given = {key: value for key, value in section.items() if value is not None}
    try:
        return instantiate(given, _convert_="all")
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
            if isinstance(cause, BadInput):
                raise cause from None
        target = section.get("_target_", "nothing")
        raise BadInput(f"{name} cannot be built from {target}: {str(cause).splitlines()[0]}") from error


def check(config: Mapping[str, Any]) -> None:
    """Raise :class:`BadInput` for what is wrong in ``config`` by itself, before any work is done."""
    from benchmarks.measure.latency import Settings
    from benchmarks.measure.memory import check_memory
    from benchmarks.models.build import factory_of
    from benchmarks.optimisation import TrainerSettings
    from benchmarks.sections import check_types

    check_types(config)
    factory_of(config["model"])
    Budget.parse(config["budget"]).require_fitting(build_pruner(config).selection.unit)
    for section in ("train", "finetune"):
        TrainerSettings.from_config(config["trainer"][section], f"trainer.{section}")
    if config["measure"].get("latency"):
        Settings.parse(config["measure"]["latency"])
    if config["measure"].get("memory") is not None:
        check_memory(config)
    samples = config["calibration"]["samples"]
    if samples is not None and samples < 1:
        raise BadInput(f"calibration.samples={samples} is below 1; type calibration.samples=1000, or null for all")
