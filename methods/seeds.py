"""Named, independent random streams derived from one root seed.

A stream belongs to a name, not to a position in the program: drawing more numbers for one layer, or visiting layers in
another order, leaves every other stream as it was.
"""

import hashlib

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream ``names`` under the root ``seed``, the same on every machine."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: str | int) -> torch.Generator:
    """Return a new CPU generator for the stream ``names`` under the root ``seed``."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))
