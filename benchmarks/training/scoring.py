"""Score a network on a split of the data."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.layers.statistics import UNLABELLED
from methods.network.reading import evaluating

if TYPE_CHECKING:
    from benchmarks.data.splits import Split


@dataclass(frozen=True)
class Score:
    """What a network achieves on a split: fractions in [0, 1], and the mean loss per sample.

    ``accuracy`` is None for regression, where the loss is the mean squared error, and for language models, where it is
    the mean over all tokens in nats; ``top5`` is None below six classes.
    """

    accuracy: float | None
    top5: float | None
    loss: float


LARGEST = 2**24  # values of the inputs that are scored at once: 64 MB, in addition to the network's activations


@torch.inference_mode()
def evaluate(
    model: nn.Module, split: "Split", batch_size: int = 1024, device: torch.device | str | None = None
) -> Score:
    """Score ``model`` on every sample of ``split``, in eval mode and fp32; each module's own mode is put back.

    Args:
        model: the network; it is not moved.
        split: the samples; floating-point targets mean regression.
        batch_size: samples at a time, fewer where they are large (111 images of 224 x 224); the result does not depend
            on it beyond rounding.
        device: where the batches go; by default where the model's parameters are.
    """
    if len(split) == 0:
        raise ValueError("cannot score a network on an empty split")
    batch_size = max(1, min(batch_size, LARGEST // split.size_of_input))
    losses, hits, hits5, count = [], [], [], 0
    with evaluating(model):
        for x, y in split.batches(batch_size, device=device or device_of(model)):
            outputs = model(x)
            losses.append(loss_of(outputs, y, reduction="sum"))
            count += outputs.numel() if y.is_floating_point() else labelled(y)
            if not y.is_floating_point() and y.dim() == 1:
                hits.append((outputs.argmax(1) == y).sum())
                if outputs.shape[1] > 5:
                    hits5.append((outputs.topk(5, dim=1).indices == y[:, None]).any(1).sum())
    accuracy, top5 = (_sum(parts) / count if parts else None for parts in (hits, hits5))
    return Score(accuracy, top5, _sum(losses) / count)


def accuracy_of(model: nn.Module, split: "Split", batch_size: int = 1024) -> float:
    """The accuracy of a classifier, a fraction; arguments as for :func:`evaluate`."""
    accuracy = evaluate(model, split, batch_size).accuracy
    assert accuracy is not None
    return accuracy


def loss_of(outputs: Tensor, y: Tensor, reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy for class labels, also of single tokens (B, T), squared error for floating-point targets."""
    if y.is_floating_point():
        return functional.mse_loss(outputs, y.reshape(outputs.shape), reduction=reduction)
    if y.dim() > 1:
        outputs, y = outputs.flatten(0, -2), y.flatten()
    return functional.cross_entropy(outputs, y, reduction=reduction, label_smoothing=label_smoothing)


def labelled(y: Tensor) -> int:
    """The number of terms that the mean loss of a batch averages over: tokens with a label, else samples."""
    return len(y) if y.is_floating_point() or y.dim() == 1 else int((y != UNLABELLED).sum())


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _sum(parts: list[Tensor]) -> float:
    # In float64 on the CPU: exact for counts, and the device is waited for once.
    return torch.stack(parts).cpu().double().sum().item()
