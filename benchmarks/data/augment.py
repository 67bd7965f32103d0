"""Augmentation of whole batches: random crop after padding, and random horizontal flip.

Every sample draws its own offset and its own flip, yet a batch costs one gather: the offsets become a table of pixel
positions, and a flipped sample just reads its columns from right to left.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int) -> Tensor:
    """Cut one window of the original size out of every zero-padded image, mirrored where ``flip`` is true.

    Args:
        images: (B, C, H, W), any type.
        top: (B,) first row of each window, 0 … 2·padding.
        left: (B,) first column of each window, 0 … 2·padding.
        flip: (B,) whether the window is mirrored left to right.
        padding: rows and columns of zeros added on every side; the middle window is at ``top = left = padding``.
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    column = torch.arange(width, device=images.device)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.where(flip[:, None], column.flip(0), column)
    positions = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    index = positions.view(batch, 1, -1).expand(-1, channels, -1)
    return padded.view(batch, channels, -1).gather(2, index).view(images.shape)


@dataclass(frozen=True)
class Augmentation:
    """Random crop (zero padding of ``crop`` pixels, black as in the raw image) and random horizontal flip."""

    crop: int = 4
    flip: bool = True

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment a batch (B, C, H, W) of raw images; the draws come from ``generator`` on the CPU on every device."""
        batch = len(images)
        top, left = torch.randint(0, 2 * self.crop + 1, (2, batch), generator=generator).to(images.device)
        flip = torch.rand(batch, generator=generator) < 0.5 if self.flip else torch.zeros(batch, dtype=torch.bool)
        return crop_and_flip(images, top, left, flip.to(images.device), self.crop)
