"""A mock-up of a network, in which only what lies between the layers is still computed.

The network's own forward pass runs, but layers of every known kind return fixed random numbers near one, so that no
activation hides what it is multiplied with (a ReLU gate that is zero would), and carriers
(norms, PReLUs, convolutions of several groups) let every channel pass. Nothing but additions, products,
concatenations, activations, poolings, reshapes and attention is left. A norm inside nodes, such as that of
queries head by head, is no carrier of them and works as it is. What output units reach is then seen by changing
what their layer answers (:mod:`methods.network.influence`), and whether the network can do without them by leaving them
out (:mod:`methods.network.trials`). Weights play no part, and numbers and vectors that belong to no layer, such as the
scales of branches, are near one, so that dead units or tiny scales cannot hide a connection.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from methods.network.kinds.carriers import find_carrier
from methods.network.kinds.registry import find_kind, is_layer
from methods.network.reading import evaluating, fewest, what_is_read
from methods.seeds import stream

Observe = Callable[[str, Tensor], None]
Change = Callable[[Tensor], Tensor]
JOINS = (torch.cat, torch.concat, torch.concatenate, torch.stack)
AUGMENTED = ("__iadd__", "__isub__", "__imul__", "__itruediv__", "__idiv__", "__ipow__")


@dataclass
class _Trial:
    """One run: changes of layers' outputs, the observer of modules' inputs, and the calls so far."""

    change: Mapping[str, Change]
    observe: Observe
    copies: int = 1
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))


@dataclass(frozen=True)
class Held:
    """A parameter or buffer that belongs to no layer, along the dimension in which it has a number per node.

    Attributes:
        name: as in ``named_parameters``.
        dimension: along which its entries lie.
        size: number of entries.
        pairs: for each layer and carrier that they feed, (n, 2) int64 pairs (entry, input channel).
    """

    name: str
    dimension: int
    size: int
    pairs: Mapping[str, Tensor] = field(default_factory=dict)


class Mockup:
    """The network with its layers stubbed; see the module's docstring.

    Args:
        model: left as it is; its layers are stubbed only inside :meth:`standing` and while one of the methods runs.
        example: inputs; one sample is run.
        inside: paths of norms that work as they are.
        groupwise: paths of convolutions of several groups that are layers, each of whose groups can lose some channels,
            and not carriers that lose whole groups.

    Attributes:
        layers: paths of the stubbed layers, in forward order.
        passing: paths of the carriers.
        lookups: paths of the layers that look their output up; their inputs are not observed.
        held: parameters and buffers with a number per node, by name, once :meth:`hold` has registered them.
        others: paths of the modules that may need all channels.
        channelled: layers and passing modules, whose dimension of the channels is known.
        numbers: for each layer its outputs, one tensor per call.
        reads: for each module its inputs, one tensor per call.
        output: what the network returns.
    """

    def __init__(
        self, model: nn.Module, example: Tensor, inside: Collection[str] = (), groupwise: Collection[str] = ()
    ) -> None:
        self.model, self.example, self.inside, self.groupwise = model, fewest(model, example), inside, groupwise
        self.modules = modules = dict(model.named_modules())
        carriers = {path for path, module in modules.items() if find_carrier(module)}
        self.passing = carriers.difference(inside, groupwise)
        layers = [path for path, module in modules.items() if find_kind(module) is not None]
        called = _outputs(model, self.example, layers)
        self.layers = [path for path in called if path not in self.passing]
        others = {path for path, module in modules.items() if path not in called and _takes_all(module) and path}
        self.others = others - self.passing - set(inside)
        self.lookups = {path for path in self.layers if not is_layer(modules[path])}
        self.held: dict[str, Held] = {}
        self.numbers = {
            path: [_random(output, path, call) for call, output in enumerate(called[path])] for path in self.layers
        }
        self.channelled = {*self.layers, *self.passing}
        self._dimensions = {path: _dimension(modules[path]) for path in self.channelled}
        self.reads: dict[str, list[Tensor]] = defaultdict(list)
        self._trial: _Trial | None = None
        self._standing = False
        self.output = self.run({}, lambda path, read: self.reads[path].append(read.clone()))

    def units(self, path: str) -> int:
        """Number of output units of the layer at ``path``."""
        return self.numbers[path][0].shape[self.dimension(path)]

    def channels(self, path: str) -> int:
        """Number of input channels of the module at ``path``."""
        return self.reads[path][0].shape[self.dimension(path)]

    def groups(self, path: str) -> int:
        """How many groups the layer at ``path`` has."""
        kind = find_kind(self.modules[path])
        return 1 if kind is None else kind.groups(self.modules[path])

    def dimension(self, path: str) -> int:
        """Dimension of the channels in what the layer or passing module at ``path`` reads and returns.

        Of a parameter or buffer that is held, the dimension along which its entries lie.
        """
        return self.held[path].dimension if path in self.held else self._dimensions[path]

    def hold(self, found: Iterable[Held]) -> None:
        """Register parameters and buffers with a number per node; those that feed nothing obstruct nothing."""
        known = {each.name: each for each in found}
        self.held = {name: each for name, each in known.items() if each.pairs}
        free = {path for path in self.others if all(name in known for name in _own(path, self.modules))}
        self.others -= {path for path in free if self._treats_alone(path)}

    def _treats_alone(self, path: str) -> bool:
        """Whether a module with entries per channel treats channels separately; its children decide if it has any."""
        module, reads = self.modules[path], self.reads.get(path, ())
        if any(True for _ in module.children()):
            return True
        sizes = {self.held[name].size for name in _own(path, self.modules) if name in self.held}
        for read in reads:
            along = [dimension for dimension, size in enumerate(read.shape) if size in sizes]
            if not any(_leaves_others(module, read, dimension) for dimension in along):
                return False
        return bool(sizes)

    def tensor(self, name: str) -> Tensor:
        """The parameter or buffer of this name."""
        path, _, own = name.rpartition(".")
        tensor = getattr(self.modules[path], own)
        assert isinstance(tensor, Tensor)
        return tensor

    # --- running -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def run(self, change: Mapping[str, Change], observe: Observe, copies: int = 1, changed: int = 1) -> Tensor:
        """One run; what the network returns.

        Args:
            change: for some layers, functions that change their outputs; for parameters and buffers, their values.
            observe: called with the path of a module and its input, at every call; at the end with "" and the output.
            copies: of the sample, in the network's input and in the outputs of layers that are not changed.
            changed: copies in the changed outputs; tensors that are joined to these are repeated.

        Raises:
            TypeError: if the network does not return a tensor.
        """
        joining = _EqualBatches(changed * len(self.example)) if changed > copies else nullcontext()
        with self.trying(change, observe, copies), joining:
            output = self.model(_repeated(self.example, copies).clone())  # a forward pass may work on it in place
        if not isinstance(output, Tensor):
            raise TypeError(f"the network returns {type(output).__name__}")
        observe("", output)
        return output

    @contextmanager
    def trying(self, change: Mapping[str, Change], observe: Observe, copies: int = 1) -> Iterator[None]:
        """Within this context, forward passes of the network are runs as :meth:`run` describes."""
        with self.standing():
            values = {name: self.tensor(name).data for name in change if name not in self.numbers}
            self._trial = _Trial(change, observe, copies)
            try:
                for name, value in values.items():
                    self.tensor(name).data = change[name](value)
                yield
            finally:
                self._trial = None
                for name, value in values.items():
                    self.tensor(name).data = value

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Within this context the network is the mock-up. Many trials share it: setting up takes as long as a trial."""
        if self._standing:
            yield
            return
        own: dict[str, object] = {}
        handles: list[RemovableHandle] = []
        scales: list[tuple[nn.Parameter, Tensor]] = []
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it calls no submodule
        self._standing = True
        try:
            with evaluating(self.model):
                for path in [*self.layers, *self.passing]:
                    module = self.modules[path]
                    own[path] = module.__dict__.get("forward")
                    module.forward = self._pass(path, module) if path in self.passing else self._answer(path)
                for parameter, value in self._scales():
                    scales.append((parameter, parameter.data))
                    parameter.data = value
                for path in self.others:
                    handles.append(self.modules[path].register_forward_pre_hook(self._observer(path)))
                yield
        finally:
            self._standing = False
            torch.backends.mha.set_fastpath_enabled(fast_path)
            for handle in handles:
                handle.remove()
            for parameter, values in reversed(scales):  # a parameter that two modules share was saved twice
                parameter.data = values
            for path, forward in own.items():
                module = self.modules[path]
                del module.forward
                if forward is not None:
                    module.forward = forward

    def _scales(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Numbers and vectors outside layers, with values near one: a scale of 1e-6 would hide what it scales."""
        for path, module in self.modules.items():
            for name, parameter in module.named_parameters(recurse=False) if path not in self.channelled else ():
                if _is_scale(parameter):
                    near_one = 0.5 + torch.rand(parameter.shape, generator=stream(0, "scale", path, name))
                    yield parameter, near_one.to(parameter)

    def _answer(self, path: str) -> Callable[..., Tensor]:
        def forward(*inputs: object, **named: object) -> Tensor:
            trial = self._trial
            assert trial is not None
            read = what_is_read(inputs, named)
            if path not in self.lookups:
                trial.observe(path, read)
            out = self.numbers[path][trial.calls[path]]
            trial.calls[path] += 1
            if path in trial.change:
                return trial.change[path](out)
            # positions are looked up once for all samples, and copies of these share the answer
            once = path in self.lookups and read.shape == out.shape[:-1]
            # a copy: what follows may work in place
            return out.clone() if trial.copies == 1 or once else _repeated(out, trial.copies)

        return forward

    def _pass(self, path: str, module: nn.Module) -> Callable[..., Tensor]:
        carrier = find_carrier(module)
        assert carrier is not None

        def forward(*inputs: object, **named: object) -> Tensor:
            assert self._trial is not None
            read = what_is_read(inputs, named)
            self._trial.observe(path, read)
            return carrier.imitate(module, read)

        return forward

    def _observer(self, path: str) -> Callable[[nn.Module, tuple], None]:
        def hook(_module: nn.Module, inputs: tuple) -> None:
            assert self._trial is not None
            for read in inputs:
                if isinstance(read, Tensor) and read.is_floating_point():
                    self._trial.observe(path, read)

        return hook


def replaced(module: nn.Module, name: str) -> bool:
    """Whether the values of this parameter or buffer play no part in a mock-up."""
    return find_kind(module) is not None or find_carrier(module) is not None or _is_scale(getattr(module, name))


def _is_scale(parameter: object) -> bool:
    if not isinstance(parameter, nn.Parameter) or not parameter.is_floating_point():
        return False
    return 0 < parameter.numel() == max(parameter.shape, default=1)


class _EqualBatches(TorchFunctionMode):
    """Within this context, tensors that meet others with more copies are repeated where broadcasting does not do so.

    This concerns tensors that are concatenated, and those that are changed in place (``x += branch(x)``): such a tensor
    itself grows, so that every reference to it sees the change. A view is left as it is, since its base would not grow.
    """

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def __torch_function__(self, func: Any, _types: Any, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        named = dict(kwargs or {})
        if func in JOINS and args and isinstance(args[0], list | tuple):
            parts: list[Any] = list(args[0])
            along = named.get("dim", named.get("axis", args[1] if len(args) > 1 else 0))
            sizes = {len(part) for part in parts if isinstance(part, Tensor) and part.dim()}
            if len(sizes) == 2 and max(sizes) == self.batch and along != 0 and self.batch % min(sizes) == 0:
                args = ([_repeated(part, self.batch // len(part)) for part in parts], *args[1:])
        elif _works_in_place(func) and self._grows(args):
            args[0].data = _repeated(args[0].data, self.batch // len(args[0]))
        return func(*args, **named)

    def _grows(self, args: tuple) -> bool:
        """Whether the first tensor has fewer copies than a later one of as many dimensions."""
        first, *others = args
        if not isinstance(first, Tensor) or isinstance(first, nn.Parameter) or first._is_view() or not first.dim():
            return False
        meeting = [each for each in others if isinstance(each, Tensor) and each.dim() == first.dim()]
        fewer = 0 < len(first) < self.batch and self.batch % len(first) == 0
        return fewer and any(len(each) == self.batch for each in meeting)


def _works_in_place(func: Any) -> bool:
    name: str = getattr(func, "__name__", "")
    return name in AUGMENTED or (name.endswith("_") and not name.endswith("__"))


def _repeated(tensor: Tensor, copies: int) -> Tensor:
    """(copies * batch, ...) the tensor one after the other."""
    if copies == 1:
        return tensor
    if len(tensor) == 1:
        return tensor.expand(copies, *tensor.shape[1:]).contiguous()
    return tensor.repeat(copies, *[1] * (tensor.dim() - 1))


def _dimension(module: nn.Module) -> int:
    carrier, kind = find_carrier(module), find_kind(module)
    if carrier is not None:
        return carrier.channel(module)
    return 1 if kind is None else kind.channel


@torch.no_grad()
def _leaves_others(module: nn.Module, read: Tensor, dimension: int) -> bool:
    """Whether entries of a module's output along one dimension stay the same when other entries of its input change."""
    half = torch.arange(read.shape[dimension], device=read.device) % 2
    shape = [1] * read.dim()
    shape[dimension] = -1
    try:
        one, other = (type(module).forward(module, each) for each in (read, read + 3 * half.view(shape)))
        places = (half == 0).nonzero().flatten()
        return torch.equal(*(each.index_select(dimension, places) for each in (one, other)))
    except Exception:  # a user's module may fail in any way
        return False


def _own(path: str, modules: Mapping[str, nn.Module]) -> list[str]:
    """Names of the module's own parameters, beyond single numbers."""
    own = modules[path].named_parameters(recurse=False)
    return [f"{path}.{name}" if path else name for name, parameter in own if parameter.numel() > 1]


def _takes_all(module: nn.Module) -> bool:
    """Whether the module has parameters of its own, beyond single numbers: it may need all channels."""
    return any(parameter.numel() > 1 for parameter in module.parameters(recurse=False))


def _random(like: Tensor, path: str, call: int) -> Tensor:
    return (0.5 + torch.rand(like.shape, generator=stream(0, "mockup", path, call))).to(like)


@torch.no_grad()
def _outputs(model: nn.Module, example: Tensor, paths: list[str]) -> dict[str, list[Tensor]]:
    """What the modules return, one tensor per call, in the order of their first calls."""
    outputs: dict[str, list[Tensor]] = defaultdict(list)
    handles = []
    for path in paths:

        def hook(_module: nn.Module, _inputs: object, output: Tensor, path: str = path) -> None:
            outputs[path].append(output)

        handles.append(model.get_submodule(path).register_forward_hook(hook))
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(model):
            model(example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for handle in handles:
            handle.remove()
    return dict(outputs)
