"""Make synthetic training images: a folder of class folders that needs no download.

    python -m benchmarks.make_images FOLDER                     20,000 training and 2,000 test images, ten classes
    python -m benchmarks.make_images FOLDER --images 200        fewer, for trying out

Then: python run.py dataset=shapes dataset.source=FOLDER model=resnet18

A class is a shape with a texture (a disc with stripes, a star with dots, ...). Everything else is nuisance and says
nothing about the class: the size of the image, where the shape lies, how large it is and how it is turned, its two
colours, the background and its gradient, small plain shapes, brightness, blur, noise and compression. An image is
decided by the seed, its split and its number alone.
"""

import io
import itertools
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.storage.entry_point import Parser, end
from methods.errors import BadInput
from methods.progress import track
from methods.seeds import derive_seed

SHAPES = ("cross", "disc", "ring", "star", "triangle")
TEXTURES = ("dots", "stripes")
CLASSES = tuple(f"{shape}_{texture}" for shape, texture in itertools.product(SHAPES, TEXTURES))
SIDES = (150, 220)  # pixels of an image's height and width
DISTANCE = 0.35  # of two colours, at least, as a share of the cube's diagonal


def picture(label: int, seed: int, split: str, number: int) -> Image.Image:
    """One image of the class ``CLASSES[label]``, decided by the other arguments."""
    random = np.random.default_rng(derive_seed(seed, "shapes", split, number))
    shape, texture = CLASSES[label].split("_")
    height, width = (int(side) for side in random.integers(*SIDES, 2))
    canvas = _background(random, height, width)
    radius = random.uniform(0.26, 0.42) * min(height, width)
    centre = random.uniform(radius, width - radius), random.uniform(radius, height - radius)
    for _ in range(random.integers(1, 4)):  # behind the shape, so that it stays visible
        own = random.uniform(0.04, 0.09) * min(height, width)
        place = random.uniform(0, width), random.uniform(0, height)
        plain = _mask(str(random.choice(SHAPES)), height, width, place, own, random.uniform(0, math.tau))
        canvas = _over(canvas, random.uniform(0, 255, 3)[None, None], plain)
    turn = random.uniform(0, math.tau)
    surface = _texture(random, texture, height, width, radius)
    canvas = _over(canvas, surface, _mask(shape, height, width, centre, radius, turn))
    canvas = canvas * random.uniform(0.7, 1.25) + random.normal(0, random.uniform(0, 10), canvas.shape)
    image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    if random.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.2)))
    return image


def encoded(label: int, seed: int, split: str, number: int) -> bytes:
    """The same as a JPEG file."""
    stream = io.BytesIO()
    quality = int(np.random.default_rng(derive_seed(seed, "quality", split, number)).integers(70, 96))
    picture(label, seed, split, number).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def make(folder: Path, images: int, test: int, seed: int) -> None:
    """Write ``folder/train/CLASS/NUMBER.jpg`` and ``folder/test/...``; all of it, or nothing.

    Raises:
        BadInput: the folder is there, or cannot be written.
    """
    if folder.exists():
        raise BadInput(f"{folder} is there already; name another folder, or delete it")
    work = folder.with_name(f".{folder.name}.making")
    shutil.rmtree(work, ignore_errors=True)  # of a command that was killed
    listed = [("train", number) for number in range(images)] + [("test", number) for number in range(test)]
    try:
        for split, name in itertools.product(("train", "test"), CLASSES):
            (work / split / name).mkdir(parents=True)
        for split, number in track(listed, f"making images in {folder.name}"):
            label = number % len(CLASSES)
            path = work / split / CLASSES[label] / f"{number:06}.jpg"
            path.write_bytes(encoded(label, seed, split, number))
        work.rename(folder)
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        raise BadInput(
            f"{folder} cannot be written: {error.strerror or error}\nName a folder on a disk with room."
        ) from error


