"""From the configuration's ``model`` section to a network with reproducible initial weights."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.data.tokens import Tokens
from benchmarks.settings.arguments import fitted, imported
from methods.errors import BadInput, first_line
from methods.network.ownership import require_copyable
from methods.seeds import derive_seed

# optional packages, and by which names their factories take what the data set knows
VISION = {"torchvision": ("num_classes",), "timm": ("num_classes", "in_chans")}


def build(
    cfg: Mapping[str, Any], shape: Sequence[int], classes: int, seed: int, tokens: Tokens | None = None
) -> nn.Module:
    """Build the network that ``cfg`` describes, on the CPU, and check that it takes the data set's inputs.

    ``_target_`` may name any importable class or function that returns a module; ``shape`` and ``classes`` are passed
    if it accepts them (``num_classes``, ``in_chans`` for factories of torchvision and timm), and so are ``vocabulary``,
    ``padding`` and ``task`` where inputs are tokens; ``cfg.name`` is only a name and is not.

    Args:
        cfg: ``_target_`` and its arguments.
        shape: shape of one input, (C, H, W) or (d,), or (T,) for tokens.
        classes: number of outputs.
        seed: the cell's seed. Initial weights depend on it alone; the global random state is left as it was.
        tokens: what the inputs are where they are ids of tokens.

    Returns:
        The network, in training mode.

    Raises:
        BadInput: there is no such target, its arguments are wrong, or it cannot take ``shape`` or give ``classes``.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from omegaconf import DictConfig, OmegaConf

    plain = OmegaConf.to_container(cfg, resolve=True) if isinstance(cfg, DictConfig) else cfg
    arguments = dict(plain)  # type: ignore[arg-type]  # a mapping's container is a dict
    name = arguments.pop("name", None)
    factory = factory_of(arguments)
    name = name or factory.__name__
    arguments = fitted(factory, arguments, "model")
    # What the configuration itself gives comes before what the data set offers.
    arguments = _offered(factory, arguments["_target_"], list(shape), classes, tokens) | arguments
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
                f"model {name}: {arguments['_target_']} cannot be built ({first_line(reason)}); "
                f"its arguments are {inspect.signature(factory)}"
            ) from error
        if not isinstance(model, nn.Module):
            raise BadInput(f"model._target_={arguments['_target_']} gives {type(model).__name__}; expected a nn.Module")
        _check(model, name, tuple(shape), classes, tokens)
        require_copyable(model)
    return model


def check_arguments(cfg: Mapping[str, Any]) -> None:
    """Raise :class:`BadInput` for a ``model`` section that cannot be built whatever the data; nothing is built."""
    if not isinstance(cfg, Mapping):
        raise BadInput(f"model={cfg} is not a section of options; type for instance model=mlp")
    fitted(factory_of(cfg), cfg, "model", free=("name",))


def factory_of(cfg: Mapping[str, Any]) -> Callable[..., Any]:
    """What the configuration's ``_target_`` names, imported.

    Raises:
        BadInput: there is no such thing, or a package it needs is missing or does not fit.
    """
    target = cfg.get("_target_")
    if not target or target == "???":
        raise BadInput(
            "the model has no _target_; expected package.factory, a class or function that returns a nn.Module\n"
            "type for instance model=own model._target_=benchmarks.models.MLP +model.widths=[50]"
        )
    if target.partition(".")[0] in VISION:
        _require_vision(target)
    try:
        factory = imported(target)
    except Exception as error:  # whatever importing a user's module raises
        raise BadInput(
            f"model._target_={target} cannot be imported: {type(error).__name__}: {first_line(error)}\n"
            "expected package.factory, where Python finds the package: run.py's folder, or PYTHONPATH"
        ) from error
    if not callable(factory):
        raise BadInput(f"model._target_={target} is not a class or function that returns a nn.Module")
    return factory


def _require_vision(target: str) -> None:
    """Import the optional package that ``target`` is in, or say in two lines why that fails."""
    package = target.partition(".")[0]
    try:
        importlib.import_module(package)
    except Exception as error:  # a torchvision built for another torch fails with a RuntimeError, or worse
        if isinstance(error, ModuleNotFoundError) and error.name in VISION:
            raise BadInput(
                f"model._target_={target} needs the package {error.name}, which is not installed here\n"
                "type pip install 'secateurs[vision]', or choose one of our own: model=resnet20, mobilenetv2, densenet"
            ) from error
        raise BadInput(
            f"the installed {package} does not fit torch {torch.__version__}: {first_line(error)}\n"
            "install the torchvision built for this torch (pip install 'secateurs[vision]'), or choose a model of ours"
        ) from error


def _offered(
    factory: Callable[..., Any], target: str, shape: list[int], classes: int, tokens: Tokens | None
) -> dict[str, Any]:
    """What the data set knows, under the names by which the factory takes it."""
    parameters = inspect.signature(factory).parameters
    known: dict[str, Any] = {"shape": shape, "classes": classes, "num_classes": classes, "in_chans": shape[0]}
    if tokens is not None:
        known |= {"vocabulary": tokens.vocabulary, "padding": tokens.padding, "task": tokens.task}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return {key: value for key, value in known.items() if key in parameters}
    names = VISION.get(target.partition(".")[0], ("shape", "classes"))
    return {key: known[key] for key in names}


def _check(model: nn.Module, name: str, shape: tuple[int, ...], classes: int, tokens: Tokens | None) -> None:
    """One forward pass in eval mode, so that no running statistic of batch norm moves."""
    modes = {module: module.training for module in model.modules()}
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad():
            outputs = model.eval()((torch.zeros(2, *shape) if tokens is None else tokens.probe(2, shape[0])).to(device))
    except Exception as error:  # a user's model may fail in any way
        raise BadInput(
            f"model {name} cannot take inputs of shape {shape}: {first_line(error)}\n"
            + (
                "Choose a model for this shape (model=mlp takes any), or another data set."
                if tokens is None
                else "Choose a model of tokens: model=char_gpt, char_llama or hf."
            )
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    expected = (2, *shape, classes) if tokens is not None and tokens.each else (2, classes)
    if found != expected:
        raise BadInput(
            f"model {name} gives {found} for 2 inputs of shape {shape}; expected {expected}.\n"
            "Let its factory take `classes`, or set the number of its outputs."
        )
