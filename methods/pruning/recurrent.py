"""Write PyTorch's recurrent layers out as linear layers, and put them together again after nodes have been removed.

A hidden unit of an ``nn.LSTM`` is four rows of each of two matrices and a column of the second one, inside one module
that hides the values in between. Written out, the two matrices are linear layers whose common units are seen, removed
and repaired like any others: four rows of a layer form a node, as the rows of an attention head do. The result is put
together as the same class again; if layers or directions keep different numbers of units, which that class does not
allow, each becomes a module of its own (:class:`Stack`).

    LSTM   i, f, g, o = input(x_t) + hidden(h);   c = σ(f) c + σ(i) tanh(g);   h = σ(o) tanh(c)
    GRU    r, z, n from input(x_t) and from hidden(h);   n = tanh(n_x + σ(r) n_h);   h = (1 - σ(z)) n + σ(z) h
    RNN    h = tanh(input(x_t) + hidden(h)), or the positive part in place of tanh
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from methods.network.ownership import borrowed_weights

CLASSES: dict[str, Callable[..., nn.RNNBase]] = {
    "LSTM": nn.LSTM, "GRU": nn.GRU, "RNN_TANH": nn.RNN, "RNN_RELU": nn.RNN,
}  # fmt: skip
ROWS = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}  # of a matrix, for each hidden unit
State = tuple[Tensor, Tensor | None]  # hidden state and cell state, (n, H) each


class _Recurrent(nn.Module):
    """Base of the modules that replace a recurrent layer: its settings, arguments and results.

    Attributes:
        mode, num_layers, bidirectional, batch_first, dropout, bias: as in ``nn.RNNBase``.
    """

    def __init__(self, layer: nn.RNNBase | _Recurrent) -> None:
        super().__init__()
        self.mode: str = layer.mode
        self.num_layers: int = layer.num_layers
        self.bidirectional: bool = layer.bidirectional
        self.batch_first: bool = layer.batch_first
        self.dropout: float = layer.dropout
        self.bias: bool = layer.bias
        self.train(layer.training)

    def forward(self, x: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """Return the states of the last layer at every step, and the last states of all layers, as ``nn.RNNBase`` does.

        Raises:
            TypeError: for packed sequences.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"a recurrent layer that is written out reads tensors, not {type(x).__name__}")
        batched = x.dim() == 3
        x = x if batched else x.unsqueeze(0)
        x = x if self.batch_first or not batched else x.transpose(0, 1)
        last: list[State] = []
        for number in range(self.num_layers):
            outputs = []
            for reverse in range(1 + self.bidirectional):
                states, end = self.run(number, bool(reverse), x, _part(hx, len(last), self.mode, batched))
                outputs.append(states)
                last.append(end)
            x = torch.cat(outputs, 2) if self.bidirectional else outputs[0]
            if number < self.num_layers - 1:
                x = functional.dropout(x, self.dropout, self.training)
        x = x if self.batch_first or not batched else x.transpose(0, 1)
        ends: list[Tensor | list[Tensor] | None] = [_joined([end[place] for end in last], batched) for place in (0, 1)]
        return x if batched else x.squeeze(0), tuple(ends) if self.mode == "LSTM" else ends[0]

    def run(self, number: int, reverse: bool, x: Tensor, start: State | None) -> tuple[Tensor, State]:
        """The states (n, length, H) of one layer in one direction, and the last of them."""
        raise NotImplementedError

    def flatten_parameters(self) -> None:
        """Do nothing: the parameters stay where they are."""


