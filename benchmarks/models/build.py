"""From the configuration's ``model`` section to a network with reproducible initial weights."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.errors import BadInput
from methods.seeds import derive_seed


def build(cfg: Mapping[str, Any], shape: Sequence[int], classes: int, seed: int) -> nn.Module:
    """Build the network that ``cfg`` describes, on the CPU, and check that it takes the data set's inputs.

    ``_target_`` may name any importable class or function that returns a module; ``shape`` and ``classes`` are passed
    if it accepts them, ``cfg.name`` is only a name and is not.

    Args:
        cfg: ``_target_`` and its arguments.
        shape: shape of one input, (C, H, W) or (d,).
        classes: number of outputs.
        seed: the cell's seed. Initial weights depend on it alone; the global random state is left as it was.

    Returns:
        The network, in training mode.

    Raises:
        BadInput: there is no such target, its arguments are wrong, or it cannot take ``shape`` or give ``classes``.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from omegaconf import DictConfig, OmegaConf

    plain = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else cfg
    arguments = dict(plain)  # type: ignore[arg-type]
    name = arguments.pop("name", None)
    factory = _factory(arguments)
    name = name or factory.__name__
    # What the configuration itself gives comes before what the data set offers.
    arguments = _accepted(factory, {"shape": list(shape), "classes": classes}) | arguments
    # Only the CPU's generator: torch.manual_seed would also reseed accelerators, which fork_rng would have to restore.
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed(seed, "model"))
        try:
            model = instantiate(arguments, _convert_="all")
        except InstantiationException as error:
            if isinstance(error.__cause__, BadInput):
                raise error.__cause__ from None
            reason = error.__cause__ or error
            raise BadInput(
                f"model {name}: {arguments['_target_']} cannot be built ({_one_line(reason)}); "
                f"its arguments are {inspect.signature(factory)}"
            ) from error
        if not isinstance(model, nn.Module):
            raise BadInput(f"model._target_={arguments['_target_']} gives {type(model).__name__}; expected a nn.Module")
        _check(model, name, tuple(shape), classes)
    return model


def _factory(arguments: Mapping[str, Any]) -> Callable[..., Any]:
    from hydra.utils import get_object

    target = arguments.get("_target_")
    if not target:
        raise BadInput("the model has no _target_; expected package.factory, for instance benchmarks.models.MLP")
    try:
        factory = get_object(target)
    except Exception as error:  # whatever importing a user's module raises
        raise BadInput(f"model._target_={target} cannot be imported: {_one_line(error)}") from error
    if not callable(factory):
        raise BadInput(f"model._target_={target} is not a class or function that returns a nn.Module")
    return factory


def _accepted(factory: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(factory).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {key: value for key, value in offered.items() if takes_any or key in parameters}


def _check(model: nn.Module, name: str, shape: tuple[int, ...], classes: int) -> None:
    """One forward pass in eval mode, so that no running statistic of batch norm moves."""
    modes = {module: module.training for module in model.modules()}
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad():
            outputs = model.eval()(torch.zeros(2, *shape, device=device))
    except Exception as error:  # a user's model may fail in any way
        raise BadInput(
            f"model {name} cannot take inputs of shape {shape}: {_one_line(error)}\n"
            "Choose a model for this shape (model=mlp takes any), or another data set."
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if found != (2, classes):
        raise BadInput(
            f"model {name} gives {found} for 2 inputs of shape {shape}; expected (2, {classes}).\n"
            "Let its factory take `classes`, or set the number of its outputs."
        )


def _one_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
