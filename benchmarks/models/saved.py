"""Pruned networks on disk: weights and a small JSON file that says how to read them. No pickle.

A folder holds ``weights.safetensors`` and ``network.json``. The JSON names the architecture as the configuration does
(``_target_`` and its arguments, the input shape and the number of classes) and then what pruning has changed in it: the
numbers of units that modules keep as attributes, modules that were replaced by others, tensors that are shared. So a
pruned network loads again with the code of its architecture alone; nothing of training or pruning is needed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from benchmarks.data.tokens import Tokens
from benchmarks.models import build
from benchmarks.storage.checkpoint import checksum, to_bytes, unshared
from benchmarks.storage.paths import write_atomically
from methods.errors import BadInput
from methods.network.reading import evaluating
from methods.seeds import stream

if TYPE_CHECKING:
    from benchmarks.records.schema import Record

LOG = logging.getLogger(__name__)
FORMAT = 1
WEIGHTS, DESCRIPTION = "weights.safetensors", "network.json"
SIMPLE = (bool, int, float, str, tuple, list)
SMALLEST: dict[str, tuple[int, ...]] = {  # modules that can be described, with arguments that make any one of them
    "Linear": (1, 1),
    "Conv1d": (1, 1, 1),
    "Conv2d": (1, 1, 1),
    "BatchNorm1d": (1,),
    "BatchNorm2d": (1,),
    "LayerNorm": (1,),
    "Identity": (),
    "ReLU": (),
    "Flatten": (),
}


def network_folder(results: Path, key: str) -> Path:
    """The folder of the network of the cell ``key``."""
    return results / "networks" / key


def save_of_cell(
    model: nn.Module,
    config: Mapping[str, Any],
    shape: Sequence[int],
    classes: int,
    folder: Path,
    tokens: Tokens | None = None,
) -> None:
    """Save the pruned network of the cell that ``config`` describes; see :func:`save_network`.

    Where that is not possible the reason is saved, so that the cell's result stands and it is not computed again.
    """
    dataset = config["dataset"]
    facts = {
        "dataset": dataset["name"],
        "method": config["method"]["name"],
        "inputs": {name: dataset[name] for name in ("levels", "mean", "std") if dataset.get(name) is not None},
    }
    try:
        save_network(folder, model, config["model"], shape, classes, facts, tokens)
    except BadInput as error:
        LOG.warning("save=true: %s", error)
        write_atomically(folder / DESCRIPTION, json.dumps({"format": FORMAT, "refused": str(error)}))


def lacks_network(record: Record, results: Path) -> bool:
    """Whether the network of a finished cell was not kept."""
    return record.status == "done" and not (network_folder(results, record.key) / DESCRIPTION).is_file()


def save_network(
    folder: Path,
    model: nn.Module,
    model_cfg: Mapping[str, Any],
    shape: Sequence[int],
    classes: int,
    facts: Mapping[str, Any] | None = None,
    tokens: Tokens | None = None,
) -> Path:
    """Write ``model`` to ``folder`` such that :func:`load_network` gives it back.

    Args:
        folder: created if it does not exist; a network in it is replaced.
        model: a pruned network.
        model_cfg: the configuration from which its dense original was built.
        shape: of one input.
        classes: number of outputs.
        facts: further entries of the JSON.
        tokens: what the inputs are where they are ids of tokens.

    Returns:
        The path of the JSON.

    Raises:
        BadInput: the network is not its original with fewer units, so that it could not be loaded again.
    """
    original = build(model_cfg, shape, classes, seed=0, tokens=tokens)
    replaced = dict(_replaced(original, model, ""))
    _replace(original, replaced)
    tensors = unshared(model)
    content = to_bytes(tensors)
    description = {
        "format": FORMAT,
        "model": dict(model_cfg),
        "shape": list(shape),
        "classes": classes,
        "replaced": replaced,
        "attributes": _changed(original, model),
        "shared": _shared(model),
        "tensors": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "weights": {"file": WEIGHTS, "sha256": checksum(content)},
        **({"tokens": asdict(tokens)} if tokens is not None else {}),
        **(facts or {}),
    }
    if not _equal(model, _restored(description, tensors), probe(shape, 4, tokens)):
        raise BadInput("this network cannot be described by its sizes: it would compute something else when loaded")
    write_atomically(folder / WEIGHTS, content)
    path = folder / DESCRIPTION
    write_atomically(path, json.dumps(description, indent=1) + "\n")
    return path


def load_network(folder: Path | str) -> nn.Module:
    """The network in ``folder``, in evaluation mode.

    Raises:
        BadInput: there is none, it is damaged, or a later version wrote it.
    """
    description, tensors = read_network(Path(folder))
    return _restored(description, tensors)


def read_network(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the tensors in ``folder``, checked against each other."""
    from safetensors.torch import load

    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if "refused" in description:
            raise BadInput(f"the network of {folder.name} could not be kept: {description['refused']}")
        content = (folder / description["weights"]["file"]).read_bytes()
    except FileNotFoundError as error:
        raise BadInput(f"no network in {folder}: {Path(error.filename).name} is not there") from None
    except BadInput:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{folder / DESCRIPTION} is not a network's description ({error})") from None
    if description.get("format") != FORMAT:
        raise BadInput(f"{folder} has format {description.get('format')}; this version reads {FORMAT}")
    if checksum(content) != description["weights"]["sha256"]:
        raise BadInput(f"{folder / WEIGHTS} is damaged: its checksum is not that of its description")
    return description, load(content)


