"""ExactOBS on one layer: every row emptied weight by weight, compared with down-dating row after row as published."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.measure.side_by_side import Finding, Promise, Times, clock
from methods.hessian.exact_obs import inverse_hessian, removal_order
from methods.seeds import stream


def measure(quick: bool) -> Iterator[Finding]:
    """Time all rows of ours, and a few rows of the plain loop, extrapolated to all."""
    rows, size, samples, part = (6, 24, 64, 6) if quick else (512, 512, 1024, 4)
    random = stream(0, "speed", "exact_obs")
    inputs = torch.randn(size, samples, generator=random, dtype=torch.float64)
    weight = torch.randn(rows, size, generator=random, dtype=torch.float64)
    inverse, _ = inverse_hessian(inputs @ inputs.T / samples, samples, 1e-4)
    found: dict[str, Tensor] = {}

    def ours() -> None:
        found["ours"] = removal_order(weight, inverse).order

    def theirs() -> None:
        found["theirs"] = torch.stack([one_by_one(row, inverse) for row in weight[:part]])

    own, other = clock(ours), clock(theirs) * rows / part
    times = Times(own, other, own / other)
    note = (
        "" if part == rows else f"the plain loop extrapolated from {part} of {rows} rows; published code: about 120 s"
    )
    yield Finding(
        f"ExactOBS, {rows} x {size} layer, {samples:,} samples",
        replace(times, pairs=1),
        "rank-one down-dates, row by row",
        None if quick else Promise(seconds=40),
        bool((found["ours"][:part] == found["theirs"]).all()),
        note,
    )


def one_by_one(weight: Tensor, inverse: Tensor) -> Tensor:
    """The order in which one row loses its weights: w_j^2 / [H^-1]_jj smallest, then H^-1 down-dated."""
    weight, inverse = weight.clone(), inverse.clone()
    alive = torch.ones(len(weight), dtype=torch.bool)
    order = []
    for _ in range(len(weight)):
        score = torch.where(alive, weight.square() / inverse.diagonal().clamp_min(1e-300), torch.inf)
        j = int(score.argmin())
        column, pivot = inverse[:, j].clone(), inverse[j, j].clone()
        weight -= column * (weight[j] / pivot)
        inverse -= torch.outer(column, column) / pivot
        alive[j] = False
        order.append(j)
    return torch.tensor(order)
