"""ResNet for images of 224x224 (He, Zhang, Ren & Sun 2016, section 3.3 and table 1).

The stride of a bottleneck block is in its 3x3 convolution and not in the first 1x1, as in the networks that torchvision
and timm have weights of ("v1.5"). Parameters have the names that those two give them, so that their files load as they
are: dense.checkpoint=FILE.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from methods.errors import BadInput

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # by depth, for each stage
CHANNELS = (64, 128, 256, 512)  # of the stages; a bottleneck block gives four times as many
BOTTLENECK = 50  # from this depth on
EXPANSION = 4
SMALLEST = 32  # pixels: five strides of 2


class BasicBlock(nn.Module):
    """relu2(bn2(conv2(relu1(bn1(conv1(x))))) + downsample(x)), both convolutions 3x3."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, (B, width, H / stride, W / stride)."""
        inner = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(inner + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1 to ``width`` channels, 3x3, 1x1 to four times as many, and the shortcut."""

    expansion = EXPANSION

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * self.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = _shortcut(channels, out, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, (B, 4 width, H / stride, W / stride)."""
        inner = self.relu1(self.bn1(self.conv1(x)))
        inner = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(inner)))))
        return self.relu3(inner + self.downsample(x))


class ImageNetResNet(nn.Module):
    """A 7x7 convolution, max pooling, four stages (``layer2.0`` halves the image), average pooling, one linear layer.

    Args:
        depth: 18, 34 or 50 weight layers, not counting the shortcuts.
        width: multiplies all channels.
        shape: (C, H, W).
        classes: number of outputs.
    """

    def __init__(self, depth: int = 18, width: float = 1.0, *, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise BadInput(f"model.depth={depth}; choose from {', '.join(map(str, BLOCKS))}")
        if not width > 0:
            raise BadInput(f"model.width={width}; expected a factor above 0, for instance 0.5")
        if len(shape) != 3 or min(shape[1:]) < SMALLEST:
            raise BadInput(
                f"model resnet{depth} cannot take inputs of shape {tuple(shape)}; expected images of at least "
                f"{SMALLEST}x{SMALLEST}.\nChoose model=resnet20, which is for small ones."
            )
        block = Bottleneck if depth >= BOTTLENECK else BasicBlock
        widths = [max(1, round(full * width)) for full in CHANNELS]
        self.conv1 = nn.Conv2d(shape[0], widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels, stages = widths[0], []
        for stage, (out, number) in enumerate(zip(widths, BLOCKS[depth], strict=True)):
            blocks = []
            for place in range(number):
                blocks.append(block(channels, out, 2 if stage and not place else 1))
                channels = out * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.flatten(self.avgpool(x)))


def _shortcut(channels: int, out: int, stride: int) -> nn.Module:
    """A 1x1 convolution where the shapes differ (option B); its parts are named 0 and 1."""
    if stride == 1 and channels == out:
        return nn.Identity()
    convolution = nn.Conv2d(channels, out, 1, stride=stride, bias=False)
    return nn.Sequential(OrderedDict([("0", convolution), ("1", nn.BatchNorm2d(out))]))
