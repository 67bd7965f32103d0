"""Build the objects that a cell's configuration names."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from benchmarks.data.tokens import Tokens
from benchmarks.settings.arguments import fit, fitted, imported
from benchmarks.settings.base import checked
from benchmarks.settings.home import PARTS
from benchmarks.settings.sections import Part, check_types
from benchmarks.settings.tuning import with_options
from methods.allocation import Rounded
from methods.budgets.budget import Budget
from methods.errors import BadInput, first_line
from methods.hooks import TrainingSchedule
from methods.pruner import Pruner
from methods.schedule import Schedule
from methods.sparse_training import SparseTraining

if TYPE_CHECKING:
    from torch import Tensor, nn


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
    impose = getattr(parts["allocation"], "imposed_on", None)
    if impose is not None:  # an allocation that fixes more about a set than its size, such as n:m
        parts["selection"] = impose(parts["selection"])
    return Pruner(**parts, prune_residual=bool(config.get("prune_residual")))


def _section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    return checked(Part, config[name], name).model_dump(by_alias=True)


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
    given = _without_nulls(section)
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
        raise BadInput(f"{name} cannot be built from {target}: {first_line(cause)}") from error


def _without_nulls(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section, and the sections of objects that it holds, without what is null."""
    kept = {key: value for key, value in section.items() if value is not None}
    return {
        key: _without_nulls(value) if isinstance(value, Mapping) and "_target_" in value else value
        for key, value in kept.items()
    }


def _check_schedule(config: Mapping[str, Any], schedule: Schedule) -> None:
    """Refuse rewinding to what the dense training never passes, trainings of no epochs, schedules of another method."""
    whole = schedule.method if isinstance(schedule, TrainingSchedule) else None
    if whole is not None and config["method"]["name"] != whole:
        raise BadInput(
            f"this schedule is the whole of method={whole}: it would ignore what makes up "
            f"{config['method']['name']}\ntype method={whole}"
        )
    if isinstance(schedule, SparseTraining) and not config["trainer"][schedule.training]["epochs"]:
        raise BadInput(
            f"{config['method']['name']} trains while it prunes, for at least one epoch\n"
            f"type trainer.{schedule.training}.epochs=10"
        )
    if schedule.rewind == "none":
        return
    if config["dense"]["checkpoint"] is not None and schedule.rewind != "new":
        raise BadInput(
            f"schedule.rewind={schedule.rewind} goes back to a point of the dense training, but dense.checkpoint was "
            "trained elsewhere\ntype schedule.rewind=none, or leave out dense.checkpoint"
        )
    epochs = config["trainer"]["train"]["epochs"]
    if schedule.rewind not in ("init", "new") and int(schedule.rewind) > epochs:
        raise BadInput(
            f"schedule.rewind={schedule.rewind} is after the end of the dense training of {epochs} epochs; "
            f"type schedule.rewind={epochs} or less"
        )


def _check_distillation(config: Mapping[str, Any]) -> None:
    """Refuse a teacher whose outputs are no logits."""
    from benchmarks.settings.trainer import Distillation

    section = config["trainer"]["finetune"].get("distil") or {}
    if config["dataset"].get("task") == "regression" and checked(Distillation, section, "distil").asked():
        raise BadInput(
            f"trainer.finetune.distil learns the dense network's logits, and {config['dataset']['name']} is a "
            "regression, which has none\n"
            "type trainer.finetune.distil.weight=null trainer.finetune.distil.temperature=null"
        )


def _check_trials(config: Mapping[str, Any], schedule: Schedule) -> None:
    """Refuse trials that cannot differ, and options that the method's parts do not take."""
    if not config.get("tune"):
        return
    if not config["trainer"][schedule.recipe]["epochs"]:
        raise BadInput(
            f"tune compares rates of trainer.{schedule.recipe}, which has 0 epochs\n"
            f"type trainer.{schedule.recipe}.epochs=10, or tune=null"
        )
    for options in config["tune"]["options"]:
        build_pruner(with_options(config, options))


def check(config: Mapping[str, Any]) -> None:
    """Raise :class:`BadInput` for what is wrong in ``config`` by itself, before any work is done."""
    from benchmarks.data.readers import refuse_unreadable
    from benchmarks.models.build import check_arguments
    from benchmarks.training.optimisation import TrainerSettings, refuse_hardware

    check_types(config)
    check_arguments(config["model"])
    pruner = build_pruner(config)
    pruner.require_budget(Budget.parse(config["budget"]))
    for section in ("train", "finetune"):
        where = f"trainer.{section}"
        refuse_hardware(TrainerSettings.from_config(config["trainer"][section], where), where)
    _check_distillation(config)
    _check_schedule(config, pruner.schedule)
    _check_trials(config, pruner.schedule)
    if config["measure"].get("latency"):
        from benchmarks.measure.latency import Settings

        Settings.parse(config["measure"]["latency"])
    if config.get("quantise"):
        from benchmarks.measure.quantised import require_installed

        require_installed()
    refuse_unreadable(config["dataset"], Path(config["paths"]["cache"]).expanduser())
    if config["dense"]["checkpoint"] is not None:
        from benchmarks.training.weights import refuse_missing

        refuse_missing(Path(config["dense"]["checkpoint"]))
    trained = any(config["trainer"][section]["epochs"] > 0 for section in ("train", "finetune"))
    dataset = config["dataset"]
    tokens = Tokens.of(dataset)
    _check_model(json.dumps(config["model"]), tuple(dataset["shape"]), dataset["classes"], trained, tokens)


@functools.lru_cache(maxsize=64)
def _check_model(model: str, shape: tuple[int, ...], classes: int | None, trained: bool, tokens: Tokens | None) -> None:
    """Refuse a network that cannot be built, trained where it is, or take inputs of ``shape``; each is tried once.

    Where the data set says only when it is read how many classes or tokens it has, the network is tried with two.
    """
    import torch

    from benchmarks.models.build import build

    section = json.loads(model)
    if tokens is not None and tokens.vocabulary is None:
        tokens = replace(tokens, vocabulary=2)
    network = build(section, shape, classes or 2, 0, tokens)
    if trained:
        _refuse_untrainable(network, section, torch.zeros(2, *shape) if tokens is None else tokens.probe(2, shape[0]))


def _refuse_untrainable(model: nn.Module, cfg: Mapping[str, Any], inputs: Tensor) -> None:
    """Refuse a network that cannot be trained: all of it is frozen, or its output in training mode is no tensor.

    The second is common among networks with auxiliary heads.

    Args:
        model: a network in training mode that is used for nothing else: its running statistics move.
        cfg: the section it was built from.
        inputs: two of them.

    Raises:
        BadInput: the network cannot be trained.
    """
    import torch

    from benchmarks.training.optimisation import FROZEN

    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise BadInput(FROZEN)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = model(inputs)
    except Exception:  # training fails in the same way, and its traceback names the place
        return
    if not isinstance(outputs, torch.Tensor):
        raise BadInput(
            f"model {cfg.get('name') or cfg['_target_']} gives a {type(outputs).__name__} in training mode and a "
            "tensor otherwise; expected one tensor in both\n"
            "let forward return the main output alone, or switch its other outputs off, for instance "
            "+model.aux_logits=false"
        )
