import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import noise
from omegaconf import OmegaConf
from PIL import Image

import conf
from benchmarks.data import decode
from benchmarks.data import split as data_module
from benchmarks.data.augment import Augmentation, crop_and_flip
from benchmarks.data.splits import Split, carve, load
from benchmarks.sweeps.composition import Composer
from methods.errors import BadInput

pytestmark = pytest.mark.slow

CONF = Path(conf.__file__).parent / "dataset"
ROOT = os.environ.get("SECATEURS_DATA")  # of the real images, before the fixture below hides it
DATASETS = sorted(path.stem for path in CONF.glob("*.yaml"))


@pytest.fixture(autouse=True)
def no_data_variable(monkeypatch):
    monkeypatch.delenv("SECATEURS_DATA", raising=False)


def config(name, **changes):
    return OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), changes)


def encode(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def write_parquet(path, pixels, labels, columns=("image", "label")):
    table = {columns[0]: [encode(image) for image in pixels], columns[1]: labels}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path)


def mnist_like(folder, train=50, test=20, seed=0, columns=("image", "label")):
    """A folder in the hub's layout, and what it should decode to."""
    generator = np.random.default_rng(seed)
    held = {}
    for split, count in (("train", train), ("test", test)):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = generator.integers(0, 10, count)
        write_parquet(folder / f"{split}-00000-of-00001.parquet", pixels, labels.tolist(), columns)
        held[split] = torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(labels)
    return held


# Decoding and caching


def test_local_folder_decodes_to_the_images_that_were_encoded(tmp_path):
    held = mnist_like(tmp_path / "mnist")
    data = load(config("mnist", source=str(tmp_path / "mnist")), 0, tmp_path / "cache")
    train, _ = carve(50, 0.1, 0)
    assert torch.equal(data.test.inputs, held["test"][0])
    assert torch.equal(data.test.targets, held["test"][1])
    assert torch.equal(data.train.inputs, held["train"][0][train])
    assert data.train.inputs.dtype == torch.uint8
    assert data.train.targets.dtype == torch.int64
    assert (data.classes, data.shape, data.task) == (10, (1, 28, 28), "classification")
    assert data.origin == "folder mnist"


