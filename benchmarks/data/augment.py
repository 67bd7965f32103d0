"""Augmentation of whole batches: crops, random horizontal flip, colour jitter.

Every sample draws its own window, flip and colours, yet a batch costs a few operations. What is drawn is kept apart
from what is done with it (:class:`Draws`), so that the same numbers give the same images wherever the pixels lie.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

WIDEST = 4 / 3  # maximal width / height of a resized crop; the inverse is the minimum (Szegedy et al. 2015, section 6)
GREY = (0.299, 0.587, 0.114)  # of red, green, blue in the luminance (ITU-R BT.601)


def crop_and_flip(
    images: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int, window: Sequence[int] | None = None
) -> Tensor:
    """Cut one window out of every zero-padded image, and mirror it where ``flip`` is true.

    Args:
        images: (B, C, H, W), any type.
        top: (B,) first row of each window, 0 … 2·padding + H − height of the window.
        left: (B,) first column of each window, 0 … 2·padding + W − width of the window.
        flip: (B,) whether the window is mirrored left to right.
        padding: rows and columns of zeros added on every side.
        window: height and width of the windows; by default, those of the images.
    """
    batch, channels, *size = images.shape
    height, width = window or size
    padded = F.pad(images, (padding,) * 4)
    column = torch.arange(width, device=images.device)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.where(flip[:, None], column.flip(0), column)
    positions = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    index = positions.view(batch, 1, -1).expand(-1, channels, -1)
    return padded.view(batch, channels, -1).gather(2, index).view(batch, channels, height, width)


def centre(images: Tensor, window: Sequence[int]) -> Tensor:
    """The middle (B, C, height, width) of images (B, C, H, W), or the images themselves if that is all of them."""
    height, width = window
    top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
    if not top and not left and images.shape[2:] == (height, width):
        return images
    return images[:, :, top : top + height, left : left + width].contiguous()


def resized(images: Tensor, box: Tensor, window: Sequence[int]) -> Tensor:
    """One box of every image, scaled to one size with bilinear interpolation.

    Args:
        images: (B, C, H, W) uint8.
        box: (B, 4) top, left, height and width of each box, as fractions of the image; within it.
        window: height and width of the result.

    Returns:
        (B, C, height, width) uint8; interpolation at the box's edge also reads the image's pixels beyond it.
    """
    height, width = window
    top, left, tall, wide = box.to(images.device, torch.float32).unbind(1)
    # grid_sample's coordinates: -1 and 1 are the outer edges of the first and the last pixel.
    y = (torch.arange(height, device=images.device) + 0.5) / height
    x = (torch.arange(width, device=images.device) + 0.5) / width
    rows = 2 * (top[:, None] + tall[:, None] * y) - 1
    columns = 2 * (left[:, None] + wide[:, None] * x) - 1
    shape = (len(images), height, width)
    grid = torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], dim=3)
    found = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found.round_().clamp_(0, 255).to(torch.uint8)


def jittered(images: Tensor, factors: Tensor) -> Tensor:
    """Brightness, then contrast, then saturation of each image multiplied (Howard 2013, section 2).

    Args:
        images: (B, C, H, W) uint8 with one or three channels.
        factors: (B, 3) of the three; 1 changes nothing.
    """
    bright, contrast, saturation = factors.to(images.device, torch.float32).view(-1, 3, 1, 1, 1).unbind(1)
    changed = (images.float() * bright).clamp_(0, 255)
    grey = _luminance(changed)
    mean = grey.mean((2, 3), keepdim=True)
    changed = ((changed - mean) * contrast + mean).clamp_(0, 255)
    grey = _luminance(changed)
    return ((changed - grey) * saturation + grey).round_().clamp_(0, 255).to(torch.uint8)


def _luminance(images: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    weights = images.new_tensor(GREY).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


@dataclass(frozen=True)
class Draws:
    """What was drawn for a batch of B samples, on the CPU.

    Attributes:
        top, left: (B,) first row and column of the windows in the padded image.
        flip: (B,) whether the window is mirrored.
        box: (B, 4) of a resized crop, see :func:`resized`; None where windows are cut without scaling.
        colours: (B, 3) factors, see :func:`jittered`; None where colours stay.
    """

    top: Tensor
    left: Tensor
    flip: Tensor
    box: Tensor | None = None
    colours: Tensor | None = None

    def of(self, share: slice) -> "Draws":
        """The draws of some samples of the batch."""
        box, colours = (None if value is None else value[share] for value in (self.box, self.colours))
        return Draws(self.top[share], self.left[share], self.flip[share], box, colours)


def middle(batch: int, size: Sequence[int], window: Sequence[int]) -> Draws:
    """The draws that cut what :func:`centre` cuts, ``window`` out of ``size`` (both height, width), for each image."""
    top, left = (torch.full((batch,), (whole - part) // 2) for whole, part in zip(size, window, strict=True))
    return Draws(top, left, torch.zeros(batch, dtype=torch.bool))


@dataclass(frozen=True)
class Augmentation:
    """Random crop, random horizontal flip, colour jitter.

    Args:
        crop: pixels of zeros (black, as in the raw image) around an image before a window is cut out of it.
        flip: mirror each image with probability 1/2.
        resized_crop: least and largest share of the image's area that a crop has, which is then scaled to the window,
            with a random ratio of its sides (Szegedy et al. 2015, section 6); in place of ``crop``. A box that
            would be larger than the image is clipped to it.
        jitter: factors of brightness, contrast and saturation are drawn between 1 - jitter and 1 + jitter.
    """

    crop: int = 4
    flip: bool = True
    resized_crop: tuple[float, float] | None = None
    jitter: float | None = None

    @property
    def cuts_only(self) -> bool:
        """Whether windows are cut out of the image as it is, and at most mirrored."""
        return not self.crop and self.resized_crop is None and not self.jitter

    def draw(self, batch: int, size: Sequence[int], window: Sequence[int], generator: torch.Generator) -> Draws:
        """The draws for ``batch`` images of ``size`` pixels (height, width), cut to ``window``."""
        spans = [2 * self.crop + whole - part + 1 for whole, part in zip(size, window, strict=True)]
        box = None
        if self.resized_crop is not None:
            top = left = torch.zeros(batch, dtype=torch.int64)
            box = _boxes(batch, size, self.resized_crop, generator)
        elif spans[0] == spans[1]:
            top, left = torch.randint(0, spans[0], (2, batch), generator=generator)
        else:
            top, left = (torch.randint(0, span, (batch,), generator=generator) for span in spans)
        flip = torch.rand(batch, generator=generator) < 0.5 if self.flip else torch.zeros(batch, dtype=torch.bool)
        colours = None
        if self.jitter:
            colours = 1 + self.jitter * (2 * torch.rand(batch, 3, generator=generator) - 1)
        return Draws(top, left, flip, box, colours)

    def apply(self, images: Tensor, draws: Draws, window: Sequence[int]) -> Tensor:
        """Augment images (B, C, H, W) as ``draws`` say, cropped to ``window`` (height, width)."""
        if draws.box is not None:
            images = resized(images, draws.box, window)
            mirrored = draws.flip.to(images.device)
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        else:
            top, left, flip = (part.to(images.device) for part in (draws.top, draws.left, draws.flip))
            images = crop_and_flip(images, top, left, flip, self.crop, window)
        return images if draws.colours is None else jittered(images, draws.colours)

    def __call__(self, images: Tensor, generator: torch.Generator, window: Sequence[int] | None = None) -> Tensor:
        """Augment a batch (B, C, H, W) of raw images; the draws come from ``generator`` on the CPU on every device."""
        size = images.shape[2:]
        draws = self.draw(len(images), size, window or size, generator)
        return self.apply(images, draws, window or size)


def _boxes(batch: int, size: Sequence[int], shares: tuple[float, float], generator: torch.Generator) -> Tensor:
    """(B, 4) boxes as fractions of an image of ``size``; areas uniform, ratios of sides uniform in the logarithm."""
    height, width = size
    area, ratio, down, right = torch.rand(4, batch, generator=generator, dtype=torch.float64)
    area = (shares[0] + (shares[1] - shares[0]) * area) * height * width
    ratio = torch.exp((2 * ratio - 1) * math.log(WIDEST))
    tall, wide = ((area / ratio).sqrt() / height).clamp(max=1), ((area * ratio).sqrt() / width).clamp(max=1)
    return torch.stack([down * (1 - tall), right * (1 - wide), tall, wide], dim=1)
