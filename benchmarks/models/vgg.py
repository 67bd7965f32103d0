"""VGG (Simonyan & Zisserman 2015, table 1) for 32x32 images: batch norm, and one linear layer instead of three."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from methods.errors import BadInput

CHANNELS = (64, 128, 256, 512, 512)  # of the five stages
CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
SMALLEST = 28  # pixels: five poolings by 2 leave one of 32, and less is padded by 2 on each side
FULL = 32  # pixels


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, named as in the paper: ``features.conv3_2`` is the second of stage 3.

    Convolutions have no biases: batch norm subtracts the mean right after them. Images smaller than 32x32, such as
    MNIST's 28x28, are padded by 2 on each side.

    Args:
        depth: 11, 13, 16 or 19 weight layers in the paper's count, which has three linear layers at the end.
        width: multiplies the channels of every convolution.
        shape: (C, H, W), H and W at least 28; what is left after five poolings is averaged (one position for 32x32).
        classes: number of outputs.
    """

    def __init__(self, depth: int = 16, width: float = 1.0, *, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        if depth not in CONVOLUTIONS:
            raise BadInput(f"model.depth={depth}; expected one of {', '.join(map(str, CONVOLUTIONS))}")
        if not width > 0:
            raise BadInput(f"model.width={width}; expected a factor above 0, for instance 0.5")
        if len(shape) != 3 or min(shape[1:]) < SMALLEST:
            raise BadInput(
                f"model vgg{depth} cannot take inputs of shape {tuple(shape)}; expected images of at least "
                f"{SMALLEST}x{SMALLEST}.\nChoose model=mlp or model=lenet5, or dataset=cifar10."
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels, padding = shape[0], 1 if min(shape[1:]) >= FULL else 3
        for stage, (full, convolutions) in enumerate(zip(CHANNELS, CONVOLUTIONS[depth], strict=True), 1):
            out = max(1, round(full * width))
            for number in range(1, convolutions + 1):
                place = f"{stage}_{number}"
                layers[f"conv{place}"] = convolution = nn.Conv2d(channels, out, 3, padding=padding, bias=False)
                layers[f"norm{place}"] = nn.BatchNorm2d(out)
                layers[f"relu{place}"] = nn.ReLU()
                nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
                channels, padding = out, 1
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
        self.features = nn.Sequential(layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        return self.classifier(self.flatten(self.pool(self.features(x))))
