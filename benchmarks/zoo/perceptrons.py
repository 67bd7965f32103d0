"""Perceptrons with gates and norms, and attention as it is written without a library."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.models.perceptron import MLP
from benchmarks.models.vit import ViT
from benchmarks.zoo.blocks import Added, Averaged, Multiplied, Swapped
from benchmarks.zoo.specimen import Specimen, images, tokens, vectors


def residual(width: int, norm: Callable[[int], nn.Module], *body: nn.Module) -> Added:
    """What passes by, plus what a body makes of it behind a norm."""
    return Added(nn.Identity(), nn.Sequential(norm(width), *body))


def gated_perceptron(act: Callable[[], nn.Module]) -> nn.Module:
    """A gate and what it lets through as two layers (Shazeer 2020), in a residual network of RMS norms."""

    def block() -> Added:
        gate = Multiplied(nn.Sequential(nn.Linear(12, 28), act()), nn.Linear(12, 28))
        return residual(12, nn.RMSNorm, gate, nn.Linear(28, 12))

    return nn.Sequential(nn.Linear(10, 12), block(), block(), nn.RMSNorm(12), nn.Linear(12, 5))


def fused_gate() -> nn.Module:
    """Gate and value as the halves of one layer (Dauphin et al. 2017)."""
    return nn.Sequential(nn.Linear(10, 48), nn.GLU(), nn.Linear(24, 40), nn.GLU(), nn.Linear(20, 5))


def normed(norm: Callable[[int], nn.Module]) -> nn.Module:
    """A norm of all units behind each hidden layer."""
    first, second = (nn.Linear(10, 24), norm(24), nn.ReLU()), (nn.Linear(24, 20), norm(20), nn.ReLU())
    return nn.Sequential(*first, *second, nn.Linear(20, 5))


def autoencoder() -> nn.Module:
    """Through a narrow middle."""
    widths = (12, 20, 6, 20, 12)
    parts = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.Tanh())]
    return nn.Sequential(*parts[:-1])


def mixer() -> nn.Module:
    """Perceptrons along the tokens and along the channels in turn (Tolstikhin et al. 2021)."""

    def mlp(width: int, hidden: int) -> tuple[nn.Module, ...]:
        return nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def block() -> nn.Module:
        along = residual(12, nn.LayerNorm, Swapped(1, 2), *mlp(16, 20), Swapped(1, 2))
        return nn.Sequential(along, residual(12, nn.LayerNorm, *mlp(12, 24)))

    patches = (nn.Conv2d(3, 12, 4, 4), nn.Flatten(2), Swapped(1, 2))
    return nn.Sequential(*patches, block(), block(), nn.LayerNorm(12), Averaged(1), nn.Linear(12, 5))


class Attention(nn.Module):
    """Self-attention with rotary positions, and keys and values that several queries share (Ainslie et al. 2023).

    Args:
        width: the width of what is read and written.
        heads: the heads of the queries.
        shared: queries for each key and value: 1 for multi-head, ``heads`` for multi-query attention.
        size: the size of a head, even.
    """

    def __init__(self, width: int, heads: int, shared: int, size: int = 4) -> None:
        super().__init__()
        self.heads, self.num_key_value_groups, self.size = heads, shared, size
        self.query = nn.Linear(width, heads * size, bias=False)
        self.key_value = nn.Linear(width, 2 * heads // shared * size, bias=False)
        self.output = nn.Linear(heads * size, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) of the same shape."""
        n, length, _ = x.shape
        query = self.query(x).view(n, length, self.heads, self.size).transpose(1, 2)
        pairs = self.key_value(x).view(n, length, 2, self.heads // self.num_key_value_groups, self.size)
        key, value = (part.transpose(1, 2).repeat_interleave(self.num_key_value_groups, 1) for part in pairs.unbind(2))
        query, key = self._turned(query), self._turned(key)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.output(mixed.transpose(1, 2).reshape(n, length, self.heads * self.size))

    def _turned(self, x: Tensor) -> Tensor:
        half = self.size // 2
        place = torch.arange(x.shape[2], dtype=x.dtype, device=x.device)
        rates = 100.0 ** -(torch.arange(half, dtype=x.dtype, device=x.device) / half)
        angle = place[:, None] * rates
        one, other = x[..., :half], x[..., half:]
        return torch.cat([one * angle.cos() - other * angle.sin(), other * angle.cos() + one * angle.sin()], -1)


class Decoder(nn.Module):
    """A small language model: RMS norms, attention, gated perceptrons (Touvron et al. 2023)."""

    def __init__(self, heads: int, shared: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                residual(16, nn.RMSNorm, Attention(16, heads, shared)),
                residual(
                    16, nn.RMSNorm, Multiplied(nn.Sequential(nn.Linear(16, 24), nn.SiLU()), nn.Linear(16, 24)),
                    nn.Linear(24, 16),
                ),
            )
            for _ in range(2)
        )  # fmt: skip
        self.norm, self.head = nn.RMSNorm(16), nn.Linear(16, 50, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(n, length, 50) of (n, length)."""
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Encoder(nn.Module):
    """PyTorch's own transformer encoder over embedded words."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)

    def forward(self, ids: Tensor) -> Tensor:
        """(n, 5) of (n, length)."""
        return self.head(self.encoder(self.embed(ids)).mean(1))


class Attended(nn.Module):
    """Attention of a sequence to itself."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        written: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return written


class PatchEncoder(nn.Module):
    """A vision transformer of PyTorch's own attention, norms first, a class token (Dosovitskiy et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(0.02 * torch.randn(1, 17, 16))
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    residual(16, nn.LayerNorm, Attended(nn.MultiheadAttention(16, 4, batch_first=True))),
                    residual(16, nn.LayerNorm, nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16)),
                )
                for _ in range(2)
            )
        )
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) of (n, 3, 16, 16)."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        return self.head(self.norm(self.blocks(x))[:, 0])


