"""Hold calibration data and collect second moments of what each layer reads: float64, in one pass over the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.errors import BadInput
from methods.network.reading import Rows, evaluating, listening

UNLABELLED = -100  # label of a token for which nothing is to be predicted; PyTorch's cross-entropy ignores it


@dataclass(frozen=True)
class Calibration:
    """Training samples that pruning may use; never validation or test data.

    Attributes:
        inputs: (n, ...) normalised network inputs, or (n, T) ids of tokens.
        labels: (n,) true labels, (n, T) where every token has one; only methods that need curvature use them.
        indices: (n,) positions of the samples in the training split; None where they come from elsewhere.
        seed: root seed of the draw; methods derive their own streams from it.
        batch_size: samples per forward pass.
        padding: the id that fills sequences up to T; its positions count in no moment. None where there is none.
        memory: bytes that second moments may take at a time; those that do not fit together are collected in several
            passes over the samples and discarded in between. None for no limit.
    """

    inputs: Tensor
    labels: Tensor
    indices: Tensor | None = None
    seed: int = 0
    batch_size: int = 256
    padding: int | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        if len(self.inputs) == 0:
            raise BadInput("the calibration set is empty; expected at least one sample: set calibration.samples=1000")

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels, ``batch_size`` at a time, always in the same order; cut to a batch's longest sequence."""
        for start in range(0, len(self.inputs), self.batch_size):
            stop = start + self.batch_size
            inputs, labels = self.inputs[start:stop], self.labels[start:stop]
            present = self.present(inputs)
            if present is None:
                yield inputs, labels
                continue
            length = max(1, int(present.sum(1).max()))
            yield inputs[:, :length], labels[:, :length] if labels.dim() > 1 else labels

    def present(self, inputs: Tensor) -> Tensor | None:
        """(n, T) bool, true for tokens and false for padding; None if there is no padding."""
        return None if self.padding is None else inputs != self.padding

    @property
    def tokens(self) -> int | None:
        """The number of tokens without padding; None if the inputs are not tokens."""
        if self.inputs.is_floating_point() or self.inputs.dim() != 2:
            return None
        present = self.present(self.inputs)
        return self.inputs.numel() if present is None else int(present.sum())


def unpadded(rows: Tensor, read: Tensor, present: Tensor | None) -> Tensor:
    """The columns of ``rows`` that belong to tokens.

    Args:
        rows: (m, samples x positions), or several times as many, one set after the other.
        read: the layer's input, of which ``rows`` are a view.
        present: (n, T) bool, true for tokens; None if there is no padding.
    """
    if present is None or tuple(read.shape[:2]) != tuple(present.shape) or rows.shape[1] % present.numel():
        return rows  # not one position per token: nothing is padded any more after pooling
    return rows[:, present.flatten().repeat(rows.shape[1] // present.numel())]


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
    """Pool the moments of several sets of rows of the same features."""
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
    """Collect moments of what several modules read, in one pass over the network, in evaluation mode.

    Args:
        model: the network; neither its parameters nor its modes change.
        views: for each key the module path whose input is looked at, and how to view it as rows.
        calibration: the samples; their labels are not read.
    """
    accumulators = {key: MomentAccumulator() for key in views}
    by_path: dict[str, list[str]] = {}
    for key, (path, _) in views.items():
        by_path.setdefault(path, []).append(key)

    present: Tensor | None = None

    def listener(keys: list[str]) -> Callable[[Tensor], None]:
        def listen(read: Tensor) -> None:
            for key in keys:
                accumulators[key].add(unpadded(views[key][1](read), read, present))

        return listen

    with evaluating(model), listening(model, {path: listener(keys) for path, keys in by_path.items()}):
        for inputs, _ in calibration.batches():
            present = calibration.present(inputs)
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
            present = calibration.present(inputs)
            for read, read_pruned in zip(seen[:calls], seen[calls:], strict=True):
                before = unpadded(views[0](read), read, present)
                after = unpadded(views[1](read_pruned), read_pruned, present)
                cross.add(before, after)
                own.add(after)
    return cross.moments(), own.moments()
