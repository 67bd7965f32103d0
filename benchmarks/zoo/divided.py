"""Networks that split, slice or chunk what one layer gives, into parts of unequal sizes or of equal ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.zoo.blocks import conv, head
from benchmarks.zoo.specimen import Specimen, images, tokens, vectors


class UnevenSplit(nn.Module):
    """A gated part and a plain one of the same layer; their sizes lie in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [12, 12, 5]
        self.first = nn.Linear(10, 29)
        self.gated, self.plain = nn.Linear(12, 9), nn.Linear(5, 9)
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) of (n, 10)."""
        value, gate, other = self.first(x).split(self.sizes, -1)
        return self.head((self.gated(value * gate.sigmoid()) + self.plain(other.relu())).relu())


class CrossStage(nn.Module):
    """The first channels pass by the others' convolutions (Wang et al. 2020, CSPNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.passing = 8
        self.stem, self.branch, self.join = conv(3, 20), conv(12, 12), conv(20, 16, 1)
        self.head = head(16)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) of (n, 3, ...)."""
        x = self.stem(x)
        return self.head(self.join(torch.cat([x[:, : self.passing], self.branch(x[:, self.passing :])], 1)))


class Chunked(nn.Module):
    """Halves of the channels, and what convolutions make of the second one after the other (C2f of YOLO networks)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16)
        self.blocks = nn.ModuleList(conv(8, 8) for _ in range(2))
        self.join, self.head = conv(32, 12, 1), head(12)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 5) of (n, 3, ...)."""
        parts = list(self.stem(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.head(self.join(torch.cat(parts, 1)))


class SelectiveScan(nn.Module):
    """A state space whose step, input and output weights depend on the input (Gu and Dao 2023), step by step."""

    def __init__(self, width: int = 8, inner: int = 12, state: int = 4, rank: int = 3) -> None:
        super().__init__()
        self.rank, self.state = rank, state
        self.in_proj = nn.Linear(width, 2 * inner)
        self.conv = nn.Conv1d(inner, inner, 3, padding=2, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.decay = nn.Parameter(0.5 * torch.randn(inner, state))
        self.skip = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, length, width) of the same shape."""
        x, gate = self.in_proj(x).chunk(2, -1)
        x = functional.silu(self.conv(x.mT)[..., : x.shape[1]].mT)
        rank, into, out = self.x_proj(x).split([self.rank, self.state, self.state], -1)
        step = functional.softplus(self.dt_proj(rank)).unsqueeze(-1)
        kept, added = (-step * self.decay.exp()).exp(), step * into.unsqueeze(2) * x.unsqueeze(-1)
        state, seen = torch.zeros_like(added[:, 0]), []
        for t in range(x.shape[1]):
            state = kept[:, t] * state + added[:, t]
            seen.append((state * out[:, t, None]).sum(-1))
        return self.out_proj((torch.stack(seen, 1) + self.skip * x) * functional.silu(gate))


class Mamba(nn.Module):
    """Two such layers on a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.norms = nn.ModuleList(nn.RMSNorm(8) for _ in range(2))
        self.mixers = nn.ModuleList(SelectiveScan() for _ in range(2))
        self.head = nn.Linear(8, 50)

    def forward(self, ids: Tensor) -> Tensor:
        """(n, length, 50) of (n, length)."""
        x = self.embed(ids)
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x = x + mixer(norm(x))
        return self.head(x)


class FusedMultiQuery(nn.Module):
    """Queries of several heads, one key and one value, from the same layer (Shazeer 2019)."""

    def __init__(self, width: int = 16, heads: int = 4, head_dim: int = 4) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, head_dim
        self.embed = nn.Embedding(50, width)
        self.qkv = nn.Linear(width, (heads + 2) * head_dim)
        self.project, self.head = nn.Linear(heads * head_dim, width), nn.Linear(width, 50)

    def forward(self, ids: Tensor) -> Tensor:
        """(n, length, 50) of (n, length)."""
        x = self.embed(ids)
        widths = [self.num_heads * self.head_dim, self.head_dim, self.head_dim]
        queries, key, value = self.qkv(x).split(widths, -1)
        queries = queries.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
        weights = (queries @ key.unsqueeze(1).mT * self.head_dim**-0.5).softmax(-1)
        return self.head(x + self.project((weights @ value.unsqueeze(1)).transpose(1, 2).flatten(2)))


SPECIMENS = (
    Specimen("uneven split", "parts of 12, 12 and 5 units; a gate between two", UnevenSplit, vectors(10), True),
    Specimen("CSPNet", "some channels pass by the convolutions of the others", CrossStage, images()),
    Specimen("C2f", "halves of the channels", Chunked, images(), True),
    Specimen("Mamba", "selective state spaces, written out step by step", Mamba, tokens(length=6)),
    Specimen("fused multi-query attention", "queries, one key and one value of one layer", FusedMultiQuery, tokens()),
)
