"""A small encoder of short texts, of which the end may be padding."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.models.gpt import initialise
from methods.errors import BadInput


class MaskedAttention(nn.Module):
    """Multi-head self-attention that sees no padding; heads as in :class:`benchmarks.models.vit.Attention`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.head_width = dim // heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.softmax = nn.Softmax(-1)
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """(B, T, dim) of (B, T, dim), and where there are tokens (B, T)."""
        query, key, value = (self._heads(layer(x)) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(2, 3) * self.head_width**-0.5
        weights = self.softmax(scores.masked_fill(~present[:, None, None], float("-inf")))
        return self.project((weights @ value).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, self.head_width)).transpose(1, 2)


class EncoderBlock(nn.Module):
    """x + attention(norm1(x)), and then x + mlp(norm2(x))."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = MaskedAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """(B, T, dim) of (B, T, dim), and where there are tokens (B, T)."""
        x = x + self.attention(self.norm1(x), present)
        return x + self.fc2(self.gelu(self.fc1(self.norm2(x))))


class TextEncoder(nn.Module):
    """Learned positions, blocks, and a linear layer on the mean of all tokens that are there.

    Args:
        dim: width of the residual stream.
        depth: number of blocks.
        heads: per block; divides ``dim``.
        hidden: width of the MLPs.
        shape: (T,), most tokens of a text.
        classes: number of outputs.
        vocabulary: tokens there are to read.
        padding: the id of no token.
    """

    def __init__(
        self,
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        hidden: int = 128,
        *,
        shape: Sequence[int],
        classes: int,
        vocabulary: int = 0,
        padding: int = 0,
    ) -> None:
        super().__init__()
        if len(shape) != 1 or not vocabulary:
            raise BadInput(
                f"model text_encoder cannot take inputs of shape {tuple(shape)}; expected tokens of texts\n"
                "choose dataset=sentence_polarity or dataset=sentences, or another model"
            )
        if heads < 1 or dim % heads:
            raise BadInput(f"model.heads={heads} does not divide model.dim={dim}; type for instance model.heads=4")
        if depth < 1 or hidden < 1:
            raise BadInput(f"model.depth={depth}, model.hidden={hidden}; expected at least 1")
        self.padding = padding
        self.embedding = nn.Embedding(vocabulary, dim)
        self.positions = nn.Parameter(0.02 * torch.randn(1, shape[0], dim))
        self.blocks = nn.ModuleList(EncoderBlock(dim, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, classes)
        initialise(self, depth)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of ids (B, T)."""
        present = x != self.padding
        present = present | ~present.any(1, keepdim=True)  # a text of nothing is read as it is
        x = self.embedding(x) + self.positions[:, : x.shape[1]]
        for block in self.blocks:
            x = block(x, present)
        weights = present.unsqueeze(2).to(x.dtype)
        return self.classifier((self.norm(x) * weights).sum(1) / weights.sum(1))
