"""Elman's recurrent network, and the IRNN (Le, Jaitly and Hinton 2015, arXiv 1504.00941) that spectral pruning used."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from methods.errors import BadInput

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


class ElmanRNN(nn.Module):
    """h_t = activation(W^x x_t + b + W^h h_(t-1)) with h_0 = 0, and logits W^o h_T + b^o after the last step.

    The three matrices are the layers ``input``, ``recurrent`` and ``output``. ``recurrent`` is first called in the
    second step: W^h h_0 = 0.

    Args:
        hidden: size of the hidden state.
        activation: ``relu`` or ``tanh``.
        identity: W^h starts as the identity times this (an IRNN for 1); None leaves PyTorch's default.
        shape: (T, d), T steps of d inputs.
        classes: number of outputs.
    """

    def __init__(
        self,
        hidden: int = 128,
        activation: str = "relu",
        identity: float | None = 1.0,
        *,
        shape: Sequence[int],
        classes: int,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise BadInput(f"model.activation={activation}; expected one of {', '.join(ACTIVATIONS)}")
        if hidden < 1:
            raise BadInput(f"model.hidden={hidden}; expected a size of at least 1, for instance 128")
        if len(shape) != 2:
            raise BadInput(
                f"a recurrent model cannot take inputs of shape {tuple(shape)}; expected (steps, inputs).\n"
                "Choose dataset=row_mnist or dataset=pixel_mnist, or model=mlp."
            )
        self.input = nn.Linear(shape[1], hidden)
        self.recurrent = nn.Linear(hidden, hidden, bias=False)
        self.activation = ACTIVATIONS[activation]()
        self.output = nn.Linear(hidden, classes)
        if identity is not None:
            with torch.no_grad():
                self.recurrent.weight.copy_(identity * torch.eye(hidden))
            nn.init.normal_(self.input.weight, std=0.001 if shape[1] == 1 else shape[1] ** -0.5)
            nn.init.zeros_(self.input.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of sequences (B, T, d)."""
        first, *rest = self.input(x).unbind(1)
        state = self.activation(first)
        for drive in rest:
            state = self.activation(drive + self.recurrent(state))
        return self.output(state)
