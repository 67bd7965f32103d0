"""A small encoder of short texts, of which the end may be padding."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.models.gpt import initialise
from benchmarks.models.vit import Attention, Block
from methods.errors import BadInput


class MaskedAttention(Attention):
    """Multi-head self-attention that sees no padding."""

    def forward(self, x: Tensor, present: Tensor) -> Tensor:  # type: ignore[override]  # it needs to know them
        """(B, T, dim) of (B, T, dim), and where there are tokens (B, T)."""
        query, key, value = (self._heads(layer(x)) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(2, 3) * self.head_width**-0.5
        weights = self.softmax(scores.masked_fill(~present[:, None, None], float("-inf")))
        return self.project((weights @ value).transpose(1, 2).flatten(2))


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
        self.blocks = nn.ModuleList(Block(MaskedAttention(dim, heads), dim, hidden) for _ in range(depth))
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