class WrittenOut(_Recurrent):
    """A recurrent layer as linear layers ``input_l0``, ``hidden_l0``, ``input_l0_reverse``, and so on (see above).

    Parameters are the same objects as the layer's.
    """

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__(layer)
        for name in _names(self):
            for part, short in (("input", "ih"), ("hidden", "hh")):
                weight, bias = getattr(layer, f"weight_{short}_{name}"), getattr(layer, f"bias_{short}_{name}", None)
                self.add_module(f"{part}_{name}", _linear(weight, bias))

    def put_together(self) -> nn.Module:
        """The recurrent layer of these parameters, or a :class:`Stack`."""
        sizes = {getattr(self, f"hidden_{name}").in_features for name in _names(self)}
        if len(sizes) > 1:
            return Stack(self)
        return _filled(self, list(_names(self)), num_layers=self.num_layers, bidirectional=self.bidirectional)

    def put_together_masks(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Masks of the linear layers by the names that parameters have in the recurrent layer."""
        names = {
            f"{part}_{name}.{own}": f"{own}_{short}_{name}"
            for name, (part, short), own in product(
                _names(self), (("input", "ih"), ("hidden", "hh")), ("weight", "bias")
            )
        }
        return {names[name]: mask for name, mask in masks.items()}

    @property
    def hidden_size(self) -> int:
        """Hidden units of the first layer."""
        return self.hidden_l0.in_features  # type: ignore[return-value, union-attr]  # a linear layer

    @property
    def input_size(self) -> int:
        """Inputs of the first layer."""
        return self.input_l0.in_features  # type: ignore[return-value, union-attr]

    def run(self, number: int, reverse: bool, x: Tensor, start: State | None) -> tuple[Tensor, State]:
        """Compute the states step by step; products with the inputs are computed for all steps at once."""
        name = _name(number, reverse)
        given, hidden = getattr(self, f"input_{name}")(x), getattr(self, f"hidden_{name}")
        samples, length, rows = given.shape
        blank = given.new_zeros(samples, rows // ROWS[self.mode])
        state = start or (blank, blank)
        states = []
        for step in reversed(range(length)) if reverse else range(length):
            state = STEPS[self.mode](given[:, step], hidden(state[0]), state)
            states.append(state[0])
        return torch.stack(states[::-1] if reverse else states, 1), state


class Stack(_Recurrent):
    """Recurrent modules of one layer and direction each, in sequence and in parallel, each with units of its own."""

    def __init__(self, layer: WrittenOut) -> None:
        super().__init__(layer)
        for name in _names(self):
            self.add_module(name, _single(layer, name))

    @property
    def hidden_size(self) -> int:
        """Hidden units of the first layer."""
        return self.l0.hidden_size  # type: ignore[return-value, union-attr]  # a recurrent layer

    def run(self, number: int, reverse: bool, x: Tensor, start: State | None) -> tuple[Tensor, State]:
        """Run the module of this layer and direction."""
        layer = getattr(self, _name(number, reverse))
        given = None if start is None else tuple(each[None] for each in start if each is not None)
        if given is not None and self.mode != "LSTM":
            given = given[0]  # type: ignore[assignment]  # in the form that these modules expect
        states, end = layer(x.flip(1) if reverse else x, given)
        own = (end[0][0], end[1][0]) if self.mode == "LSTM" else (end[0], None)
        return states.flip(1) if reverse else states, own


# --- writing out and putting together --------------------------------------------------------------------------------


def recurrent_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Paths and modules of PyTorch's recurrent layers in a network that can be written out."""
    borrowed = borrowed_weights(model)
    return {
        path: module
        for path, module in model.named_modules()
        if path and path not in borrowed and type(module) in CLASSES.values() and not module.proj_size
    }


def _single(layer: WrittenOut, name: str) -> nn.RNNBase:
    return _filled(layer, [name], batch_first=True, dropout=0.0)


def _filled(layer: WrittenOut, names: list[str], **settings: Any) -> nn.RNNBase:
    """One of PyTorch's recurrent layers, with the parameters of some of the linear layers."""
    first: nn.Linear = getattr(layer, f"input_{names[0]}")
    settings = {"batch_first": layer.batch_first, "dropout": layer.dropout} | settings
    if layer.mode.startswith("RNN"):
        settings["nonlinearity"] = layer.mode.removeprefix("RNN_").lower()
    sizes = first.in_features, getattr(layer, f"hidden_{names[0]}").in_features
    # on no device, so that no initial values are drawn from the global random state
    made: nn.RNNBase = CLASSES[layer.mode](*sizes, bias=layer.bias, device="meta", **settings)
    for name, own in zip(names, _names(made), strict=True):
        for part, short in (("input", "ih"), ("hidden", "hh")):
            linear: nn.Linear = getattr(layer, f"{part}_{name}")
            setattr(made, f"weight_{short}_{own}", linear.weight)
            if layer.bias:
                setattr(made, f"bias_{short}_{own}", linear.bias)
    return made.train(layer.training)


def _linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    layer: nn.Linear = skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = weight
    if bias is not None:
        layer.bias = bias
    return layer


# --- one step ---------------------------------------------------------------------------------------------------------


def _lstm(given: Tensor, carried: Tensor, state: State) -> State:
    i, f, g, o = (given + carried).chunk(4, -1)
    assert state[1] is not None
    cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _gru(given: Tensor, carried: Tensor, state: State) -> State:
    (r, z, n), (r_own, z_own, n_own) = given.chunk(3, -1), carried.chunk(3, -1)
    new = (n + (r + r_own).sigmoid() * n_own).tanh()
    old = (z + z_own).sigmoid()
    return (1 - old) * new + old * state[0], None


def _elman(act: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, State], State]:
    return lambda given, carried, _state: (act(given + carried), None)


STEPS: dict[str, Callable[[Tensor, Tensor, State], State]] = {
    "LSTM": _lstm, "GRU": _gru, "RNN_TANH": _elman(torch.tanh), "RNN_RELU": _elman(torch.relu),
}  # fmt: skip


def _name(number: int, reverse: bool) -> str:
    return f"l{number}_reverse" if reverse else f"l{number}"


def _names(layer: nn.RNNBase | _Recurrent) -> Iterator[str]:
    """Suffixes of PyTorch's names of parameters, layer by layer."""
    for number in range(layer.num_layers):
        for reverse in range(1 + layer.bidirectional):
            yield _name(number, bool(reverse))


def _part(hx: Any, place: int, mode: str, batched: bool) -> State | None:
    """The initial state of one layer in one direction, of those that were given for all."""
    if hx is None:
        return None
    hidden, cell = hx if mode == "LSTM" else (hx, None)
    own = hidden[place] if batched else hidden[place, None]
    return own, None if cell is None else cell[place] if batched else cell[place, None]


def _joined(states: list[Tensor | None], batched: bool) -> Tensor | list[Tensor] | None:
    """(layers x directions, n, H); a list where they have different numbers of units."""
    given = [state if batched else state.squeeze(0) for state in states if state is not None]
    if not given:
        return None
    return torch.stack(given) if len({state.shape for state in given}) == 1 else given
