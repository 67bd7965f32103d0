"""LeNet-5 (LeCun, Bottou, Bengio & Haffner 1998, section II.B) in today's usual form: ReLU, max pooling, full conv2."""

from collections.abc import Sequence

from torch import Tensor, nn

from methods.errors import BadInput

SMALLEST = 12  # pixels: less leaves nothing after the second pooling


class LeNet5(nn.Module):
    """Convolutions 6 and 16 (5x5, each pooled by 2), then 120, 84 and the outputs.

    Images smaller than 32x32 are padded by 2, as the original does with MNIST's 28x28.

    Args:
        shape: (C, H, W), H and W at least 12.
        classes: number of outputs.
    """

    def __init__(self, *, shape: Sequence[int], classes: int) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape[1:]) < SMALLEST:
            raise BadInput(
                f"model lenet5 cannot take inputs of shape {tuple(shape)}; expected images of at least "
                f"{SMALLEST}x{SMALLEST}.\nChoose model=mlp, or larger images (dataset=mnist, dataset=cifar10)."
            )
        channels, height, width = shape
        padding = 2 if min(height, width) < 32 else 0
        rows, columns = (((size + 2 * padding - 4) // 2 - 4) // 2 for size in (height, width))
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=padding)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(16 * rows * columns, 120)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(120, 84)
        self.relu4 = nn.ReLU()
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.flatten(self.pool2(self.relu2(self.conv2(x))))
        return self.fc3(self.relu4(self.fc2(self.relu3(self.fc1(x)))))