def test_colour_channels_keep_their_places_and_several_files_their_order(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    for part, rows in enumerate((slice(0, 4), slice(4, 6))):
        labels = list(range(6))[rows]
        write_parquet(tmp_path / "d" / "plain" / f"train-0000{part}.parquet", pixels[rows], labels, ("img", "label"))
    columns = decode.Columns("img", "label", (3, 32, 32), 10, resize=False)
    images, labels = decode.decode_folder(tmp_path / "d", "train", columns)
    assert torch.equal(images, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert labels.tolist() == list(range(6))


def test_data_variable_names_the_root_and_source_comes_first(tmp_path, monkeypatch):
    mnist_like(tmp_path / "root" / "mnist", seed=1)
    held = mnist_like(tmp_path / "other", seed=2)
    monkeypatch.setenv("SECATEURS_DATA", str(tmp_path / "root"))
    by_variable = load(config("mnist"), 0, tmp_path / "cache")
    by_source = load(config("mnist", source=str(tmp_path / "other")), 0, tmp_path / "cache")
    assert by_variable.checksum != by_source.checksum
    assert torch.equal(by_source.test.inputs, held["test"][0])


def test_second_load_reads_the_cache_instead_of_decoding(tmp_path, monkeypatch):
    mnist_like(tmp_path / "mnist")
    cfg = config("mnist", source=str(tmp_path / "mnist"))
    first = load(cfg, 0, tmp_path / "cache")
    monkeypatch.setattr(decode, "decode_folder", lambda *_: pytest.fail("decoded twice"))
    second = load(cfg, 0, tmp_path / "cache")
    assert first.checksum == second.checksum
    assert torch.equal(first.train.inputs, second.train.inputs)


def test_changed_files_are_decoded_anew(tmp_path):
    mnist_like(tmp_path / "mnist", seed=1)
    cfg = config("mnist", source=str(tmp_path / "mnist"))
    load(cfg, 0, tmp_path / "cache")
    held = mnist_like(tmp_path / "mnist", seed=2)
    path = tmp_path / "mnist" / "train-00000-of-00001.parquet"
    os.utime(path, ns=(path.stat().st_mtime_ns + 1, path.stat().st_mtime_ns + 1))
    assert torch.equal(load(cfg, 0, tmp_path / "cache").test.inputs, held["test"][0])


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_damaged_cache_is_noticed_and_rebuilt(tmp_path, damage):
    mnist_like(tmp_path / "mnist")
    cfg = config("mnist", source=str(tmp_path / "mnist"))
    first = load(cfg, 0, tmp_path / "cache")
    (path,) = (tmp_path / "cache" / "data").glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes({"flip": content, "truncate": content[: len(content) // 2], "empty": b""}[damage])
    second = load(cfg, 0, tmp_path / "cache")
    assert torch.equal(first.train.inputs, second.train.inputs)
    (path,) = (tmp_path / "cache" / "data").glob("*.safetensors")
    content[-100] ^= 1
    assert path.read_bytes() == content
    assert not list((tmp_path / "cache" / "data").glob(".*"))


def test_hub_and_folder_of_the_same_files_give_the_same_data(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    mnist_like(tmp_path / "mnist")
    by_folder = load(config("mnist", source=str(tmp_path / "mnist")), 0, tmp_path / "a")
    by_hub = load(config("mnist", hub=str(tmp_path / "mnist")), 0, tmp_path / "b")
    assert by_hub.checksum == by_folder.checksum
    assert by_hub.origin.startswith("hub ")


@pytest.mark.skipif(not ROOT, reason="SECATEURS_DATA is not set")
@pytest.mark.parametrize(("name", "size", "tolerance"), [("mnist", 60000, 2e-4), ("cifar10", 50000, 3e-3)])
def test_real_images_have_the_moments_that_the_configuration_names(workplace, name, size, tolerance):
    data = load(cfg := config(name, source=str(Path(ROOT) / name)), 0, workplace.cache)
    assert len(data.train) + len(data.validation) == size
    pixels = torch.cat([data.train.inputs, data.validation.inputs]).transpose(0, 1).flatten(1)
    for channel, mean, std in zip(pixels, cfg.mean, cfg.std, strict=True):
        assert channel.double().mean() / 255 == pytest.approx(mean, abs=tolerance)
        assert channel.double().std() / 255 == pytest.approx(std, abs=tolerance)


# What bad input gets


def refuse(cfg, tmp_path, *expected):
    with pytest.raises(BadInput) as caught:
        load(cfg, 0, tmp_path / "cache")
    message = str(caught.value)
    assert len(message.splitlines()) <= 2
    for part in expected:
        assert part in message
    assert not (tmp_path / "cache").exists() or not any(p.is_file() for p in (tmp_path / "cache").rglob("*"))


def test_missing_folder(tmp_path):
    refuse(config("mnist", source=str(tmp_path / "gone")), tmp_path, "gone", "does not exist", "dataset.source")


def test_missing_folder_below_the_data_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEURS_DATA", str(tmp_path))
    refuse(config("cifar10"), tmp_path, "cifar10", "SECATEURS_DATA", "does not exist")


def test_file_instead_of_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    refuse(config("mnist", source=str(tmp_path / "file")), tmp_path, "is not a folder")


def test_folder_with_something_else(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    refuse(config("mnist", source=str(tmp_path / "photos")), tmp_path, "cat.jpg", "train*.parquet")


def test_folder_without_test_split(tmp_path):
    mnist_like(tmp_path / "mnist")
    (tmp_path / "mnist" / "test-00000-of-00001.parquet").unlink()
    refuse(config("mnist", source=str(tmp_path / "mnist")), tmp_path, "test*.parquet")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_parquet(tmp_path, keep):
    mnist_like(tmp_path / "mnist")
    path = tmp_path / "mnist" / "train-00000-of-00001.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    refuse(config("mnist", source=str(tmp_path / "mnist")), tmp_path, path.name, "truncated")


def test_damage_inside_a_parquet_file(tmp_path):
    mnist_like(tmp_path / "mnist")
    path = tmp_path / "mnist" / "train-00000-of-00001.parquet"
    content = bytearray(path.read_bytes())
    content[100:3000] = bytes(2900)
    path.write_bytes(content)
    refuse(config("mnist", source=str(tmp_path / "mnist")), tmp_path, path.name)


@pytest.mark.parametrize(("columns", "key"), [(("img", "label"), "image_column"), (("image", "y"), "label_column")])
def test_missing_column(tmp_path, columns, key):
    mnist_like(tmp_path / "mnist", columns=columns)
    refuse(config("mnist", source=str(tmp_path / "mnist")), tmp_path, "no column", *columns, f"dataset.{key}")


def test_images_of_another_size(tmp_path):
    for split in ("train", "test"):
        pixels = np.zeros((3, 20, 24), np.uint8)
        write_parquet(tmp_path / "small" / f"{split}.parquet", pixels, [0, 1, 2])
    refuse(config("mnist", source=str(tmp_path / "small")), tmp_path, "20x24", "28x28")


def test_labels_outside_the_classes(tmp_path):
    mnist_like(tmp_path / "mnist")
    refuse(config("mnist", source=str(tmp_path / "mnist"), classes=5), tmp_path, "0 to 4", "dataset.classes")


def test_labels_that_are_no_integers(tmp_path):
    write_parquet(tmp_path / "d" / "train.parquet", np.zeros((2, 28, 28), np.uint8), ["cat", "dog"])
    write_parquet(tmp_path / "d" / "test.parquet", np.zeros((2, 28, 28), np.uint8), ["cat", "dog"])
    refuse(config("mnist", source=str(tmp_path / "d")), tmp_path, "label", "string", "integers")


@pytest.mark.parametrize("content", [b"not an image", b"\x89PNG\r\n\x1a\n\x00", None])
def test_rows_that_hold_no_image(tmp_path, content):
    for split in ("train", "test"):
        rows = pa.array(
            [{"bytes": content, "path": "a.png"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        )
        (tmp_path / "d").mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": rows, "label": [1]}), tmp_path / "d" / f"{split}.parquet")
    refuse(config("mnist", source=str(tmp_path / "d")), tmp_path, "row 0 of", "'image'")


def test_unreachable_hub(tmp_path, monkeypatch):
    import datasets

    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach 'ylecun/mnist' on the Hub\nand a second line")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    refuse(config("mnist"), tmp_path, "ylecun/mnist", "dataset.source", "SECATEURS_DATA")


def test_unreachable_california_housing(tmp_path, monkeypatch):
    import urllib.error

    import sklearn.datasets

    def unreachable(**_):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(sklearn.datasets, "fetch_california_housing", unreachable)
    refuse(config("california_housing"), tmp_path, "no network", "dataset=friedman1")


def test_cache_that_cannot_be_written(tmp_path):
    mnist_like(tmp_path / "mnist")
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(BadInput, match=r"paths\.cache"):
        load(config("mnist", source=str(tmp_path / "mnist")), 0, tmp_path / "cache")


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.0, 1e-6])
def test_validation_fraction_that_leaves_nothing(tmp_path, fraction):
    refuse(config("digits", validation=fraction), tmp_path, "dataset.validation")


@pytest.mark.parametrize("changes", [{"limit": 0}, {"limit_test": -1}, {"test": 1.0}, {"shape": [1, 28, 28]}])
def test_values_that_make_no_sense(tmp_path, changes):
    refuse(config("digits", **changes), tmp_path, f"dataset.{next(iter(changes))}")


def test_friedman1_with_too_few_inputs(tmp_path):
    refuse(config("friedman1", shape=[4]), tmp_path, "dataset.shape", "at least 5")


def test_reader_that_does_not_exist(tmp_path):
    refuse(config("digits", reader="benchmarks.data.readers.imagse"), tmp_path, "dataset.reader", "imagse")


def test_unknown_augmentation(tmp_path):
    refuse(config("digits", augment={"rotate": 3}), tmp_path, "dataset.augment", "rotate", "crop")


def test_negative_crop(tmp_path):
    refuse(config("digits", augment={"crop": -1}), tmp_path, "dataset.augment.crop")


# Splits


@settings(deadline=None, max_examples=50)
@given(
    count=st.integers(10, 300),
    fraction=st.floats(0.15, 0.85),
    seed=st.integers(0, 2**31),
    limit=st.none() | st.integers(8, 400),
)
def test_carving_takes_every_sample_at_most_once(count, fraction, seed, limit):
    train, validation = carve(count, fraction, seed, limit)
    used = torch.cat([train, validation])
    expected = count if limit is None else min(limit, count)
    assert len(used) == len(used.unique()) == expected
    assert used.min() >= 0
    assert used.max() < count
    assert len(validation) == round(fraction * expected)
    again = carve(count, fraction, seed, limit)
    assert torch.equal(train, again[0]) and torch.equal(validation, again[1])


def test_seed_moves_the_validation_split_but_never_the_test_split(tmp_path):
    first, second = (load(config("digits"), seed, tmp_path) for seed in (0, 1))
    assert not torch.equal(first.validation.targets, second.validation.targets)
    assert torch.equal(first.test.inputs, second.test.inputs)
    limited = [load(config("digits", limit_test=50), seed, tmp_path).test for seed in (0, 1)]
    assert len(limited[0]) == 50
    assert torch.equal(limited[0].inputs, limited[1].inputs)


def test_digits_are_all_there_once(tmp_path):
    from sklearn.datasets import load_digits

    data = load(config("digits"), 3, tmp_path)
    images = torch.cat([part.inputs for part in (data.train, data.validation, data.test)])
    ours = images.flatten(1).unique(dim=0)
    theirs = torch.from_numpy(load_digits().data).to(torch.uint8).unique(dim=0)
    assert len(images) == 1797
    assert torch.equal(ours, theirs)
    assert images.max() == 16


def test_limit_is_the_number_of_training_and_validation_samples(tmp_path):
    data = load(config("digits", limit=100, validation=0.1), 0, tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (90, 10, 359)


@pytest.mark.parametrize("name", ["digits", "friedman1"])
def test_inputs_are_standardised(tmp_path, name):
    data = load(config(name), 0, tmp_path)
    x = data.train.to_inputs(slice(None))
    assert x.dtype == torch.float32
    assert x.mean() == pytest.approx(0, abs=0.02)
    assert x.std() == pytest.approx(1, abs=0.02)


def test_friedman1_is_a_regression_that_its_formula_explains(tmp_path):
    from sklearn.datasets import make_friedman1

    data = load(config("friedman1", samples=3000), 0, tmp_path)
    x, y = next(data.train.batches(len(data.train)))
    assert (data.task, data.classes, data.shape) == ("regression", 1, (8,))
    assert (x.dtype, y.dtype, y.shape) == (torch.float32, torch.float32, (len(x), 1))
    raw, _ = make_friedman1(3000, 8, noise=1.0, random_state=0)
    u = x.double() * torch.from_numpy(raw.std(0)) + torch.from_numpy(
        raw.mean(0)
    )  # up to the deviation of a subset's moments from all samples'
    clean = 10 * (torch.pi * u[:, 0] * u[:, 1]).sin() + 20 * (u[:, 2] - 0.5) ** 2 + 10 * u[:, 3] + 5 * u[:, 4]
    assert torch.corrcoef(torch.stack([clean, y[:, 0].double()]))[0, 1] > 0.97


def test_every_data_set_names_all_that_is_needed():
    needed = {"name", "reader", "task", "classes", "shape", "mean", "std", "validation", "limit", "limit_test"}
    for name in DATASETS:
        cfg = Composer(CONF.parent).cell([f"dataset={name}"])["dataset"]
        assert needed <= cfg.keys()
        assert cfg["name"] == name
    assert {"digits", "mnist", "cifar10", "friedman1", "california_housing"} <= set(DATASETS)


# Batches


def split(count=23, channels=2, augmentation=None):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(0, 256, (count, channels, 5, 6), dtype=torch.uint8, generator=generator)
    return Split(inputs, torch.arange(count), (0.1, 0.4)[:channels], (0.5, 0.25)[:channels], augmentation=augmentation)


def expected_inputs(raw):
    mean, std = torch.tensor([0.1, 0.4]).view(2, 1, 1), torch.tensor([0.5, 0.25]).view(2, 1, 1)
    return (raw.double() / 255 - mean) / std


@pytest.mark.parametrize("limit", [0, 2**28])
@pytest.mark.parametrize("seed", [None, 0])
def test_batches_hold_every_sample_once_normalised(monkeypatch, limit, seed):
    monkeypatch.setattr(data_module, "NORMALISE_ONCE_BYTES", limit)
    part = split()
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    batches = list(part.batches(10, generator))
    x, y = (torch.cat(column) for column in zip(*batches, strict=True))
    assert [len(batch) for batch, _ in batches] == [10, 10, 3]
    assert (y.tolist() == list(range(23))) == (seed is None)
    assert sorted(y.tolist()) == list(range(23))
    torch.testing.assert_close(x.double(), expected_inputs(part.inputs[y]), atol=1e-6, rtol=0)
    torch.testing.assert_close(part.to_inputs(y), x, atol=1e-6, rtol=0)


def test_order_and_augmentation_follow_the_generator():
    part = split(augmentation=Augmentation(2))
    runs = [list(part.batches(8, torch.Generator().manual_seed(seed), augment=True)) for seed in (0, 0, 1)]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(runs[0], runs[1], strict=True))
    assert not torch.equal(runs[0][0][0], runs[2][0][0])


@pytest.mark.parametrize("seed", [None, 0])
def test_a_batch_changed_in_place_leaves_the_split_alone(seed):
    part = split()
    for _ in range(2):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        for x, y in part.batches(10, generator):
            torch.testing.assert_close(x.double(), expected_inputs(part.inputs[y]), atol=1e-6, rtol=0)
            x.fill_(7.0)


def test_augmentation_is_applied_only_where_asked_for_and_configured():
    plain, augmented = split(), split(augmentation=Augmentation(2))
    for part, augment, same in ((plain, True, True), (augmented, False, True), (augmented, True, False)):
        x, y = next(part.batches(23, torch.Generator().manual_seed(0), augment=augment))
        assert torch.equal(x, part.to_inputs(y)) == same


def test_augmentation_without_generator_is_refused():
    with pytest.raises(ValueError, match="generator"):
        next(split(augmentation=Augmentation()).batches(4, augment=True))


def test_float_inputs_are_taken_as_they_are():
    part = Split(noise(7, 3), torch.zeros(7, 1))
    assert torch.equal(next(part.batches(7))[0], part.inputs)


# Augmentation


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 5), st.integers(1, 3), st.integers(2, 7), st.integers(2, 7), st.integers(0, 4), st.integers(0, 99)
)
def test_crop_and_flip_equals_one_sample_at_a_time(batch, channels, height, width, padding, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(1, 256, (batch, channels, height, width), dtype=torch.uint8, generator=generator)
    top, left = torch.randint(0, 2 * padding + 1, (2, batch), generator=generator)
    flip = torch.rand(batch, generator=generator) < 0.5
    result = crop_and_flip(images, top, left, flip, padding)
    for image, row, column, mirrored, found in zip(images, top, left, flip, result, strict=True):
        window = F.pad(image, (padding,) * 4)[:, row : row + height, column : column + width]
        assert torch.equal(found, window.flip(2) if mirrored else window)


def test_every_offset_and_both_directions_are_drawn_evenly():
    # One bright pixel in the middle shows where the window was cut, a second beside it whether it was mirrored.
    images = torch.zeros(20000, 1, 9, 9, dtype=torch.uint8)
    images[:, 0, 4, 4], images[:, 0, 4, 5] = 2, 1
    result = Augmentation(crop=2)(images, torch.Generator().manual_seed(0))[:, 0]
    where = (result == 2).flatten(1).float().argmax(1)
    rows, columns = where // 9, where % 9
    counts = torch.bincount((rows - 2) * 5 + columns - 2, minlength=25)
    assert len(counts) == 25
    assert (counts - 800).abs().max() < 6 * 800**0.5  # 25 even cells of 800, six standard deviations
    mirrored = result.flatten(1).gather(1, (where - 1)[:, None]).squeeze(1) == 1
    assert abs(mirrored.double().mean() - 0.5) < 6 * 0.5 / 20000**0.5


def test_no_flip_means_none():
    images = torch.arange(6, dtype=torch.uint8).expand(50, 1, 6, 6)
    assert torch.equal(Augmentation(crop=0, flip=False)(images, torch.Generator().manual_seed(0)), images)
