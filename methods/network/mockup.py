"""Which inputs of which layers each output unit of a layer reaches, found by experiment instead of by tracing code.

A mock-up of the network runs its own forward pass, but layers of every known kind answer with fixed random numbers,
and norms of single channels, depthwise convolutions and PReLUs let every channel pass. Nothing but additions, products,
concatenations, activations, poolings, reshapes and attention is left between the layers. Now some output units of one
layer change: what any layer then reads differently is what these units feed. Units are changed in patterns, one per
binary digit of the unit's index and one for its opposite, so that 2 log2(m) patterns, each tried upwards and downwards,
tell m units apart; only where an input depends on several units (attention) is every unit tried alone. Weights play no
part, so dead units or tiny scales cannot hide a connection.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from methods.network.counting import products
from methods.network.kinds.carriers import find_carrier
from methods.network.kinds.convolution import all_channels, depthwise
from methods.network.kinds.registry import find_kind
from methods.network.reading import evaluating, fewest, what_is_read
from methods.seeds import stream

STEP = 10.0  # of a change, against random outputs of standard deviation 1: no activation can hide it both up and down
CHANGED = 1e-3  # what counts as a change, relative to the largest value read
MOST_AT_ONCE = 2**24  # numbers in one changed output
MOST_ALONE = 4096  # units that are tried one by one
LEVELS = ((0.3, 0.8), (-0.4, 0.9), (0.9, -0.3), (40.0, 60.0))  # of two layers, where their sum or product is looked at
SHIFT = 0.4  # small enough for activations that saturate


@dataclass
class Influence:
    """What the output units of one layer reach.

    Attributes:
        pairs: for each module that reads them, (n, 2) int64 pairs (output unit, input channel).
        leaks: the network's output depends on the units directly.
        obstacle: a module on the way that cannot do with fewer units; None if there is none.
    """

    pairs: dict[str, Tensor] = field(default_factory=dict)
    leaks: bool = False
    obstacle: str | None = None


Observe = Callable[[str, Tensor], None]


@dataclass
class _Trial:
    """One run: what is done to the outputs of layers, who is told what modules read, and the calls so far."""

    change: Mapping[str, Callable[[Tensor], Tensor]]
    observe: Observe
    copies: int = 1
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Mockup:
    """The network with its layers stubbed; see the module's text.

    Args:
        model: left as it is; its layers are stubbed only inside :meth:`standing` and while one of the methods runs.
        example: inputs; one sample is run.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.model, self.example = model, fewest(model, example)
        self._modules = modules = dict(model.named_modules())
        self.passing = {path for path, module in modules.items() if _passes(module)}
        layers = [path for path, module in modules.items() if find_kind(module) is not None]
        called = _outputs(model, self.example, layers)
        self.layers = [path for path in called if path not in self.passing]
        self.others = {
            path for path, module in modules.items() if path not in called and _takes_all(module) and path
        } - self.passing
        self.numbers = {
            path: [_random(output, path, call) for call, output in enumerate(called[path])] for path in self.layers
        }
        self._channelled = {*self.layers, *self.passing}
        self._read: dict[str, list[Tensor]] = defaultdict(list)
        self._trial: _Trial | None = None
        self._standing = False
        self._output = self._run({}, lambda path, read: self._read[path].append(read.clone()))
        self._macs = self._product_macs({})

    def units(self, path: str) -> int:
        """Number of output units of the layer at ``path``."""
        return self.numbers[path][0].shape[self.dimension(path)]

    def channels(self, path: str) -> int:
        """Number of input channels of the module at ``path``."""
        return self._read[path][0].shape[self.dimension(path)]

    def dimension(self, path: str) -> int:
        """Dimension of the channels in what the module at ``path`` reads and returns."""
        module = self._modules[path]
        kind = find_kind(module)
        if kind is not None:
            return kind.channel
        carrier = find_carrier(module)
        return 1 if carrier is None else carrier.channel(module)

    # --- what units reach --------------------------------------------------------------------------------------------

    def influence(self, path: str) -> Influence:
        """What the output units of the layer at ``path`` reach before the next layer."""
        units = self.units(path)
        bits = max(1, (units - 1).bit_length())
        digits = (torch.arange(units)[None] >> torch.arange(bits)[:, None]) % 2 == 1
        hits, result = self._changes(path, torch.cat([digits, ~digits]))
        if result.obstacle:
            return result
        ambiguous = False
        for reader, changed in hits.items():
            up, down = changed[:bits], changed[bits:]
            ambiguous |= bool((changed.any(0) & ~(up ^ down).all(0)).any())
            row = (up * (1 << torch.arange(bits))[:, None]).sum(0)
            channels = changed.any(0).nonzero().flatten()
            result.pairs[reader] = torch.stack([row[channels], channels], 1)
        if ambiguous and units <= MOST_ALONE:
            hits, result = self._changes(path, torch.eye(units, dtype=torch.bool))
            result.pairs = {reader: changed.nonzero() for reader, changed in hits.items()}
        elif ambiguous:
            result.obstacle = "an operation that mixes the nodes"
        return result

    def _changes(self, path: str, patterns: Tensor) -> tuple[dict[str, Tensor], Influence]:
        """For each reader (patterns, channels) which input channels change when the units of a pattern do."""
        at_once = max(1, MOST_AT_ONCE // (2 * self.numbers[path][0].numel()))
        found: dict[str, list[Tensor]] = defaultdict(list)
        result = Influence()
        for start in range(0, len(patterns), at_once):
            chunk = patterns[start : start + at_once]
            trial = Influence()
            try:
                hits = self._try(path, chunk, whole=False, result=trial)
            except Exception:  # concatenations want equal batches, reshapes may fold copies: run the whole as often
                trial = Influence()
                try:
                    hits = self._try(path, chunk, whole=True, result=trial)
                except _Folded:
                    trial.obstacle = "an operation that mixes samples"
            result.leaks |= trial.leaks
            result.obstacle = result.obstacle or trial.obstacle
            if result.obstacle:
                return {}, result
            for reader in self._channelled & self._read.keys():
                found[reader].append(hits.get(reader, torch.zeros(len(chunk), self.channels(reader), dtype=torch.bool)))
        return {reader: torch.cat(parts) for reader, parts in found.items() if torch.cat(parts).any()}, result

    def _try(self, path: str, patterns: Tensor, whole: bool, result: Influence) -> dict[str, Tensor]:
        """One run whose batch is the network as it is, then each pattern upwards, then each downwards."""
        signs = torch.cat([torch.zeros(1, patterns.shape[1]), patterns, -1.0 * patterns])
        hits: dict[str, Tensor] = {}
        calls: dict[str, int] = defaultdict(int)

        def change(out: Tensor) -> Tensor:
            # every position by another amount: softmax does not see a common one
            step = STEP * (1 + torch.rand(out.shape, generator=stream(0, "step", path)).to(out))
            along = [1] * out.dim()
            along[self.dimension(path)] = -1
            return (out + step * signs.to(out).reshape(len(signs), *along)).flatten(0, 1)

        def observe(reader: str, read: Tensor) -> None:
            before = self._read[reader][calls[reader]] if reader else self._output
            calls[reader] += 1
            if read.shape == before.shape and not whole and _same(read, before):
                return  # outside of what the units reach
            if read.shape != (len(signs) * len(before), *before.shape[1:]):
                raise _Folded(reader)  # a reshape has put the copies elsewhere
            entries = read.reshape(len(signs), *before.shape)
            if not _same(entries[0], before):
                raise _Folded(reader)
            dimension = self.dimension(reader) % before.dim() if reader in self._channelled else before.dim() - 1
            others = [1 + d for d in range(before.dim()) if d != dimension]
            far = (entries[1:] - entries[:1]).abs()
            far = far.amax(others) if others else far
            changed = ~(far <= CHANGED * entries[0].abs().max().clamp_min(1))
            changed = (changed[: len(patterns)] | changed[len(patterns) :]).cpu()
            if reader in self.others and bool(changed.any()):
                result.obstacle = result.obstacle or f"{reader} ({type(self._modules[reader]).__name__})"
            elif reader in self._channelled:
                hits[reader] = hits[reader] | changed if reader in hits else changed
            elif not reader:
                result.leaks |= bool(changed.any())

        self._run({path: change}, observe, len(signs) if whole else 1)
        return hits

    def adds(self, first: str, second: str) -> bool:
        """Whether the outputs of two layers are added, seen by some module that reads both.

        A sum answers to both together as to one after the other (whatever its terms went through before), or does not
        care which of them has risen (whatever the sum goes through after). A product does neither.
        """
        return any(self._adds_at({first: one, second: other}) for one, other in LEVELS)

    def _adds_at(self, levels: Mapping[str, float]) -> bool:
        reads: list[dict[str, list[Tensor]]] = []
        for shifts in ((0, 0), (1, 0), (0, 1), (1, 1)):
            seen: dict[str, list[Tensor]] = defaultdict(list)
            change = {
                path: partial(torch.full_like, fill_value=level + SHIFT * shift)
                for (path, level), shift in zip(levels.items(), shifts, strict=True)
            }

            def keep(path: str, read: Tensor, seen: dict[str, list[Tensor]] = seen) -> None:
                seen[path].append(read.double().clone())

            self._run(change, keep)
            reads.append(seen)
        for path in self._channelled & reads[0].keys():
            for base, one, other, both in zip(*(seen[path] for seen in reads), strict=True):
                up, across = (one - base).abs(), (other - base).abs()
                answers = (up > CHANGED) & (across > CHANGED)
                least = 1e-2 * torch.minimum(up, across)[answers]
                in_turn = (both - one - other + base).abs()[answers] <= least
                alike = (one - other).abs()[answers] <= least
                if bool(answers.any()) and (bool(in_turn.all()) or bool(alike.all())):
                    return True
        return False

    # --- what happens without some units -----------------------------------------------------------------------------

    def without(self, rows: Mapping[str, Tensor], columns: Mapping[str, Tensor]) -> str | None:
        """Why the network cannot do with only the output units ``rows`` of some layers; None if it can.

        It can if every module then reads, of what it read before, exactly its input channels ``columns`` (all, if it is
        not named), and the network's output is the same.
        """
        calls: dict[str, int] = defaultdict(int)

        def observe(reader: str, read: Tensor) -> None:
            expected = self._read[reader][calls[reader]] if reader else self._output
            calls[reader] += 1
            if reader in columns:
                expected = expected.index_select(self.dimension(reader), columns[reader].to(expected.device))
            same = torch.equal(read, expected)  # nearly always, and much faster than the tolerant comparison
            if not same and (read.shape != expected.shape or not torch.allclose(read, expected, rtol=1e-4, atol=1e-4)):
                raise _Unlike(reader or "the network's output")

        try:
            self._run({path: self._selector(path, kept) for path, kept in rows.items()}, observe)
        except _Unlike as error:
            return f"{error} does not see the remaining nodes as before"
        except Exception as error:  # a user's forward pass may fail in any way
            return f"the forward pass has fixed sizes ({(str(error).splitlines() or [type(error).__name__])[0][:120]})"
        return None

    def product_macs(self, rows: Mapping[str, Tensor]) -> int:
        """MACs that products of activations (attention) lose with all output units but ``rows``."""
        if not self._macs:
            return 0
        return self._macs - self._product_macs({path: self._selector(path, kept) for path, kept in rows.items()})

    def _product_macs(self, change: Mapping[str, Callable[[Tensor], Tensor]]) -> int:
        with self.standing(), self._trying(_Trial(change, lambda _path, _read: None)):
            found = products(self.model, self.example)
        return sum(product.macs for product in found if product.layer not in self.passing)

    def _selector(self, path: str, kept: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda out: out.index_select(self.dimension(path), kept.to(out.device))

    # --- running -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _run(self, change: Mapping[str, Callable[[Tensor], Tensor]], observe: Observe, copies: int = 1) -> Tensor:
        """Output of the mock-up; ``change`` is applied to what layers return, ``observe`` told what modules read."""
        with self.standing(), self._trying(_Trial(change, observe, copies)):
            output = self.model(self.example.repeat(copies, *[1] * (self.example.dim() - 1)))
        if not isinstance(output, Tensor):
            raise TypeError(f"the network returns {type(output).__name__}")
        observe("", output)
        return output

    @contextmanager
    def _trying(self, trial: _Trial) -> Iterator[None]:
        self._trial = trial
        try:
            yield
        finally:
            self._trial = None

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Inside, the network is the mock-up. Many trials share one, since setting it up takes as long as a trial."""
        if self._standing:
            yield
            return
        own: dict[str, object] = {}
        handles = []
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it calls no submodule
        self._standing = True
        try:
            with evaluating(self.model):
                for path in [*self.layers, *self.passing]:
                    module = self._modules[path]
                    own[path] = module.__dict__.get("forward")
                    module.forward = self._pass(path, module) if path in self.passing else self._answer(path)
                for path in self.others:
                    handles.append(self._modules[path].register_forward_pre_hook(self._observer(path)))
                yield
        finally:
            self._standing = False
            torch.backends.mha.set_fastpath_enabled(fast_path)
            for handle in handles:
                handle.remove()
            for path, forward in own.items():
                module = self._modules[path]
                del module.forward
                if forward is not None:
                    module.forward = forward

    def _answer(self, path: str) -> Callable[..., Tensor]:
        def forward(*inputs: object, **named: object) -> Tensor:
            trial = self._trial
            assert trial is not None
            trial.observe(path, what_is_read(inputs, named))
            out = self.numbers[path][trial.calls[path]]
            trial.calls[path] += 1
            if path in trial.change:
                return trial.change[path](out)
            # a copy: what follows may work in place
            return out.clone() if trial.copies == 1 else out.repeat(trial.copies, *[1] * (out.dim() - 1))

        return forward

    def _pass(self, path: str, module: nn.Module) -> Callable[..., Tensor]:
        def forward(*inputs: object, **named: object) -> Tensor:
            assert self._trial is not None
            read = what_is_read(inputs, named)
            self._trial.observe(path, read)
            return all_channels(module, read) if depthwise(module) else read.clone()

        return forward

    def _observer(self, path: str) -> Callable[[nn.Module, tuple], None]:
        def hook(_module: nn.Module, inputs: tuple) -> None:
            assert self._trial is not None
            for read in inputs:
                if isinstance(read, Tensor) and read.is_floating_point():
                    self._trial.observe(path, read)

        return hook


class _Unlike(Exception):
    """A module reads something else than expected."""


class _Folded(Exception):
    """Copies of the sample do not lie side by side in what a module reads."""


def _same(read: Tensor, before: Tensor) -> bool:
    return torch.equal(read, before) or bool(torch.allclose(read, before, rtol=1e-4, atol=1e-4))


def _passes(module: nn.Module) -> bool:
    """Whether the module has a number for each channel and treats it alone."""
    carrier = find_carrier(module)
    return carrier is not None and not carrier.mixes


def _takes_all(module: nn.Module) -> bool:
    """Whether the module has parameters of its own, beyond single numbers: it may need all channels there are."""
    return any(parameter.numel() > 1 for parameter in module.parameters(recurse=False))


def _random(like: Tensor, path: str, call: int) -> Tensor:
    return torch.randn(like.shape, generator=stream(0, "mockup", path, call)).to(like)


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
