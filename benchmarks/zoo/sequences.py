"""Networks for sequences, sets of points and text without attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.models.recurrent import ElmanRNN
from benchmarks.zoo.blocks import Added, Averaged, Joined, Multiplied, Swapped
from benchmarks.zoo.specimen import Specimen, tokens, vectors


class Causal(nn.Module):
    """A dilated convolution that sees the present and the past."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.before = 2 * dilation
        self.conv = nn.Conv1d(inputs, outputs, 3, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """(n, outputs, length) of (n, inputs, length)."""
        return self.conv(nn.functional.pad(x, (self.before, 0)))


def temporal_convolutions() -> nn.Module:
    """Residual blocks of growing dilation (Bai, Kolter and Koltun 2018)."""

    def block(inputs: int, outputs: int, dilation: int) -> nn.Module:
        body = (Causal(inputs, outputs, dilation), nn.ReLU(), Causal(outputs, outputs, dilation), nn.ReLU())
        shortcut = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)
        return nn.Sequential(Added(shortcut, nn.Sequential(*body)), nn.ReLU())

    return nn.Sequential(block(3, 12, 1), block(12, 12, 2), nn.Conv1d(12, 4, 1))


def wavenet() -> nn.Module:
    """Gated dilated convolutions (van den Oord et al. 2016)."""

    def block(dilation: int) -> Added:
        one, other = (nn.Sequential(Causal(12, 16, dilation), act) for act in (nn.Tanh(), nn.Sigmoid()))
        return Added(nn.Identity(), nn.Sequential(Multiplied(one, other), nn.Conv1d(16, 12, 1)))

    return nn.Sequential(nn.Conv1d(3, 12, 1), block(1), block(2), nn.ReLU(), nn.Conv1d(12, 5, 1))


def text_convolutions() -> nn.Module:
    """Convolutions of several widths over words, and the maximum of each (Kim 2014)."""
    branches = [nn.Sequential(nn.Conv1d(16, 10, width), nn.ReLU(), nn.AdaptiveMaxPool1d(1)) for width in (2, 3, 4)]
    return nn.Sequential(nn.Embedding(50, 16), Swapped(1, 2), Joined(*branches), nn.Flatten(), nn.Linear(30, 5))


def pointnet() -> nn.Module:
    """The same perceptron for every point, and the maximum over all (Qi et al. 2017)."""
    parts: list[nn.Module] = []
    for inputs, outputs in ((3, 12), (12, 20)):
        parts += [nn.Conv1d(inputs, outputs, 1), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5))


class Recurrent(nn.Module):
    """Embedded words through one of PyTorch's recurrent layers, and a linear layer.

    Args:
        layer: makes the recurrent layer for a number of inputs.
        tags: one answer for each word; else one for the sentence, from the last.
    """

    def __init__(self, layer: Callable[[int], nn.RNNBase], tags: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 12)
        self.recurrent = layer(12)
        self.tags = tags
        features = self.recurrent.hidden_size * (2 if self.recurrent.bidirectional else 1)
        self.output = nn.Linear(features, 5)

    def forward(self, ids: Tensor) -> Tensor:
        """(n, length, 5) or (n, 5) of (n, length)."""
        states, _ = self.recurrent(self.embed(ids))
        return self.output(states if self.tags else states[:, -1])


def tagger(layer: Callable[..., nn.RNNBase], tags: bool = False, **settings: object) -> Callable[[], nn.Module]:
    """A factory of :class:`Recurrent` with 14 hidden units."""
    return partial(Recurrent, partial(layer, hidden_size=14, batch_first=True, **settings), tags)


class Encoded(nn.Module):
    """The same encoder for two inputs, compared (Bromley et al. 1993)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU())
        self.compare = nn.Linear(16, 5)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """(n, 5) of two (n, 10)."""
        return self.compare((self.encoder(one) - self.encoder(other)).abs())


class TwoInputs(nn.Module):
    """An image and a vector; what comes of them is joined. A tuple is returned: classes and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.ReLU(), Averaged(2, 3))
        self.vector = nn.Sequential(nn.Linear(6, 14), nn.ReLU())
        self.mixed = nn.Sequential(nn.Linear(26, 20), nn.ReLU())
        self.classes, self.number = nn.Linear(20, 5), nn.Linear(20, 1)

    def forward(self, image: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 5) and (n, 1) of (n, 3, h, w) and (n, 6)."""
        mixed = self.mixed(torch.cat([self.image(image), self.vector(vector)], 1))
        return self.classes(mixed), self.number(mixed)


WORDS, ELMAN = tokens(), partial(ElmanRNN, 16, shape=(6, 4), classes=5)
SPECIMENS = (
    Specimen("TCN", "dilated convolutions over time, residual", temporal_convolutions, vectors(3, 12)),
    Specimen("WaveNet", "gated dilated convolutions, residual", wavenet, vectors(3, 12)),
    Specimen("text CNN", "convolutions of several widths", text_convolutions, WORDS, True),
    Specimen("PointNet", "the same for every point, then the maximum", pointnet, vectors(3, 20)),
    Specimen("Elman network", "a hidden state, written out", ELMAN, vectors(6, 4)),
    Specimen("RNN classifier", "nn.RNN", tagger(nn.RNN), WORDS),
    Specimen("LSTM tagger", "nn.LSTM of two layers", tagger(nn.LSTM, True, num_layers=2), WORDS),
    Specimen("two-way LSTM", "nn.LSTM forwards and backwards", tagger(nn.LSTM, True, bidirectional=True), WORDS),
    Specimen("GRU classifier", "nn.GRU, the last state", tagger(nn.GRU), WORDS),
    Specimen(
        "siamese network", "one encoder for two inputs", Encoded,
        lambda n, g: (torch.randn(n, 10, generator=g), torch.randn(n, 10, generator=g)),
    ),
    Specimen(
        "two inputs", "an image and a vector; returns a tuple", TwoInputs,
        lambda n, g: {"image": torch.randn(n, 3, 8, 8, generator=g), "vector": torch.randn(n, 6, generator=g)},
        True,
    ),
)  # fmt: skip
