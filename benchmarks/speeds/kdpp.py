"""Exact draws of a k-DPP: the first one, with the eigendecomposition, and later ones from the same kernel.

Beside DPPy's exact sampler where that can be imported, else beside its published seconds (two cores). The results of
two samplers are random; how often each item is drawn must agree with the exact marginals.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure.side_by_side import Finding, Promise, alone, alternate
from methods.dpp.determinantal import KDPP, similarity_kernel
from methods.seeds import stream

SEEN = {500: (0.093, 0.031), 1000: (0.50, 0.21)}  # DPPy 0.3.3 on two cores: first draw, later draws
NO_SLOWER = 1.0


def measure(quick: bool) -> Iterator[Finding]:
    """Time draws of half of the items of a DIVNET kernel."""
    for size in (60,) if quick else (500, 1000):
        yield from _draws(size, quick)


def _draws(size: int, quick: bool) -> Iterator[Finding]:
    random = stream(0, "speed", "dpp", size)
    mixing = torch.randn(size, size, generator=random, dtype=torch.float64) * 2 / size**0.5
    kernel = similarity_kernel(torch.sigmoid(torch.randn(2000, size, generator=random, dtype=torch.float64) @ mixing))
    k, draws, runs = size // 2, stream(1, "speed", "dpp"), 3 if quick else 11
    dppy, kept = _dppy(kernel), KDPP.from_kernel(kernel)
    agree = _marginals_agree(kept, k) if quick else None

    def first() -> None:
        KDPP.from_kernel(kernel).sample(k, draws)

    def later() -> None:
        kept.sample(k, draws)

    titles = [f"k-DPP, N = {size}, k = {k}: {what}" for what in ("first draw", "later draw")]
    if dppy is None:
        for title, ours, seconds in zip(titles, (first, later), SEEN.get(size, (None, None)), strict=True):
            promise = None if quick else Promise(seconds=seconds)
            yield Finding(title, alone(ours, runs=runs), "DPPy 0.3.3 as seen on two cores", promise, agree)
        return
    held = dppy(kernel)
    held(k)  # DPPy decomposes at its first draw
    for title, ours, theirs in zip(titles, (first, later), (lambda: dppy(kernel)(k), lambda: held(k)), strict=True):
        [times] = alternate(ours, theirs, pairs=runs)
        yield Finding(title, times, "DPPy", None if quick else Promise(ratio=NO_SLOWER), agree)


def _dppy(kernel: Tensor) -> Any:
    """From a kernel to DPPy's sampler over it; None if DPPy is not here or fails on this kernel."""
    try:
        import numpy as np
        from dppy.finite_dpps import FiniteDPP
    except ImportError:
        return None

    def sampler(kernel: Tensor) -> Any:
        dpp = FiniteDPP("likelihood", L=kernel.numpy())
        state = np.random.RandomState(0)
        return lambda k: dpp.sample_exact_k_dpp(size=k, random_state=state)

    try:
        sampler(kernel)(len(kernel) // 2)
    except Exception:  # whatever it raises where it overflows
        return None
    return sampler


def _marginals_agree(dpp: KDPP, k: int, draws: int = 400) -> bool:
    """How often items are drawn, against their exact probabilities; five standard deviations allow for many items."""
    random = stream(2, "speed", "dpp")
    counts = torch.zeros(dpp.size, dtype=torch.float64)
    for _ in range(draws):
        counts[dpp.sample(k, random)] += 1
    exact = dpp.marginals(k)
    allowed = 5 * (exact * (1 - exact) / draws).sqrt() + 1 / draws
    return bool(((counts / draws - exact).abs() <= allowed).all())