def _background(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W, 3) a gradient between two colours with coarse noise."""
    first, second = random.uniform(0, 255, (2, 3))
    angle = random.uniform(0, math.tau)
    y, x = np.mgrid[0:height, 0:width]
    along = (np.cos(angle) * x / width + np.sin(angle) * y / height + 1) / 3
    coarse = random.normal(0, 1, (8, 8)).astype(np.float32)
    noise = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return first + (second - first) * along[..., None] + random.uniform(5, 30) * noise[..., None]


def _texture(random: np.random.Generator, kind: str, height: int, width: int, radius: float) -> np.ndarray:
    """(H, W, 3) stripes or dots of two colours that differ."""
    first = random.uniform(0, 255, 3)
    second = random.uniform(0, 255, 3)
    while np.linalg.norm(first - second) < DISTANCE * 255 * math.sqrt(3):
        second = random.uniform(0, 255, 3)
    angle, period = random.uniform(0, math.tau), radius / random.uniform(2.2, 4)
    y, x = np.mgrid[0:height, 0:width]
    phase = random.uniform(0, math.tau, 2)
    along = np.sin(math.tau * (np.cos(angle) * x + np.sin(angle) * y) / period + phase[0])
    across = np.sin(math.tau * (np.cos(angle) * y - np.sin(angle) * x) / period + phase[1])
    where = along > 0 if kind == "stripes" else along + across > 0.7
    return np.where(where[..., None], first, second)


def _mask(shape: str, height: int, width: int, centre: tuple[float, float], radius: float, turn: float) -> np.ndarray:
    """(H, W, 1) how much of each pixel the shape covers, 0 to 1."""
    twice = Image.new("L", (2 * width, 2 * height))  # and averaged, for smooth edges
    draw = ImageDraw.Draw(twice)
    x, y, r = 2 * centre[0], 2 * centre[1], 2 * radius
    if shape in ("disc", "ring"):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
        if shape == "ring":
            draw.ellipse((x - 0.5 * r, y - 0.5 * r, x + 0.5 * r, y + 0.5 * r), fill=0)
    else:
        draw.polygon([(x + r * u, y + r * v) for u, v in _outline(shape, turn)], fill=255)
    return np.asarray(twice.resize((width, height), Image.Resampling.BOX), dtype=np.float32)[..., None] / 255


def _outline(shape: str, turn: float) -> Sequence[tuple[float, float]]:
    """Corners of a shape of radius 1 around the origin."""
    if shape == "triangle":
        return [(math.cos(turn + k * math.tau / 3), math.sin(turn + k * math.tau / 3)) for k in range(3)]
    if shape == "star":
        radii = (1.0, 0.42)
        return [(radii[k % 2] * math.cos(turn + k * math.pi / 5), radii[k % 2] * math.sin(turn + k * math.pi / 5))
                for k in range(10)]  # fmt: skip
    arm = 0.32
    corners = [(1, arm), (arm, arm), (arm, 1), (-arm, 1), (-arm, arm), (-1, arm)]
    corners += [(-a, -b) for a, b in corners]
    cos, sin = math.cos(turn), math.sin(turn)
    return [(cos * a - sin * b, sin * a + cos * b) for a, b in corners]


def _over(canvas: np.ndarray, colours: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return canvas * (1 - mask) + colours * mask


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``python -m benchmarks.make_images``."""
    parser = Parser(
        prog="python -m benchmarks.make_images",
        description="Write a folder of synthetic images, a folder for each class.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where they go; it must not be there yet")
    parser.add_argument("--images", type=int, default=20_000, help="training images (20000)")
    parser.add_argument("--test", type=int, default=None, help="test images (a tenth of the training images)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (0)")
    chosen = parser.parse_args(arguments)
    test = max(len(CLASSES), chosen.images // 10) if chosen.test is None else chosen.test
    if min(chosen.images, test) < len(CLASSES):
        raise BadInput(f"--images and --test must be at least {len(CLASSES)}, one image for each class")
    make(chosen.folder.expanduser(), chosen.images, test, chosen.seed)
    print(f"{chosen.folder}: {chosen.images} training and {test} test images of {len(CLASSES)} classes")  # noqa: T201
    return 0


if __name__ == "__main__":
    end(main)
