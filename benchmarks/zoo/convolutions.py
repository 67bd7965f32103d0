"""Networks for images and volumes, in the manner of well-known ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.models.densenet import DenseNet
from benchmarks.models.lenet import LeNet5
from benchmarks.models.mobilenet import MobileNetV2
from benchmarks.models.resnet import ResNet
from benchmarks.models.vgg import VGG
from benchmarks.zoo.blocks import Added, Halved, Joined, Multiplied, Shuffled, conv, head, squeeze_excitation
from benchmarks.zoo.specimen import Specimen, images, vectors


def inverted(channels: int, expanded: int, act: Callable[[], nn.Module], kernel: int, gate: nn.Module) -> Added:
    """An inverted residual with a gate behind the depthwise convolution (MobileNetV3, EfficientNet)."""
    body = [conv(channels, expanded, 1, act=act), conv(expanded, expanded, kernel, groups=expanded, act=act), gate]
    return Added(nn.Identity(), nn.Sequential(*body, conv(expanded, channels, 1, act=None)))


def efficientnet() -> nn.Module:
    """MBConv blocks (Tan and Le 2019)."""
    blocks = [inverted(8, 24, nn.SiLU, kernel, squeeze_excitation(24, 4, nn.SiLU)) for kernel in (3, 5)]
    return nn.Sequential(conv(3, 8, stride=2, act=nn.SiLU), *blocks, conv(8, 32, 1, act=nn.SiLU), head(32))


def mobilenetv3() -> nn.Module:
    """Blocks with hard swish and a hard sigmoid as the gate (Howard et al. 2019)."""
    gates = [squeeze_excitation(24, 8, gate=nn.Hardsigmoid), nn.Identity()]
    blocks = [inverted(8, 24, nn.Hardswish, 3, gate) for gate in gates]
    return nn.Sequential(conv(3, 8, stride=2, act=nn.Hardswish), *blocks, conv(8, 32, 1, act=nn.Hardswish), head(32))


def shufflenet() -> nn.Module:
    """Grouped 1 x 1 convolutions and a channel shuffle (Zhang et al. 2018)."""
    body = [conv(16, 16, 1, groups=2), Shuffled(2), conv(16, 16, groups=16, act=None), conv(16, 16, 1, groups=2)]
    return nn.Sequential(conv(3, 16, stride=2), Added(nn.Identity(), nn.Sequential(*body)), nn.ReLU(), head(16))


def shufflenetv2() -> nn.Module:
    """Half of the channels through a branch, then a shuffle (Ma et al. 2018)."""
    branch = nn.Sequential(conv(8, 8, 1), conv(8, 8, groups=8, act=None), conv(8, 8, 1))
    return nn.Sequential(conv(3, 16, stride=2), Halved(branch), Shuffled(2), conv(16, 24, 1), head(24))


def inception() -> nn.Module:
    """Branches of several kernels, joined (Szegedy et al. 2015)."""

    def block(inputs: int) -> Joined:
        pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(inputs, 4, 1))
        three, five = (nn.Sequential(conv(inputs, 6, 1), conv(6, 8, kernel)) for kernel in (3, 5))
        return Joined(conv(inputs, 6, 1), three, five, pooled)

    return nn.Sequential(conv(3, 12, stride=2), block(12), block(26), head(26))


def squeezenet() -> nn.Module:
    """Fire modules (Iandola et al. 2016)."""

    def fire(inputs: int) -> nn.Sequential:
        return nn.Sequential(conv(inputs, 6, 1), Joined(conv(6, 10, 1), conv(6, 10)))

    return nn.Sequential(conv(3, 12, stride=2), fire(12), fire(20), nn.Conv2d(20, 5, 1), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten())  # fmt: skip


def xception() -> nn.Module:
    """Separable convolutions (Chollet 2017)."""
    parts = [layer for inputs, outputs in ((12, 16), (16, 12)) for layer in
             (conv(inputs, inputs, groups=inputs, act=None), conv(inputs, outputs, 1))]  # fmt: skip
    return nn.Sequential(conv(3, 12, stride=2), Added(nn.Identity(), nn.Sequential(*parts)), head(12))


def resnext() -> nn.Module:
    """Bottlenecks with grouped convolutions (Xie et al. 2017)."""
    body = nn.Sequential(conv(12, 16, 1), conv(16, 16, groups=4), conv(16, 12, 1, act=None))
    return nn.Sequential(conv(3, 12, stride=2), Added(nn.Identity(), body), nn.ReLU(), head(12))


def bottleneck_resnet() -> nn.Module:
    """Bottlenecks, the second with a projection as its shortcut (He et al. 2016)."""

    def body(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(conv(inputs, 8, 1), conv(8, 8, stride=stride), conv(8, outputs, 1, act=None))

    wider = Added(conv(16, 24, 1, 2, act=None), body(16, 24, 2))
    return nn.Sequential(conv(3, 16), Added(nn.Identity(), body(16, 16, 1)), nn.ReLU(), wider, nn.ReLU(), head(24))


def preactivated_resnet() -> nn.Module:
    """Norm and activation before each convolution, nothing behind the sum (He et al. 2016b)."""

    def body() -> nn.Sequential:
        parts = [(nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1, bias=False)) for _ in range(2)]
        return nn.Sequential(*parts[0], *parts[1])

    blocks = [Added(nn.Identity(), body()) for _ in range(2)]
    return nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), *blocks, nn.BatchNorm2d(12), nn.ReLU(), head(12))


def normed_resnet(norm: Callable[[int], nn.Module]) -> nn.Module:
    """A residual network whose norms take statistics of one sample."""

    def body() -> nn.Sequential:
        parts = [(nn.Conv2d(16, 16, 3, padding=1), norm(16)) for _ in range(2)]
        return nn.Sequential(*parts[0], nn.ReLU(), *parts[1])

    blocks = [nn.Sequential(Added(nn.Identity(), body()), nn.ReLU()) for _ in range(2)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), norm(16), nn.ReLU(), *blocks, head(16))


def group_norm(channels: int) -> nn.Module:
    """Four groups."""
    return nn.GroupNorm(4, channels)


class UNet(nn.Module):
    """Down by pooling, up by transposed convolutions, with a connection across (Ronneberger et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom = conv(3, 10), conv(10, 16)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ConvTranspose2d(16, 10, 2, 2)
        self.merge, self.last = conv(20, 12), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2, h, w) of (n, 3, h, w)."""
        across = self.down(x)
        up = self.up(self.bottom(self.pool(across)))
        return self.last(self.merge(torch.cat([across, up], 1)))


def decoder() -> nn.Module:
    """From a vector to an image by transposed convolutions (as in Radford et al. 2016)."""
    parts: list[nn.Module] = [nn.Linear(10, 16 * 4), nn.ReLU(), nn.Unflatten(1, (16, 2, 2))]
    for inputs, outputs in ((16, 12), (12, 8)):
        parts += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*parts, nn.Conv2d(8, 3, 3, padding=1))


def gated_convolutions() -> nn.Module:
    """Two convolutions, the one through a sigmoid, multiplied (Dauphin et al. 2017)."""

    def gate(inputs: int, outputs: int) -> Multiplied:
        return Multiplied(conv(inputs, outputs, act=None), conv(inputs, outputs, act=nn.Sigmoid))

    return nn.Sequential(gate(3, 12), gate(12, 16), head(16))


def volumes() -> nn.Module:
    """Convolutions in three dimensions, with batch norms."""
    parts: list[nn.Module] = []
    for inputs, outputs in ((1, 8), (8, 12)):
        parts += [nn.Conv3d(inputs, outputs, 3, padding=1), nn.BatchNorm3d(outputs), nn.ReLU(), nn.MaxPool3d(2)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(12, 5))


SMALL, GREY, SHAPE = images(), images(1, 28, 28), (3, 16, 16)
SPECIMENS = (
    Specimen(
        "LeNet-5",
        "a flattening",
        partial(LeNet5, shape=(1, 28, 28), classes=5),
        GREY,
        True,
    ),
    Specimen("VGG", "plain, batch norms", partial(VGG, 11, 0.125, shape=(3, 32, 32), classes=5), images(3, 32, 32)),
    Specimen(
        "ResNet",
        "residual streams with projections",
        partial(ResNet, 8, 0.5, shape=SHAPE, classes=5),
        SMALL,
        True,
    ),
    Specimen("bottleneck ResNet", "1 x 1, 3 x 3, 1 x 1", bottleneck_resnet, SMALL),
    Specimen("pre-activated ResNet", "norm and ReLU before each convolution", preactivated_resnet, SMALL),
    Specimen("ResNeXt", "grouped convolutions", resnext, SMALL),
    Specimen("GroupNorm ResNet", "statistics over groups of channels", partial(normed_resnet, group_norm), SMALL),
    Specimen("InstanceNorm ResNet", "statistics over one channel", partial(normed_resnet, nn.InstanceNorm2d), SMALL),
    Specimen("DenseNet", "everything before is joined", partial(DenseNet, 10, 4, shape=SHAPE, classes=5), SMALL),
    Specimen("MobileNetV2", "inverted residuals", partial(MobileNetV2, 0.12, shape=SHAPE, classes=5), SMALL),
    Specimen("MobileNetV3", "squeeze and excitation, hard swish", mobilenetv3, SMALL),
    Specimen("EfficientNet", "squeeze and excitation, SiLU", efficientnet, SMALL, True),
    Specimen("ShuffleNet", "grouped convolutions and channel shuffle", shufflenet, SMALL),
    Specimen("ShuffleNetV2", "half of the channels, and channel shuffle", shufflenetv2, SMALL),
    Specimen("Inception", "branches joined", inception, SMALL),
    Specimen("SqueezeNet", "fire modules; no linear layer", squeezenet, SMALL),
    Specimen("Xception", "separable convolutions", xception, SMALL),
    Specimen("U-Net", "transposed convolution, connection across", UNet, SMALL, True),
    Specimen("decoder", "transposed convolutions from a vector", decoder, vectors(10)),
    Specimen("gated convolutions", "a product of two convolutions", gated_convolutions, SMALL),
    Specimen("3-D convolutions", "volumes", volumes, images(1, 8, 8, 8)),
)
