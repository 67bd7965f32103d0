"""The greedy search of spectral pruning with rank-one updates, compared with trying every candidate afresh.

Trying afresh means: for each of the k steps and each node that is left, solve for the reconstruction with that node
added and take the one with the smallest information loss. Two references do so: one solve after the other, from the
loss as it is defined, which is what the promise is about, and, for comparison, all candidates of a step at once.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.measure.side_by_side import Finding, Promise, Times, alone, alternate, clock
from methods.seeds import stream
from methods.spectral.greedy import Metric, greedy_selection
from methods.spectral.selection import information_loss, leverage_scores, output_metric

LAM = 1e-6


def measure(quick: bool) -> Iterator[Finding]:
    """Time the search against the definition, and against the definition in batches."""
    m, k = (48, 8) if quick else (256, 64)
    covariance, ridge, metric = problem(m, k)
    dense = metric.times(torch.eye(m, dtype=torch.float64))
    found: dict[str, list[int]] = {}
    promise = None if quick else Promise(ratio=0.01)

    def ours() -> None:
        found["ours"] = greedy_selection(covariance, k, ridge, metric).tolist()

    def batched() -> None:
        found["batched"] = _batched(covariance, k, ridge, dense)

    def defined() -> None:
        found["defined"] = _defined(covariance, k, ridge, dense)

    own = alone(ours, runs=5).ours
    theirs = clock(defined)
    slow = Times(own, theirs, own / theirs, None, None, 1)
    what = f"greedy search, m = {m}, k = {k}, theta = 0.5"
    same = found["ours"] == found["defined"]
    yield Finding(what, slow, "recomputing each candidate by its definition", promise, same)
    [times] = alternate(ours, batched, pairs=1 if quick else 3)
    same = found["ours"] == found["batched"]
    yield Finding(what, times, "the same, all candidates of a step in one batch", None, same)


def problem(m: int, k: int) -> tuple[Tensor, Tensor, Metric]:
    """Covariance of correlated rectified features, spectral pruning's ridge for k nodes, and its metric."""
    random = stream(0, "speed", "spectral", m)
    mixing = torch.randn(m, m, generator=random, dtype=torch.float64) / m**0.5
    features = (torch.randn(4 * m, m, generator=random, dtype=torch.float64) @ mixing).clamp_(min=0)
    covariance = features.T @ features / len(features)
    lam = LAM * covariance.trace().item()
    ridge = k * lam * leverage_scores(covariance, lam)
    reader = torch.randn(m // 4, m, 1, generator=random, dtype=torch.float64)
    return covariance, ridge, output_metric([reader], theta=0.5)


def _defined(covariance: Tensor, k: int, ridge: Tensor, metric: Tensor) -> list[int]:
    kept: list[int] = []
    for _ in range(k):
        best, lowest = -1, float("inf")
        for node in range(len(covariance)):
            if node not in kept:
                nodes = torch.tensor([*kept, node])
                loss = float(information_loss(covariance, nodes, ridge[nodes], metric))
                if loss < lowest:
                    best, lowest = node, loss
        kept.append(best)
    return kept


def _batched(covariance: Tensor, k: int, ridge: Tensor, metric: Tensor) -> list[int]:
    """Tr[M R_J] = Tr[M S] - Tr[(S_JJ + diag tau)^-1 (S M S)_JJ], for all J of a step together."""
    seen = covariance @ metric @ covariance
    system = covariance + torch.diag(ridge)
    kept: list[int] = []
    for _ in range(k):
        free = torch.tensor([node for node in range(len(covariance)) if node not in kept])
        sets = torch.cat([torch.tensor(kept, dtype=torch.int64).expand(len(free), -1), free[:, None]], 1)
        rows, columns = sets[:, :, None], sets[:, None, :]
        solved = torch.linalg.solve(system[rows, columns], seen[rows, columns])
        kept.append(int(free[solved.diagonal(dim1=1, dim2=2).sum(1).argmax()]))
    return kept
