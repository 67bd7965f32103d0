"""MobileNetV2 (Sandler, Howard, Zhu, Zhmoginov & Chen 2018, table 2), with the strides that 32x32 images need.

The first convolution and the first two stages keep the resolution, as ports of ImageNet networks to CIFAR do (ours; the
paper has no CIFAR network): 32x32 images reach the classifier as 4x4 maps.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from methods.errors import BadInput

STEM, LAST = 32, 1280
# expansion, channels, blocks, stride of the first block
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
SMALLEST = 8  # pixels: three strides of 2


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, 1x1 linear projection; a shortcut where input and output fit.

    The expanded channels are the block's nodes: the expansion writes them, the depthwise convolution carries them, the
    projection reads them. Without expansion (factor 1) they are those of the layer before.
    """

    def __init__(self, channels: int, out: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = channels * expansion
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if expansion != 1:
            layers |= {"expand": nn.Conv2d(channels, hidden, 1, bias=False), "norm1": nn.BatchNorm2d(hidden)}
            layers["relu1"] = nn.ReLU6()
        layers["depthwise"] = nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False)
        layers |= {"norm2": nn.BatchNorm2d(hidden), "relu2": nn.ReLU6()}
        layers |= {"project": nn.Conv2d(hidden, out, 1, bias=False), "norm3": nn.BatchNorm2d(out)}
        self.layers = nn.Sequential(layers)
        self.shortcut = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, (B, out, H / stride, W / stride)."""
        return x + self.layers(x) if self.shortcut else self.layers(x)


class MobileNetV2(nn.Module):
    """A 3x3 convolution, seven stages of inverted residuals (``blocks.0``, ...), a 1x1 convolution, a classifier.

    Args:
        width: multiplies all channels but the last ones, which are 1280 at least, as in the paper.
        shape: (C, H, W).
        classes: number of outputs.
    """

    def __init__(self, width: float = 1.0, *, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        if not width > 0:
            raise BadInput(f"model.width={width}; expected a factor above 0, for instance 0.5")
        if len(shape) != 3 or min(shape[1:]) < SMALLEST:
            raise BadInput(
                f"model mobilenetv2 cannot take inputs of shape {tuple(shape)}; expected images of at least "
                f"{SMALLEST}x{SMALLEST}.\nChoose model=mlp, or dataset=cifar10."
            )
        channels = max(1, round(STEM * width))
        self.conv1 = nn.Conv2d(shape[0], channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU6()
        blocks = []
        for expansion, full, number, stride in STAGES:
            for block in range(number):
                out = max(1, round(full * width))
                blocks.append(InvertedResidual(channels, out, expansion, 1 if block else stride))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        last = round(LAST * max(1.0, width))
        self.conv2 = nn.Conv2d(channels, last, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(last)
        self.relu2 = nn.ReLU6()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(last, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        x = self.blocks(self.relu1(self.norm1(self.conv1(x))))
        x = self.relu2(self.norm2(self.conv2(x)))
        return self.classifier(self.flatten(self.pool(x)))
