"""Small decoders of tokens: a GPT, and a LLaMA with its norms, gates, shared keys and rotary positions.

As in :mod:`benchmarks.models.vit` queries, keys and values are layers of their own and how many heads there are is read
off their sizes, so that a network with fewer heads is the same code; attention is written out, since fused kernels have
no second derivatives.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.models.vit import Block
from methods.errors import BadInput


class CausalAttention(nn.Module):
    """Multi-head self-attention that sees no later token; several heads of queries may share one of keys and values.

    Head h of the queries is units h w, ..., (h + 1) w - 1 of ``query`` and reads head h // (heads / shared) of ``key``
    and ``value`` (grouped-query attention, Ainslie et al. 2023).

    Args:
        dim: width of the residual stream.
        heads: heads of queries.
        shared: heads of keys and values; divides ``heads``.
        length: most tokens.
        rotary: whether positions turn queries and keys (Su et al. 2021) instead of being added to the stream.
        bias: whether layers have one.
    """

    closed: Tensor
    turn: Tensor

    def __init__(self, dim: int, heads: int, shared: int, length: int, *, rotary: bool, bias: bool) -> None:
        super().__init__()
        self.head_width = dim // heads
        self.repeat = heads // shared
        self.rotary = rotary
        self.query = nn.Linear(dim, dim, bias=bias)
        self.key = nn.Linear(dim, shared * self.head_width, bias=bias)
        self.value = nn.Linear(dim, shared * self.head_width, bias=bias)
        self.softmax = nn.Softmax(-1)
        self.project = nn.Linear(dim, dim, bias=bias)
        self.register_buffer("closed", torch.ones(length, length).triu(1).bool(), persistent=False)
        if rotary:
            self.register_buffer("turn", rotations(length, self.head_width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) of (B, T, dim)."""
        query, key, value = (self._heads(layer(x)) for layer in (self.query, self.key, self.value))
        if self.rotary:
            query, key = turned(query, self.turn), turned(key, self.turn)
        if self.repeat > 1:
            key, value = key.repeat_interleave(self.repeat, 1), value.repeat_interleave(self.repeat, 1)
        scores = query @ key.transpose(2, 3) * self.head_width**-0.5
        weights = self.softmax(scores.masked_fill(self.closed[: x.shape[1], : x.shape[1]], float("-inf")))
        return self.project((weights @ value).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, self.head_width)).transpose(1, 2)


def rotations(length: int, width: int, base: float = 10_000.0) -> Tensor:
    """(2, length, width / 2) cosines and sines of t base^(-2 i / width), t the position and i the pair of units."""
    angles = torch.arange(length)[:, None] * base ** (-2 * torch.arange(width // 2) / width)
    return torch.stack((angles.cos(), angles.sin()))


def turned(x: Tensor, turn: Tensor) -> Tensor:
    """X (B, heads, T, width) with units i and i + width / 2 turned by their angle at each position."""
    first, second = x.chunk(2, -1)
    cosine, sine = turn[0, : x.shape[2]], turn[1, : x.shape[2]]
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), -1)


class LlamaBlock(nn.Module):
    """x + attention(norm1(x)), and then x + down(silu(gate(y)) up(y)) with y = norm2(x) (SwiGLU, Shazeer 2020)."""

    def __init__(self, dim: int, heads: int, shared: int, hidden: int, length: int) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(dim, eps=1e-5)
        self.attention = CausalAttention(dim, heads, shared, length, rotary=True, bias=False)
        self.norm2 = nn.RMSNorm(dim, eps=1e-5)
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.silu = nn.SiLU()
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) of (B, T, dim)."""
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        return x + self.down(self.silu(self.gate(y)) * self.up(y))


class CharGPT(nn.Module):
    """A GPT (Radford et al. 2019): learned positions, blocks with norms first, a linear layer on every token.

    Args:
        dim: width of the residual stream.
        depth: number of blocks.
        heads: per block; divides ``dim``.
        hidden: width of the MLPs.
        shape: (T,), most tokens of a sequence.
        classes: tokens there are to predict.
        vocabulary: tokens there are to read.
    """

    def __init__(
        self,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        hidden: int = 512,
        *,
        shape: Sequence[int],
        classes: int,
        vocabulary: int | None = None,
    ) -> None:
        super().__init__()
        (length,) = _checked("char_gpt", shape, dim, depth, heads, heads, hidden)
        self.embedding = nn.Embedding(vocabulary or classes, dim)
        self.positions = nn.Parameter(0.02 * torch.randn(1, length, dim))
        attentions = (CausalAttention(dim, heads, heads, length, rotary=False, bias=True) for _ in range(depth))
        self.blocks = nn.Sequential(*(Block(attention, dim, hidden) for attention in attentions))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)
        initialise(self, depth)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, T, classes) of the token after each of ids (B, T)."""
        x = self.embedding(x) + self.positions[:, : x.shape[1]]
        return self.head(self.norm(self.blocks(x)))


class CharLlama(nn.Module):
    """A LLaMA (Touvron et al. 2023): RMSNorm, gated MLPs, rotary positions, keys and values shared by heads.

    Args:
        dim: width of the residual stream.
        depth: number of blocks.
        heads: of queries, per block; divides ``dim``, with an even quotient.
        shared: heads of keys and values; divides ``heads``.
        hidden: width of the gated MLPs.
        shape: (T,), most tokens of a sequence.
        classes: tokens there are to predict.
        vocabulary: tokens there are to read.
    """

    def __init__(
        self,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        shared: int = 2,
        hidden: int = 344,
        *,
        shape: Sequence[int],
        classes: int,
        vocabulary: int | None = None,
    ) -> None:
        super().__init__()
        (length,) = _checked("char_llama", shape, dim, depth, heads, shared, hidden)
        if (dim // heads) % 2:
            raise BadInput(f"heads of {dim // heads} units cannot be turned in pairs; type for instance model.dim=128")
        self.embedding = nn.Embedding(vocabulary or classes, dim)
        self.blocks = nn.Sequential(*(LlamaBlock(dim, heads, shared, hidden, length) for _ in range(depth)))
        self.norm = nn.RMSNorm(dim, eps=1e-5)
        self.head = nn.Linear(dim, classes, bias=False)
        initialise(self, depth)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, T, classes) of the token after each of ids (B, T)."""
        return self.head(self.norm(self.blocks(self.embedding(x))))


def _checked(
    name: str, shape: Sequence[int], dim: int, depth: int, heads: int, shared: int, hidden: int
) -> tuple[int, ...]:
    if len(shape) != 1:
        raise BadInput(
            f"model {name} cannot take inputs of shape {tuple(shape)}; expected sequences of tokens, (T,).\n"
            "Choose dataset=tinyshakespeare, or another model."
        )
    if heads < 1 or dim % heads:
        raise BadInput(f"model.heads={heads} does not divide model.dim={dim}; type for instance model.heads=4")
    if shared < 1 or heads % shared:
        raise BadInput(f"model.shared={shared} does not divide model.heads={heads}; type for instance model.shared=1")
    if depth < 1 or hidden < 1:
        raise BadInput(f"model.depth={depth}, model.hidden={hidden}; expected at least 1")
    return tuple(shape)


@torch.no_grad()
def initialise(model: nn.Module, depth: int) -> None:
    """Normal weights of deviation 0.02, smaller by sqrt(2 depth) where a block writes into the stream (GPT-2)."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            writes = path.rpartition(".")[2] in ("project", "fc2", "down")
            module.weight.normal_(std=0.02 / (2 * depth) ** 0.5 if writes else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
