"""The base class of runtimes, which turn a network and inputs into a call without arguments that can be timed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

Run = Callable[[], Any]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Conditions:
    """The conditions under which networks run.

    Attributes:
        threads: threads of one operation; only one operation runs at a time.
        precision: number format of weights and activations.
        channels_last: whether images and their weights are stored with the channel as the last dimension.
        device: ``cpu`` or ``cuda``.
    """

    threads: int = 1
    precision: str = "float32"
    channels_last: bool = False
    device: str = "cpu"


class Runtime:
    """One way to execute networks.

    Attributes:
        name: its name in the configuration.
        packages: packages that have to be installed beyond the suite itself.
        install: the command that installs them.
        precisions: the number formats that it supports.
        devices: where it can run.
        layouts: whether it supports ``channels_last``.
        uses_zeros: whether masked weights can make it faster.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    install: ClassVar[str] = ""
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    layouts: ClassVar[bool] = False
    uses_zeros: ClassVar[bool] = False

    def fresh(self) -> None:
        """Discard state that earlier networks left behind; called before each pair of networks."""

    def prepare(self, model: nn.Module, inputs: Tensor, conditions: Conditions) -> Run:
        """A call that runs ``model`` on ``inputs`` and returns its outputs; ``model`` is left unchanged."""
        raise NotImplementedError

    def figures(self, dense: nn.Module, pruned: nn.Module, inputs: Tensor, conditions: Conditions) -> dict[str, Any]:
        """Further figures for the record, apart from the times."""
        return {}

    @classmethod
    def missing(cls) -> list[str]:
        """Packages that are not installed."""
        return [package for package in cls.packages if find_spec(package) is None]

    @classmethod
    def version(cls) -> str:
        """Name and version of the package that does the computation."""
        package = cls.packages[-1] if cls.packages else "torch"
        return f"{package} {metadata.version(package)}"


def placed(model: nn.Module, inputs: Tensor, conditions: Conditions) -> tuple[nn.Module, Tensor]:
    """Copies of the network and the inputs in the device and layout of the conditions, in evaluation mode."""
    dtype, device = DTYPES[conditions.precision], conditions.device
    model = copy.deepcopy(model).eval().requires_grad_(False).to(device=device, dtype=dtype)
    inputs = inputs.to(device=device, dtype=dtype if inputs.is_floating_point() else inputs.dtype)
    if conditions.channels_last and inputs.dim() == 4:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no stub of it
        inputs = inputs.to(memory_format=torch.channels_last)
    return model, inputs


def as_tensor(outputs: Any) -> Tensor:
    """The (first) outputs of any runtime as a float32 tensor on the CPU."""
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, list | tuple):
        outputs = outputs[0]
    return torch.as_tensor(outputs).detach().float().cpu()
