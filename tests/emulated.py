"""A device that is not there: tensors say ``emulated:0``, compute on the CPU, and refuse to be mixed with the CPU's.

``pytest --device emulated`` finds what would fail on a GPU because a tensor was left behind, on a machine without one.
It does not show what a GPU computes otherwise: rounding, the order of sums, and missing kernels.

Based on PyTorch's Python backend for the dispatch key PrivateUse1, which is experimental: one fallback for
all operators.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils import backend_registration

CPU = torch.device("cpu")
NAME = "emulated"
MOVING = {"aten::copy_", "aten::_to_copy", "aten::_copy_from"}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}  # indices may be elsewhere


class Elsewhere(Tensor):
    """A tensor of the emulated device; ``raw`` has its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    raw: Tensor

    @staticmethod
    def __new__(cls, raw):
        size, options = raw.shape, {"strides": raw.stride(), "storage_offset": raw.storage_offset()}
        found = Tensor._make_wrapper_subclass(cls, size, **options, dtype=raw.dtype, device=torch.device(NAME, 0))
        found.raw = raw
        return found

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        return compute(function, arguments, options or {})

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            twin = Elsewhere(self.raw.detach().clone())
            twin = torch.nn.Parameter(twin) if isinstance(self, torch.nn.Parameter) else twin
            twin.requires_grad_(self.requires_grad)
            twin.grad = None if self.grad is None else self.grad.clone()
            memo[id(self)] = twin
        return memo[id(self)]

    def __matmul__(self, other):
        """PyTorch's own would change the shape of a result in place, which this class cannot follow."""
        return (self[None] @ other)[0] if self.ndim == 1 and other.ndim == 2 else torch.matmul(self, other)

    def __getitem__(self, index):
        return super().__getitem__(_lists_as_tensors(index))

    def __setitem__(self, index, value):
        super().__setitem__(_lists_as_tensors(index), value)

    def __repr__(self, **options):
        return f"{type(self).__name__}({self.raw})"

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, value):
        Tensor.data.__set__(self, value)
        self.raw = value.raw

    def tolist(self):
        return self.raw.tolist()

    def new_tensor(self, data, **options):
        return torch.tensor(data, dtype=options.get("dtype", self.dtype)).to(options.get("device", self.device))

    def data_ptr(self):
        return self.raw.data_ptr()

    def untyped_storage(self):
        return self.raw.untyped_storage()


def _lists_as_tensors(index: Any) -> Any:
    """PyTorch would make tensors of lists where no Python can follow."""
    if isinstance(index, tuple):
        return tuple(map(_lists_as_tensors, index))
    return torch.tensor(index, dtype=None if index else torch.long) if isinstance(index, list) else index


def compute(function: Any, arguments: tuple, options: dict) -> Any:
    """What ``function`` gives on the CPU, as tensors of the device that is asked for or that its arguments are on."""
    flat = pytree.tree_leaves((arguments, options))
    there = [value for value in flat if isinstance(value, Elsewhere)]
    name = function._schema.name
    checked = pytree.tree_leaves((arguments[2:3],)) if name in INDEXING and there and there[0] is arguments[0] else flat
    left = [v for v in checked if isinstance(v, Tensor) and not isinstance(v, Elsewhere) and v.ndim]
    if left and there and name not in MOVING:
        shape = tuple(left[0].shape)
        raise RuntimeError(f"{name}: expected all tensors on one device; one of shape {shape} is on the CPU")
    asked = options.get("device")
    result_there = bool(there) if asked is None else torch.device(asked).type == NAME

    def plain(value):
        return value.raw if isinstance(value, Elsewhere) else CPU if isinstance(value, torch.device) else value

    arguments_, options_ = pytree.tree_map(plain, (arguments, options))
    with torch._C._DisableTorchDispatch():
        found = function(*arguments_, **options_)
    known = {id(value.raw): value for value in there}

    def wrapped(value):
        if not isinstance(value, Tensor) or isinstance(value, Elsewhere):
            return value
        fresh = not any(value is other for other in flat)
        return known[id(value)] if id(value) in known else Elsewhere(value) if result_there and fresh else value

    return pytree.tree_map(wrapped, found)


def _made(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """PyTorch's own way to make these is an empty tensor whose shape is changed afterwards."""

    def kernel(*arguments, **options):
        return Elsewhere(make(*arguments, dtype=options.get("dtype")))

    return kernel


def _moved(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``torch.tensor`` for this device, too: the built-in one moves the numbers where no Python can follow."""

    def make(data, *, device=None, **options):
        if isinstance(data, Elsewhere) or (device is not None and torch.device(device).type == NAME):
            made = data if isinstance(data, Tensor) else original(data, **options)
            return made.to(device=device, dtype=options.get("dtype"))
        return original(data, device=device, **options)

    return make


@cache
def install() -> list[torch.library.Library]:
    """Makes the device known to PyTorch, once a process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    own_module = torch.get_device_module(NAME)  # its random numbers are the CPU's
    own_module.get_rng_state = lambda *_: torch.get_rng_state()
    own_module.set_rng_state = lambda *_: None
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(lambda function, *arguments, **options: compute(function, arguments, options), "PrivateUse1")
    own = torch.library.Library("aten", "IMPL")
    for operator, make in {"eye": torch.eye, "arange": torch.arange}.items():
        for overload in ("", *({"eye": (".m",), "arange": (".start", ".start_step")}[operator])):
            own.impl(operator + overload, _made(make), "PrivateUse1")
    torch.tensor, torch.as_tensor = _moved(torch.tensor), _moved(torch.as_tensor)
    # Module.double() would put the new numbers behind the same tensor, which this class cannot follow
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    # inference mode counts versions of views where no Python can follow; what else it refuses is seen on the CPU
    torch.inference_mode = _without_gradients
    return [everything, own]


def _without_gradients(mode: Any = True) -> Any:
    return torch.no_grad()(mode) if callable(mode) else torch.no_grad() if mode else nullcontext()