class SequenceFirst(nn.Module):
    """PyTorch's encoder and decoder layers, the sequence in the first dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 4, 24)
        self.decoder = nn.TransformerDecoderLayer(16, 2, 20)
        self.head = nn.Linear(16, 50)

    def forward(self, ids: Tensor) -> Tensor:
        """(n, length, 50) of (n, length); the second half attends to the first."""
        one, other = self.embed(ids).transpose(0, 1).chunk(2)
        return self.head(self.decoder(other, self.encoder(one))).transpose(0, 1)


SHAPE = (3, 16, 16)
SPECIMENS = (
    Specimen("MLP", "plain", partial(MLP, (24, 20), shape=(10,), classes=5), vectors(10), True),
    Specimen("autoencoder", "as many outputs as inputs", autoencoder, vectors(12)),
    Specimen("LayerNorm MLP", "statistics over all units", partial(normed, nn.LayerNorm), vectors(10)),
    Specimen("RMSNorm MLP", "statistics over all units", partial(normed, nn.RMSNorm), vectors(10)),
    Specimen("gated MLP", "SwiGLU, gate and value apart", partial(gated_perceptron, nn.SiLU), vectors(10), True),
    Specimen("fused GLU", "gate and value as halves of a layer", fused_gate, vectors(10)),
    Specimen("MLP-Mixer", "perceptrons along tokens and channels", mixer, images()),
    Specimen(
        "ViT, ours", "one layer for each of Q, K, V", partial(ViT, 12, 2, 3, 20, 4, shape=SHAPE, classes=5), images()
    ),
    Specimen("multi-head attention", "rotary positions, keys and values fused", partial(Decoder, 4, 1), tokens()),
    Specimen("grouped-query attention", "two queries for each key", partial(Decoder, 4, 2), tokens(), True),
    Specimen("multi-query attention", "one key for all queries", partial(Decoder, 4, 4), tokens()),
    Specimen("nn.TransformerEncoder", "weights of attention in one parameter", Encoder, tokens(), True),
    Specimen("nn.MultiheadAttention", "a vision transformer, norms first", PatchEncoder, images()),
    Specimen("nn.TransformerDecoderLayer", "attends to another sequence; sequences first", SequenceFirst, tokens()),
)
