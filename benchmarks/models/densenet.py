"""DenseNet-BC for CIFAR (Huang, Liu, van der Maaten & Weinberger 2017, section 4): layers read all that came before."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from methods.errors import BadInput

BLOCKS = 3
BOTTLENECK = 4  # times the growth rate: channels between the two convolutions of a layer
SMALLEST = 4  # pixels: two transitions halve the image


class DenseLayer(nn.Module):
    """What was there, concatenated with conv2(relu(norm2(conv1(relu(norm1(x)))))), ``growth`` new channels."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, BOTTLENECK * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK * growth)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels + growth, H, W)."""
        new = self.conv1(self.relu1(self.norm1(x)))
        return torch.cat([x, self.conv2(self.relu2(self.norm2(new)))], 1)


class Transition(nn.Module):
    """Batch norm, a 1x1 convolution that halves the channels, and an average pooling that halves the image."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(channels, out, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, out, H / 2, W / 2)."""
        return self.pool(self.conv(self.relu(self.norm(x))))


class DenseNet(nn.Module):
    """A 3x3 convolution, three dense blocks with transitions between them, batch norm, average pooling, a linear layer.

    Args:
        depth: 6n + 4 weight layers, n layers of two convolutions per block: 22, 40, 100.
        growth: channels that each layer adds, k in the paper; the first convolution has 2k.
        shape: (C, H, W).
        classes: number of outputs.
    """

    def __init__(self, depth: int = 40, growth: int = 12, *, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise BadInput(f"model.depth={depth}; expected 6n + 4, for instance 22, 40 or 100")
        if growth < 1:
            raise BadInput(f"model.growth={growth}; expected a number of channels, for instance 12")
        if len(shape) != 3 or min(shape[1:]) < SMALLEST:
            raise BadInput(
                f"model densenet cannot take inputs of shape {tuple(shape)}; expected images (C, H, W).\n"
                "Choose model=mlp, or dataset=cifar10."
            )
        channels = 2 * growth
        self.conv1 = nn.Conv2d(shape[0], channels, 3, padding=1, bias=False)
        stages: list[nn.Module] = []
        for block in range(BLOCKS):
            for _ in range((depth - 4) // 6):
                stages.append(DenseLayer(channels, growth))
                channels += growth
            if block < BLOCKS - 1:
                stages.append(Transition(channels, channels // 2))
                channels //= 2
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        x = self.relu(self.norm(self.stages(self.conv1(x))))
        return self.classifier(self.flatten(self.pool(x)))
