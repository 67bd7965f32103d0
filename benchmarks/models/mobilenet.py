"""MobileNetV2 (Sandler, Howard, Zhu, Zhmoginov & Chen 2018, table 2), with the strides that 32x32 images need.

The first convolution and the first two stages keep the resolution, as ports of ImageNet networks to CIFAR do (ours; the
paper has no CIFAR network): 32x32 images reach the classifier as 4x4 maps. With ``large`` the strides are the paper's,
and weight files of torchvision and timm load under the names that they use.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from methods.errors import BadInput

STEM, LAST = 32, 1280
# expansion, channels, blocks, stride of the first block
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
SMALLEST = 8  # pixels: three strides of 2
LARGE = 32  # pixels, for the paper's five
TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


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
        large: the paper's strides, for images of 224x224; else those for images of 32x32.
        shape: (C, H, W).
        classes: number of outputs.
    """

    def __init__(self, width: float = 1.0, large: bool | None = None, *, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        if not width > 0:
            raise BadInput(f"model.width={width}; expected a factor above 0, for instance 0.5")
        smallest = LARGE if large else SMALLEST
        if len(shape) != 3 or min(shape[1:]) < smallest:
            raise BadInput(
                f"model mobilenetv2 cannot take inputs of shape {tuple(shape)}; expected images of at least "
                f"{smallest}x{smallest}.\nChoose model=mlp, or dataset=cifar10."
            )
        channels = max(1, round(STEM * width))
        self.conv1 = nn.Conv2d(shape[0], channels, 3, stride=2 if large else 1, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU6()
        blocks = []
        for place, (expansion, full, number, small) in enumerate(STAGES):
            stride = 2 if large and place == 1 else small  # the one in which the paper's strides are others
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

    def other_names(self) -> Iterator[Mapping[str, str]]:
        """The names of all tensors in torchvision's and in timm's files of this network, each with ours."""
        blocks = [block for block in self.blocks if isinstance(block, InvertedResidual)]
        vision, timm = (
            [("features.0.0", "conv1"), ("features.0.1", "norm1")],
            [("conv_stem", "conv1"), ("bn1", "norm1")],
        )
        stages = [(stage, place) for stage, (_, _, number, _) in enumerate(STAGES) for place in range(number)]
        for number, (block, (stage, place)) in enumerate(zip(blocks, stages, strict=True)):
            ours = f"blocks.{number}.layers"
            first = f"features.{number + 1}.conv"
            parts: tuple[str, ...]
            theirs: tuple[tuple[str, ...], tuple[str, ...]]
            if "expand" in dict(block.layers.named_children()):
                parts = ("expand", "norm1", "depthwise", "norm2", "project", "norm3")
                theirs = ("0.0", "0.1", "1.0", "1.1", "2", "3"), ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
            else:
                parts = ("depthwise", "norm2", "project", "norm3")
                theirs = ("0.0", "0.1", "1", "2"), ("conv_dw", "bn1", "conv_pw", "bn2")
            vision += [(f"{first}.{a}", f"{ours}.{part}") for a, part in zip(theirs[0], parts, strict=True)]
            timm += [
                (f"blocks.{stage}.{place}.{a}", f"{ours}.{part}") for a, part in zip(theirs[1], parts, strict=True)
            ]
        last = len(blocks) + 1
        vision += [(f"features.{last}.0", "conv2"), (f"features.{last}.1", "norm2"), ("classifier.1", "classifier")]
        timm += [("conv_head", "conv2"), ("bn2", "norm2"), ("classifier", "classifier")]
        state = self.state_dict()
        for pairs in (vision, timm):
            yield {f"{a}.{name}": f"{b}.{name}" for a, b in pairs for name in TENSORS if f"{b}.{name}" in state}