def _restored(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    model = build(description["model"], description["shape"], description["classes"], 0, tokens_in(description))
    _replace(model, description["replaced"])
    for path, attributes in description["attributes"].items():
        module = model.get_submodule(path)
        for name, value in attributes.items():
            setattr(module, name, tuple(value) if isinstance(getattr(module, name, None), tuple) else value)
    for name, tensor in tensors.items():
        _put(model, name, tensor)
    for name, source in description["shared"].items():
        owner, own = _owner(model, source)
        _put(model, name, getattr(owner, own))
    given = tensors.keys() | description["shared"].keys()
    for name in model.state_dict().keys() - given:  # a bias that pruning has taken away
        _put(model, name, None)
    return model.eval()


def _put(model: nn.Module, name: str, tensor: Tensor | None) -> None:
    """Make ``tensor`` the parameter or buffer ``name`` of ``model``, whatever size the present one has."""
    module, own = _owner(model, name)
    if own in module._buffers:
        module._buffers[own] = tensor
    elif tensor is None or isinstance(tensor, nn.Parameter):
        module._parameters[own] = tensor
    else:
        module._parameters[own] = nn.Parameter(tensor.clone())


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, own = name.rpartition(".")
    return model.get_submodule(path), own


def _replaced(original: nn.Module, model: nn.Module, path: str) -> Iterator[tuple[str, Any]]:
    """Paths at which ``model`` has another kind of module than ``original``, and what it is."""
    children = dict(original.named_children())
    if children.keys() - dict(model.named_children()).keys():
        raise BadInput(f"'{path}' has lost modules: this network cannot be described by its sizes")
    for name, child in model.named_children():
        here = f"{path}.{name}" if path else name
        if name not in children or type(children[name]) is not type(child):
            yield here, _specification(child, here)
        else:
            yield from _replaced(children[name], child, here)


def _specification(module: nn.Module, path: str) -> Any:
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        return {name: _specification(child, f"{path}.{name}") for name, child in module.named_children()}
    kind = type(module).__name__
    if type(module) is not getattr(nn, kind, None) or kind not in SMALLEST:
        raise BadInput(f"'{path}' is a {kind}: only {', '.join(SMALLEST)} can take another module's place in a file")
    return kind


def _replace(model: nn.Module, replaced: Mapping[str, Any]) -> None:
    for path, specification in replaced.items():
        owner, own = _owner(model, path)
        setattr(owner, own, _module(specification))


def _module(specification: Any) -> nn.Module:
    if isinstance(specification, str):
        if specification not in SMALLEST:
            raise BadInput(f"unknown kind of module '{specification}' in {DESCRIPTION}; choose from {list(SMALLEST)}")
        return getattr(nn, specification)(*SMALLEST[specification])
    sequence = nn.Sequential()
    for name, part in specification.items():
        sequence.add_module(name, _module(part))
    return sequence


def _changed(original: nn.Module, model: nn.Module) -> dict[str, dict[str, Any]]:
    """Plain public attributes (numbers of channels, heads, groups ...) that differ, by path."""
    before, changed = dict(original.named_modules()), {}
    for path, module in model.named_modules():
        own = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(module).items()
            if isinstance(value, SIMPLE)
            and not name.startswith("_")
            and name != "training"
            and vars(before[path]).get(name) != value
        }
        if own:
            changed[path] = own
    return changed


def _shared(model: nn.Module) -> dict[str, str]:
    """Names of parameters that are another one under a second name, with the first name."""
    first: dict[int, str] = {}
    shared = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            shared[name] = first[id(parameter)]
    return shared


def _equal(first: nn.Module, second: nn.Module, inputs: Tensor) -> bool:
    with torch.inference_mode(), evaluating(first), evaluating(second):
        expected, found = (_outputs(network, inputs).cpu() for network in (first, second))
    return expected.shape == found.shape and torch.allclose(expected, found, rtol=1e-4, atol=1e-5, equal_nan=True)


def _outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    device = next((parameter.device for parameter in network.parameters()), inputs.device)
    outputs: Tensor = network(inputs.to(device))
    return outputs


def tokens_in(description: Mapping[str, Any]) -> Tokens | None:
    """What the inputs of a described network are where they are ids of tokens."""
    return Tokens(**description["tokens"]) if description.get("tokens") else None


def probe(shape: Sequence[int], number: int, tokens: Tokens | None = None) -> Tensor:
    """Reproducible inputs of the size of normalised ones, or ids, to compare what two networks compute."""
    if tokens is not None:
        return tokens.probe(number, shape[0], stream(0, "probe"))
    return torch.randn(number, *shape, generator=stream(0, "probe"))
