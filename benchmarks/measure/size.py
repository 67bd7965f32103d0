"""Measure the size of a network on disk: as a plain file, and with its zeros left out.

Zeros in a dense file save nothing. So three sizes are given: the plain safetensors file; an encoding in which each
tensor is reduced to its nonzero values and one bit per entry that marks them, or kept plain where that is smaller; and
this encoding after compression (deflate), as for a download. Dense networks are encoded and compressed in the same
way, so that like is compared with like.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.storage.checkpoint import to_bytes, unshared

BITS, VALUES, SHAPE = ".nonzero_bits", ".nonzero_values", ".shape"
LEVEL = 6  # compression level: zlib's own default


@dataclass(frozen=True)
class Size:
    """Bytes of one network.

    Attributes:
        bytes: parameters and buffers as a plain safetensors file.
        encoded: with zeros left out.
        compressed: with zeros left out, then deflated.
    """

    bytes: int
    encoded: int
    compressed: int


def measure_size(model: nn.Module) -> Size:
    """Sizes of ``model``; a tensor that several layers share is counted once."""
    tensors = unshared(model)
    sparse = to_bytes(encode(tensors))
    return Size(len(to_bytes(tensors)), len(sparse), len(zlib.compress(sparse, LEVEL)))


def encode(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace tensors by nonzero values, bits and shape where that is smaller; :func:`decode` undoes it."""
    encoded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().reshape(-1)
        nonzero = flat != 0
        kept = int(nonzero.sum())
        if (flat.numel() - kept) * flat.element_size() <= -(-flat.numel() // 8) + 8 * tensor.dim():
            encoded[name] = tensor
            continue
        encoded[name + BITS] = torch.from_numpy(np.packbits(nonzero.numpy()))
        encoded[name + VALUES] = flat[nonzero]
        encoded[name + SHAPE] = torch.tensor(tensor.shape)
    return encoded


def decode(encoded: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Restore the tensors that :func:`encode` was given."""
    tensors = {}
    for name, tensor in encoded.items():
        base = name.removesuffix(VALUES)
        if base != name and base + BITS in encoded:
            shape = encoded[base + SHAPE].tolist()
            flat = torch.zeros(int(np.prod(shape)), dtype=tensor.dtype, device=tensor.device)
            bits = np.unpackbits(encoded[base + BITS].cpu().numpy(), count=flat.numel())
            flat[torch.from_numpy(bits.astype(bool)).to(tensor.device)] = tensor
            tensors[base] = flat.reshape(shape)
        elif not name.endswith((BITS, SHAPE)):
            tensors[name] = tensor
    return tensors
