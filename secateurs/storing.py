"""Save and load pruned networks without pickle: the module tree as JSON, and the tensors as safetensors.

The JSON names each module's class and its plain attributes (numbers, strings, lists, functions of torch), so that a
network of importable classes can be loaded by name. What cannot be imported by name, such as a class of a notebook or
a configuration object, is taken from a network that the caller passes: ``load(folder, model=Net())``.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.models.saved import DESCRIPTION, load_network
from benchmarks.storage.checkpoint import checksum, to_bytes
from benchmarks.storage.paths import write_atomically
from methods.errors import BadInput, first_line
from methods.network.reading import evaluating
from secateurs.inputs import tensor_of

if TYPE_CHECKING:
    from torch.export import Dim

FORMAT = 1
TREE, WEIGHTS = "pruned.json", "weights.safetensors"
FACTS = ("achieved", "layers", "left_alone", "unit", "note", "steps", "seconds")
OWN = frozenset(vars(nn.Module()))  # what every module has in addition to its own attributes
DERIVED = frozenset({"_flat_weights", "_flat_weight_refs"})  # where recurrent layers list their parameters
Call = tuple[tuple[Any, ...], dict[str, Any]]  # arguments, positional and by keyword
OURS = "methods."
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class _Nameless(Exception):
    """A value that cannot be imported by name."""


class Stored(NamedTuple):
    """A pruned network as loaded from a folder.

    Attributes:
        model: the network.
        masks: for edges, parameter name -> boolean mask of the remaining weights.
        example: the arguments (positional, by keyword) of a call with a few samples; None where none were kept.
        facts: the values of :data:`FACTS`, by name.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    example: Call | None
    facts: dict[str, Any]


def save(folder: Path, model: nn.Module, masks: Mapping[str, Tensor], example: Call, facts: Mapping[str, Any]) -> Path:
    """Write a network; see :meth:`secateurs.PrunedNetwork.save` and :class:`Stored`."""
    tensors: dict[str, Tensor] = {}
    tree = _described(model, "", tensors, {}, {})
    for name, mask in masks.items():
        tensors[f"mask/{name}"] = mask
    places, values = _examples(*example)
    tensors |= values
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    content = to_bytes(tensors)
    description = {
        "format": FORMAT,
        "tree": tree,
        "masks": sorted(masks),
        "example": places,
        "weights": {"file": WEIGHTS, "sha256": checksum(content)},
        **{name: _plain(facts[name]) for name in FACTS},
    }
    text = json.dumps(description, indent=1)
    again = _restored(json.loads(text), tensors, model)
    if not _equal(model, again.model, *example):
        raise BadInput(f"{type(model).__name__} would compute something else when it is read again; not saved")
    write_atomically(folder / WEIGHTS, content)
    write_atomically(folder / TREE, f"{text}\n")
    return folder / TREE


def read(folder: Path, model: nn.Module | None) -> Stored:
    """The network stored in ``folder``, on the CPU and in evaluation mode; see :func:`secateurs.load`."""
    from safetensors.torch import load as read_tensors

    if not (folder / TREE).is_file() and (folder / DESCRIPTION).is_file():
        return Stored(load_network(folder), {}, None, {})
    try:
        description = json.loads((folder / TREE).read_text(encoding="utf-8"))
        wrote, name, digest = description["format"], WEIGHTS, description["weights"]["sha256"]
        content = (folder / name).read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"no network in {folder}: {Path(error.filename).name} is not there") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{folder / TREE} is not a network's description ({error})") from None
    if wrote != FORMAT:
        raise BadInput(f"{folder} has format {wrote}; this version reads {FORMAT}")
    if checksum(content) != digest:
        raise BadInput(f"{folder / name} is damaged: its checksum is not that of {TREE}")
    found = _restored(description, read_tensors(content), model)
    found.model.eval()
    return found


def to_onnx(model: nn.Module, example: Call, file: Path) -> Path:
    """Write a network as ONNX; see :meth:`secateurs.PrunedNetwork.to_onnx`."""
    from benchmarks.measure.runtimes.onnx import OnnxRuntime, cause_of, exported, require_any_batch

    packages = [name for name in OnnxRuntime.missing() if name != "onnxruntime"]
    if packages:
        raise BadInput(f"to_onnx needs {', '.join(packages)}, not installed here; type {OnnxRuntime.install}")
    args, kwargs = example
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    model = copy.deepcopy(model) if device.type != "cpu" else model
    try:
        with evaluating(model):
            content = exported(model.cpu(), args, kwargs, _any_batch(model, args, kwargs))
    except Exception as error:  # the exporter raises whatever a forward pass raises, and many errors of its own
        raise BadInput(f"{type(model).__name__} cannot be exported to ONNX: {first_line(cause_of(error))}") from error
    require_any_batch(content)
    write_atomically(file, content)
    return file


