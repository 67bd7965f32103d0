"""Small networks with the structures that pruning has to get right, and samples for them, for checks and tests."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from methods.layers.statistics import Calibration
from methods.seeds import stream


class Residual(nn.Module):
    """A stem, two residual blocks (the second with a strided convolution shortcut), pooling, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.first = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
        )
        self.second = nn.Sequential(
            nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1)
        )
        self.shortcut = nn.Conv2d(8, 12, 1, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4) logits of (n, 1, 8, 8) images."""
        x = self.relu(self.norm(self.stem(x)))
        x = self.relu(self.first(x) + x)
        x = self.relu(self.second(x) + self.shortcut(x))
        return self.head(self.flatten(self.pool(x)))


def chain() -> nn.Module:
    """Three linear layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))


def convolution() -> nn.Module:
    """Two convolutions, flattening, and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 10, 3), nn.ReLU(), nn.Flatten(), nn.Linear(10 * 4, 16), nn.ReLU(), nn.Linear(16, 4),
    )  # fmt: skip


def batch_norm() -> nn.Module:
    """Two convolutions with batch norms, pooling, flattening, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(12 * 4, 4),
    )  # fmt: skip


def wide() -> nn.Module:
    """Like ``convolution``, but so wide that one node is far less than 1 % of the whole."""
    return nn.Sequential(
        nn.Conv2d(1, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(48, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 4, 128), nn.ReLU(), nn.Linear(128, 4),
    )  # fmt: skip


class ResidualBlock(nn.Module):
    """x + convolution(relu(norm(convolution(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) of (n, channels, h, w)."""
        return x + 0.3 * self.second(self.relu(self.norm(self.first(x))))


def blocks() -> nn.Module:
    """A stem, six residual blocks, pooling and a linear layer, for methods that remove whole blocks."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), *(ResidualBlock(6) for _ in range(6)),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "chain": chain,
    "convolution": convolution,
    "batch_norm": batch_norm,
    "residual": Residual,
}
WIDE = "wide"
BLOCKS = "blocks"
FURTHER = {WIDE: wide, BLOCKS: blocks}  # not for every method


def make(name: str, seed: int = 0) -> nn.Module:
    """A network with random weights and batch-norm statistics that are not the initial ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (FURTHER | NETWORKS)[name]()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
    return model.eval()


def calibration(n: int = 96, seed: int = 0) -> Calibration:
    """Random 1x8x8 images with labels in 0..3."""
    generator = stream(seed, "calibration")
    inputs = torch.randn(n, 1, 8, 8, generator=generator)
    labels = torch.randint(0, 4, (n,), generator=generator)
    return Calibration(inputs, labels, torch.arange(n), seed=seed, batch_size=40)
