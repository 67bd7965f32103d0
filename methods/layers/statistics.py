"""Calibration data, and the second moments of what each layer reads: float64, in one pass over the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.errors import BadInput
from methods.network.reading import Rows, evaluating, listening


@dataclass(frozen=True)
class Calibration:
    """Training samples on which pruning may look; never validation or test data.

    Attributes:
        inputs: (n, ...) normalised network inputs.
        labels: (n,) true labels; only methods that need curvature use them.
        indices: (n,) positions of the samples in the training split; None where they come from elsewhere.
        seed: root seed of the draw; methods derive their own streams from it.
        batch_size: samples per forward pass.
    """

    inputs: Tensor
    labels: Tensor
    indices: Tensor | None = None
    seed: int = 0
    batch_size: int = 256

    def __post_init__(self) -> None:
        if len(self.inputs) == 0:
            raise BadInput("the calibration set is empty; expected at least one sample: set calibration.samples=1000")

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels, ``batch_size`` at a time, always in the same order."""
        for start in range(0, len(self.inputs), self.batch_size):
            stop = start + self.batch_size
            yield self.inputs[start:stop], self.labels[start:stop]


@dataclass(frozen=True)
class Moments:
    """First and second moments of m features over n = samples x positions.

    Attributes:
        second: (m, m) float64, (1/n) sum of phi phi^T. Not centred: spectral pruning and DIVNET both use it as it is.
        mean: (m,) float64.
        count: n.
    """

    second: Tensor
    mean: Tensor
    count: int


def pooled(moments: Sequence[Moments]) -> Moments:
    """The moments over all rows of several sets of rows of the same features."""
    count = sum(each.count for each in moments)
    second = torch.stack([each.second * (each.count / count) for each in moments]).sum(0)
    return Moments(second, torch.stack([each.mean * (each.count / count) for each in moments]).sum(0), count)


class MomentAccumulator:
    """Sums phi psi^T, phi and psi over rows in float64; psi is phi unless a second set of rows is given."""

    def __init__(self) -> None:
        self._second: Tensor | None = None
        self._mean: Tensor | None = None
        self.count = 0

    def add(self, rows: Tensor, others: Tensor | None = None) -> None:
        """Add (m, n) rows; with ``others`` (k, n) the cross moment (m, k) is accumulated instead."""
        rows = rows.double()
        second = rows @ (rows if others is None else others.double()).T
        mean = rows.sum(1)
        self._second = second if self._second is None else self._second.add_(second)
        self._mean = mean if self._mean is None else self._mean.add_(mean)
        self.count += rows.shape[1]

    def moments(self) -> Moments:
        """The averages so far."""
        if self._second is None or self._mean is None:
            raise BadInput("a layer read nothing during calibration; it is not used by the network's forward pass")
        return Moments(self._second / self.count, self._mean / self.count, self.count)


@torch.no_grad()
def collect_moments(
    model: nn.Module, views: Mapping[str, tuple[str, Rows]], calibration: Calibration
) -> dict[str, Moments]:
    """Moments of several reads of a network in one pass, in evaluation mode.

    Args:
        model: the network; neither its parameters nor its modes change.
        views: for each key the module path whose input is looked at, and how to view it as rows.
        calibration: the samples; their labels are not read.
    """
    accumulators = {key: MomentAccumulator() for key in views}
    by_path: dict[str, list[str]] = {}
    for key, (path, _) in views.items():
        by_path.setdefault(path, []).append(key)

    def listener(keys: list[str]) -> Callable[[Tensor], None]:
        def listen(read: Tensor) -> None:
            for key in keys:
                accumulators[key].add(views[key][1](read))

        return listen

    with evaluating(model), listening(model, {path: listener(keys) for path, keys in by_path.items()}):
        for inputs, _ in calibration.batches():
            model(inputs)
    return {key: accumulator.moments() for key, accumulator in accumulators.items()}


@torch.no_grad()
def cross_moments(
    original: nn.Module, pruned: nn.Module, path: str, views: tuple[Rows, Rows], calibration: Calibration
) -> tuple[Moments, Moments]:
    """E[phi phi~^T] (m, k) and E[phi~ phi~^T] (k, k) for what a module reads in the original and the pruned network."""
    cross, own = MomentAccumulator(), MomentAccumulator()
    seen: list[Tensor] = []
    listeners = {path: seen.append}
    with evaluating(original), evaluating(pruned), listening(original, listeners), listening(pruned, listeners):
        for inputs, _ in calibration.batches():
            seen.clear()
            original(inputs)
            pruned(inputs)
            calls = len(seen) // 2  # several in a recurrent network
            for read, read_pruned in zip(seen[:calls], seen[calls:], strict=True):
                before, after = views[0](read), views[1](read_pruned)
                cross.add(before, after)
                own.add(after)
    return cross.moments(), own.moments()