def _any_batch(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The free sizes of each argument, by its name: the first size of every tensor."""
    from torch.export import Dim

    batch: Dim = Dim("batch")  # type: ignore[assignment]  # torch's stub of Dim is of its metaclass
    given = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    return {name: _free(value, batch) for name, value in given.items()}


def _free(value: Any, batch: Dim) -> Any:
    if isinstance(value, Tensor) and value.dim():
        return {0: batch}
    if isinstance(value, tuple):  # *args
        return tuple(_free(part, batch) for part in value)
    if isinstance(value, dict):  # **kwargs
        return {name: _free(part, batch) for name, part in value.items()}
    return None


# --- a network as a tree ---------------------------------------------------------------------------------------------


def _described(
    module: nn.Module, path: str, tensors: dict[str, Tensor], names: dict[int, str], seen: dict[int, str]
) -> dict[str, Any]:
    """The module as JSON values; its tensors go to ``tensors``, once each."""
    if id(module) in seen:
        return {"same": seen[id(module)]}
    seen[id(module)] = path
    if any(getattr(module, name, None) for name in HOOKS):
        raise BadInput(f"{path or 'the network'} has hooks, which a file cannot hold; remove them before save()")
    before = f"{path}." if path else ""

    def key(own: str, tensor: Tensor | None) -> str | None:
        if tensor is None:
            return None
        name = names.setdefault(id(tensor), f"{before}{own}")
        tensors[name] = tensor
        return name

    attributes: dict[str, Any] = {}
    for name, value in vars(module).items():
        if name not in OWN and name not in DERIVED:
            with suppress(_Nameless):
                attributes[name] = _said(value, f"{before}{name}", tensors)
    return {
        "class": _name_of(type(module)),
        "kind": type(module).__name__,
        "attributes": attributes,
        "nameless": [name for name in vars(module) if name not in OWN | DERIVED and name not in attributes],
        "parameters": {own: key(own, tensor) for own, tensor in module._parameters.items()},
        "frozen": [
            own for own, tensor in module._parameters.items() if tensor is not None and not tensor.requires_grad
        ],
        "buffers": {own: key(own, tensor) for own, tensor in module._buffers.items()},
        "unsaved": sorted(module._non_persistent_buffers_set),
        "children": {
            own: None if child is None else _described(child, f"{before}{own}", tensors, names, seen)
            for own, child in module._modules.items()
        },
    }


def _made(
    tree: Mapping[str, Any], path: str, tensors: Mapping[str, Tensor], given: nn.Module | None, memory: dict[str, Any]
) -> nn.Module:
    """The module that ``tree`` describes; what cannot be imported is taken from ``given``, the module at this path."""
    if "same" in tree:
        return memory[tree["same"]]  # type: ignore[no-any-return]  # a module
    missing = tree["nameless"][:1] or ([] if tree["class"] else ["its class"])
    if missing and given is None:
        raise BadInput(
            f"{path or 'the network'} ({tree['kind']}): {missing[0]} has no name outside of the program that saved it\n"
            "give the network that was pruned, with any weights: secateurs.load(folder, model=...)"
        )
    if given is not None and type(given).__name__ != tree["kind"] and str(tree["class"]).startswith(OURS):
        given = None  # pruning has replaced the module at this path by another one
    if given is not None and type(given).__name__ != tree["kind"]:
        raise BadInput(f"{path or 'model'} is a {type(given).__name__}, but the file has a {tree['kind']} there")
    kind: type[nn.Module] = _class_of(tree["class"]) if tree["class"] else type(given)  # type: ignore[assignment]
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    memory[path] = module
    before = f"{path}." if path else ""
    for name, said in tree["attributes"].items():
        module.__dict__[name] = _meant(said, tensors)
    for name in tree["nameless"]:
        module.__dict__[name] = copy.deepcopy(vars(given)[name])
    for name, key in tree["parameters"].items():
        module.register_parameter(name, None if key is None else _parameter(key, tensors, memory))
        if name in tree["frozen"]:
            module._parameters[name].requires_grad_(False)  # type: ignore[union-attr]  # a frozen parameter is not None
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()
    for name, key in tree["buffers"].items():
        module.register_buffer(
            name, None if key is None else _shared(key, tensors, memory), name not in tree["unsaved"]
        )
    for name, child in tree["children"].items():
        theirs = None if given is None else given._modules.get(name)
        module._modules[name] = None if child is None else _made(child, f"{before}{name}", tensors, theirs, memory)
    return module


def _parameter(key: str, tensors: Mapping[str, Tensor], memory: dict[str, Any]) -> nn.Parameter:
    if f"parameter {key}" not in memory:
        memory[f"parameter {key}"] = nn.Parameter(tensors[key].clone(), tensors[key].is_floating_point())
    return memory[f"parameter {key}"]  # type: ignore[no-any-return]  # a parameter


def _shared(key: str, tensors: Mapping[str, Tensor], memory: dict[str, Any]) -> Tensor:
    return memory.setdefault(f"buffer {key}", tensors[key].clone())  # type: ignore[no-any-return]  # a tensor


def _restored(description: Mapping[str, Any], tensors: Mapping[str, Tensor], model: nn.Module | None) -> Stored:
    network = _made(description["tree"], "", tensors, model, {})
    args, kwargs = description["example"]
    example = (
        tuple(_meant(said, tensors) for said in args),
        {name: _meant(said, tensors) for name, said in kwargs.items()},
    )
    masks = {name: tensors[f"mask/{name}"] for name in description["masks"]}
    facts = {name: description[name] for name in FACTS}
    return Stored(network, masks, example, facts)


def _examples(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Tensor]]:
    tensors: dict[str, Tensor] = {}
    try:
        positional = [_said(value, f"example/{place}", tensors) for place, value in enumerate(args)]
        named = {name: _said(value, f"example/{name}", tensors) for name, value in kwargs.items()}
    except _Nameless as error:
        raise BadInput(f"an argument of the network cannot be kept as a file: {error}") from None
    return [positional, named], tensors


# --- values as JSON --------------------------------------------------------------------------------------------------


def _said(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` encoded as JSON values for :func:`_meant` to decode; tensors go to ``tensors`` under ``name``."""
    if value is None or isinstance(value, bool | int | float | str):
        if type(value) not in (type(None), bool, int, float, str):
            raise _Nameless(f"{name} is a {type(value).__name__}")
        return value
    if isinstance(value, Tensor):
        tensors[f"attribute/{name}"] = value
        return {"tensor": f"attribute/{name}"}
    for kind in (list, tuple, set, torch.Size):
        if type(value) is kind:
            return {kind.__name__: [_said(part, f"{name}.{place}", tensors) for place, part in enumerate(value)]}
    if type(value) is dict and all(isinstance(part, str) for part in value):
        return {"dict": {key: _said(part, f"{name}.{key}", tensors) for key, part in value.items()}}
    if isinstance(value, torch.dtype | torch.device):
        return {type(value).__name__: str(value).removeprefix("torch.")}
    if (inspect.isroutine(value) or inspect.isclass(value)) and (full := _name_of(value)):
        return {"named": full}
    raise _Nameless(f"{name} is a {type(value).__name__}")


def _meant(said: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(said, dict):
        return said
    [(kind, value)] = said.items()
    if kind == "tensor":
        return tensors[value].clone()
    if kind == "dict":
        return {key: _meant(part, tensors) for key, part in value.items()}
    if kind == "dtype":
        return getattr(torch, value)
    if kind == "device":
        return torch.device(value)
    if kind == "named":
        return _named(value)
    makers: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "Size": torch.Size}
    return makers[kind](_meant(part, tensors) for part in value)


def _name_of(value: Any) -> str | None:
    """The full name under which ``value`` can be imported anywhere; None if there is none."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not module or not name or module == "__main__" or "<" in name:
        return None
    try:
        found = _named(f"{module}:{name}")
    except (BadInput, AttributeError):
        return None
    return f"{module}:{name}" if found is value else None


def _named(full: str) -> Any:
    module, _, name = full.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise BadInput(f"the network needs {module}, which cannot be imported here ({error})") from None
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _class_of(full: str) -> type[nn.Module]:
    found = _named(full)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise BadInput(f"{full} is no class of networks; expected one of torch.nn.Module")
    return found


def _plain(value: Any) -> Any:
    """Convert what a method reports to JSON values."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _equal(one: nn.Module, other: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    device = next((parameter.device for parameter in one.parameters()), torch.device("cpu"))

    def there(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    given = tuple(map(there, args)), {name: there(value) for name, value in kwargs.items()}
    with torch.no_grad(), evaluating(one), evaluating(other.to(device)):
        expected = tensor_of(one(*given[0], **given[1]))
        found = tensor_of(other(*given[0], **given[1]))
    return expected.shape == found.shape and torch.allclose(expected, found, rtol=1e-4, atol=1e-5, equal_nan=True)
