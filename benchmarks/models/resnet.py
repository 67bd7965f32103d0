"""ResNet for CIFAR (He, Zhang, Ren & Sun 2016, section 4.2), with convolution shortcuts (option B).

The paper's CIFAR networks use option A (shortcuts that stride and pad with zeros, without weights). Option B is taken
here because padded channels tie the two sides of a block together in a way that channel removal cannot follow.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from methods.errors import BadInput

CHANNELS = (16, 32, 64)  # of the three stages
SMALLEST = 4  # pixels: the last stage sees a quarter of the rows


class Block(nn.Module):
    """relu(norm2(conv2(relu(norm1(conv1(x))))) + shortcut(x)), the shortcut a 1x1 convolution where shapes differ."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            convolution = nn.Conv2d(channels, out, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=convolution, norm=nn.BatchNorm2d(out)))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, (B, out, H / stride, W / stride)."""
        inner = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(inner + self.shortcut(x))


class ResNet(nn.Module):
    """A 3x3 convolution, three stages of n blocks (``stage2.0`` halves the image), average pooling, one linear layer.

    Args:
        depth: 6n + 2 weight layers, not counting the shortcuts: 20, 32, 44, 56, 110.
        width: multiplies the channels 16, 32, 64.
        shape: (C, H, W).
        classes: number of outputs.
    """

    def __init__(self, depth: int = 20, width: float = 1.0, *, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise BadInput(f"model.depth={depth}; expected 6n + 2, for instance 20, 32 or 56")
        if not width > 0:
            raise BadInput(f"model.width={width}; expected a factor above 0, for instance 0.5")
        if len(shape) != 3 or min(shape[1:]) < SMALLEST:
            raise BadInput(
                f"model resnet{depth} cannot take inputs of shape {tuple(shape)}; expected images (C, H, W).\n"
                "Choose model=mlp, or dataset=cifar10."
            )
        widths = [max(1, round(full * width)) for full in CHANNELS]
        self.conv1 = nn.Conv2d(shape[0], widths[0], 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(widths[0])
        self.relu1 = nn.ReLU()
        blocks = (depth - 2) // 6
        self.stage1 = _stage(widths[0], widths[0], blocks, stride=1)
        self.stage2 = _stage(widths[0], widths[1], blocks, stride=2)
        self.stage3 = _stage(widths[1], widths[2], blocks, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(widths[2], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        x = self.relu1(self.norm1(self.conv1(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.classifier(self.flatten(self.pool(x)))


def _stage(channels: int, out: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(channels, out, stride), *(Block(out, out, 1) for _ in range(blocks - 1)))
