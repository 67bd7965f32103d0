"""A small vision transformer (Dosovitskiy et al. 2021), with heads and MLP widths that can be removed.

Queries, keys and values are layers of their own, and how many heads there are is read off their sizes, so that a
network with fewer heads is the same code. Attention is written out: fused kernels have no second derivatives.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from methods.errors import BadInput


class Attention(nn.Module):
    """Multi-head self-attention; head h is units h w, ..., (h + 1) w - 1 of ``query``, ``key`` and ``value``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.head_width = dim // heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.softmax = nn.Softmax(-1)
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, dim) of (B, tokens, dim)."""
        query, key, value = (self._heads(layer(x)) for layer in (self.query, self.key, self.value))
        weights = self.softmax(query @ key.transpose(2, 3) * self.head_width**-0.5)
        return self.project((weights @ value).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, self.head_width)).transpose(1, 2)


class Block(nn.Module):
    """x + attention(norm1(x)), and then x + mlp(norm2(x)).

    Args:
        attention: what else it is told beside x, ``forward`` hands over.
        dim: width of the residual stream.
        hidden: width of the MLP.
    """

    def __init__(self, attention: nn.Module, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = attention
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, *told: Tensor) -> Tensor:
        """(B, tokens, dim) of (B, tokens, dim)."""
        x = x + self.attention(self.norm1(x), *told)
        return x + self.fc2(self.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """Patches as tokens, learned positions, blocks, and a linear layer on the mean of all tokens.

    Args:
        dim: width of the residual stream.
        depth: number of blocks.
        heads: per block; divides ``dim``.
        hidden: width of the MLPs.
        patch: side of a patch in pixels.
        shape: (C, H, W), H and W multiples of ``patch``.
        classes: number of outputs.
    """

    def __init__(
        self,
        dim: int = 128,
        depth: int = 4,
        heads: int = 8,
        hidden: int = 256,
        patch: int = 4,
        *,
        shape: Sequence[int],
        classes: int,
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise BadInput(f"model.heads={heads} does not divide model.dim={dim}; type for instance model.heads=4")
        if depth < 1 or hidden < 1:
            raise BadInput(f"model.depth={depth}, model.hidden={hidden}; expected at least 1")
        if len(shape) != 3 or patch < 1 or any(side % patch for side in shape[1:]):
            raise BadInput(
                f"model vit cannot take inputs of shape {tuple(shape)}; expected images whose sides are multiples of "
                f"model.patch={patch}.\nChoose model=mlp, or another model.patch."
            )
        self.patches = nn.Conv2d(shape[0], dim, patch, stride=patch)
        self.flatten = nn.Flatten(2)
        tokens = (shape[1] // patch) * (shape[2] // patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, dim))
        self.blocks = nn.Sequential(*(Block(Attention(dim, heads), dim, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        x = self.flatten(self.patches(x)).transpose(1, 2) + self.positions
        return self.classifier(self.norm(self.blocks(x)).mean(1))
