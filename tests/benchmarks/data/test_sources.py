"""Where images come from: class folders, ILSVRC's own layout, Parquet, tar shards, the hub; all to the same samples."""

import csv
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from benchmarks.data.sources.tar import shards
from benchmarks.data.splits import load
from benchmarks.storage.paths import REPOSITORY
from methods.errors import BadInput

CLASSES = ("n01440764", "n01443537", "n02102040")


def config(choice, source, **changes):
    section = OmegaConf.to_container(OmegaConf.load(REPOSITORY / "conf" / "dataset" / f"{choice}.yaml"))
    section |= {"name": "mine", "source": None if source is None else str(source), "shape": [3, 8, 8], "classes": 3}
    return section | {"stored": None, "workers": 0, "validation": 0.25, "augment": None} | changes


def encoded(value):
    """A PNG image whose grey level says which one it is."""
    stream = io.BytesIO()
    Image.fromarray(np.full((10, 12, 3), value, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


TRAIN = [(10 * label + number, label) for label in range(3) for number in range(8)]
TEST = [(100 + 10 * label + number, label) for label in range(3) for number in range(2)]


def found(data):
    """(value, label) of the images that were used for training and validation, and of those for testing."""

    def pairs(split):
        values = torch.round(split.to_inputs(slice(None))[:, 0, 4, 4] * split.std[0] * 255 + split.mean[0] * 255)
        return list(zip(values.int().tolist(), split.targets.tolist(), strict=True))

    return sorted(pairs(data.train) + pairs(data.validation)), sorted(pairs(data.test))


def as_parquet(folder, split_test="test", columns=("image", "label")):
    folder.mkdir(parents=True)
    for split, rows in (("train", TRAIN), (split_test, TEST)):
        for part in (0, 1):
            own = rows[part::2]
            table = {columns[0]: [{"bytes": encoded(value), "path": None} for value, _ in own]}
            table[columns[1]] = [label for _, label in own]
            pq.write_table(pa.table(table), folder / f"{split}-{part}.parquet", row_group_size=3)
    return folder


def add(shard, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def as_shards(folder, label=lambda label: ("cls", str(label).encode())):
    folder.mkdir(parents=True)
    for split, rows in (("train", TRAIN), ("val", TEST)):
        for part in (0, 1):
            with tarfile.open(folder / f"{split}-{part}.tar", "w") as shard:
                for value, target in rows[part::2]:
                    kind, content = label(target)
                    add(shard, f"some/{value:06}.png", encoded(value))
                    add(shard, f"some/{value:06}.{kind}", content)
    return folder


def as_classes(folder, test="val"):
    for split, rows in (("train", TRAIN), (test, TEST)):
        for value, label in rows:
            (folder / split / CLASSES[label]).mkdir(parents=True, exist_ok=True)
            (folder / split / CLASSES[label] / f"{value}.png").write_bytes(encoded(value))
    return folder


def flat(folder, pictures):
    folder.mkdir(parents=True)
    for number, (value, _) in enumerate(pictures, 1):
        (folder / f"ILSVRC2012_val_{number:08}.png").write_bytes(encoded(value))


def as_ilsvrc(root, labels):
    """As it is handed out: training images in folders, validation images and unlabelled test images in one each."""
    base = root / "ILSVRC" / "Data" / "CLS-LOC"
    for value, label in TRAIN:
        (base / "train" / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        (base / "train" / CLASSES[label] / f"{CLASSES[label]}_{value}.png").write_bytes(encoded(value))
    flat(base / "val", TEST)
    flat(base / "test", [(200, None)])
    labels(root)
    return root


def kaggle(root):
    with (root / "LOC_val_solution.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["ImageId", "PredictionString"])
        for number, (_, label) in reversed(list(enumerate(TEST, 1))):
            rows.writerow([f"ILSVRC2012_val_{number:08}", f"{CLASSES[label]} 1 2 3 4 {CLASSES[label]} 5 6 7 8 "])


def kit(root):
    """The development kit, whose numbers are not in the order of the classes' names; class 4 is no leaf."""
    from scipy.io import savemat

    place = root / "ILSVRC2012_devkit_t12" / "data"
    place.mkdir(parents=True)
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(2, CLASSES[0], "a", 0), (3, CLASSES[1], "b", 0), (1, CLASSES[2], "c", 0), (4, "n00000001", "d", 2)]
    savemat(place / "meta.mat", {"synsets": np.array(rows, dtype=kinds)})
    numbers = {0: 2, 1: 3, 2: 1}
    text = "".join(f"{numbers[label]}\n" for _, label in TEST)
    (place / "ILSVRC2012_validation_ground_truth.txt").write_text(text)


def as_tiny(root):
    """tiny-imagenet-200: images of each class in a folder of their own, and a file of labels."""
    for value, label in TRAIN:
        place = root / "train" / CLASSES[label] / "images"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{value}.png").write_bytes(encoded(value))
        (root / "train" / CLASSES[label] / f"{CLASSES[label]}_boxes.txt").touch()
    flat(root / "val" / "images", TEST)
    lines = [f"ILSVRC2012_val_{n:08}.png\t{CLASSES[label]}\t0\t0\t9\t9\n" for n, (_, label) in enumerate(TEST, 1)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    flat(root / "test" / "images", [(200, None)])
    return root


FORMS = {
    "parquet": lambda root: as_parquet(root, "validation"),
    "shards": as_shards,
    "shards with json": lambda root: as_shards(root, lambda label: ("json", json.dumps({"label": label}).encode())),
    "folders": as_classes,
    "ilsvrc by kaggle": lambda root: as_ilsvrc(root, kaggle),
    "ilsvrc by the kit": lambda root: as_ilsvrc(root, kit),
    "tiny": as_tiny,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_data_set_is_the_same_in_whatever_form_it_lies(form, tmp_path):
    source = FORMS[form](tmp_path / "set")
    for storage in ("memory", "cached", "streamed"):
        data = load(config("imagenet", source, storage=storage), 0, tmp_path / storage)
        assert found(data) == (sorted(TRAIN), sorted(TEST)), storage
        assert (data.classes, data.origin, len(data.validation)) == (3, "folder set", 6)


@pytest.mark.parametrize("storage", ["memory", "cached", "streamed"])
def test_shards_are_a_choice_of_their_own(storage, tmp_path):
    source = as_shards(tmp_path / "set")
    data = load(config("shards", source, storage=storage, classes=None), 0, tmp_path / "cache")
    assert found(data) == (sorted(TRAIN), sorted(TEST)) and data.classes == 3


def test_the_look_through_shards_is_remembered_until_they_change(tmp_path, monkeypatch):
    source = as_shards(tmp_path / "set")
    settings = config("shards", source, storage="streamed")
    load(settings, 0, tmp_path / "cache")
    with monkeypatch.context() as patched:
        patched.setattr("benchmarks.data.sources.tar.track", lambda *_: pytest.fail("looked through again"))
        load(settings, 0, tmp_path / "cache")
    with tarfile.open(source / "train-1.tar", "a") as shard:
        add(shard, "more/1.png", encoded(1))
        add(shard, "more/1.cls", b"2")
    data = load(settings, 0, tmp_path / "cache")
    assert len(data.train) + len(data.validation) == len(TRAIN) + 1


@pytest.mark.parametrize("streaming", [None, True])
def test_rows_of_the_hub_downloaded_or_as_they_come(streaming, tmp_path, monkeypatch):
    """A folder in the hub's layout is a repository as good as any; nothing is asked over the network."""
    monkeypatch.delenv("SECATEURS_DATA", raising=False)
    repository = as_parquet(tmp_path / "repository")
    for storage in ("cached", "streamed"):
        settings = config("hub", None, hub=str(repository), storage=storage, hub_streaming=streaming)
        data = load(settings, 0, tmp_path / f"{storage}{streaming}")
        assert found(data) == (sorted(TRAIN), sorted(TEST))


def test_parquet_is_copied_once_where_rows_are_read_at_random(tmp_path, monkeypatch):
    source = as_parquet(tmp_path / "set", "validation")
    settings = config("imagenet", source, storage="streamed")
    load(settings, 0, tmp_path / "cache")
    monkeypatch.setattr("benchmarks.data.sources.packed.write_atomically", lambda *_: pytest.fail("copied again"))
    assert found(load(settings, 1, tmp_path / "cache")) == (sorted(TRAIN), sorted(TEST))


def refused(said, choice, source, tmp_path, **changes):
    with pytest.raises(BadInput, match=said) as caught:
        data = load(config(choice, source, **changes), 0, tmp_path / "cache")
        list(data.train.batches(64))
    assert len(str(caught.value).splitlines()) <= 2
    assert not list(tmp_path.glob("cache/data/*/manifest.json"))


def test_shards_that_cannot_be_read_are_named(tmp_path):
    refused("no shards for train and test", "shards", tmp_path, tmp_path)
    source = as_shards(tmp_path / "packed")
    (source / "train-2.tar.gz").write_bytes(b"")
    refused(r"train-2.tar.gz is compressed", "shards", source, tmp_path)
    source = as_shards(tmp_path / "cut")
    content = (source / "train-0.tar").read_bytes()
    (source / "train-0.tar").write_bytes(content[:700])
    refused(r"train-0.tar cannot be read as a tar shard", "shards", source, tmp_path)
    source = as_shards(tmp_path / "unlabelled", lambda label: ("txt", b"a flower"))
    refused("has no label; expected a file .cls", "shards", source, tmp_path)
    source = as_shards(tmp_path / "words", lambda label: ("cls", b"flower"))
    refused("its .cls has no label; expected digits", "shards", source, tmp_path)
    source = as_shards(tmp_path / "high")
    refused("labels 0 to 2; expected 0 to 1", "shards", source, tmp_path, classes=2)


def test_a_shard_that_changes_while_it_is_read_is_noticed(tmp_path):
    source = as_shards(tmp_path / "set")
    data = load(config("shards", source, storage="streamed"), 0, tmp_path / "cache")
    (source / "train-0.tar").write_bytes(b"")
    with pytest.raises(BadInput, match="train-0.tar cannot be read: it ends before the image"):
        list(data.train.batches(64))


def test_shards_are_sorted_into_splits_by_their_own_names_or_their_folders(tmp_path):
    for name in ("train/a.tar", "train/b.tar", "test/a.tar", "imagenet-val-0.tar", "trainer.tar", ".test.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = {split: [str(path.relative_to(tmp_path)) for path in paths] for split, paths in shards(tmp_path).items()}
    assert names == {
        "train": ["train/a.tar", "train/b.tar"],
        "test": ["test/a.tar"],
        "validation": ["imagenet-val-0.tar"],
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n"), "does not name ILSVRC"),
        (lambda root: (root / "LOC_val_solution.csv").write_text("a\nb\n"), "cannot be read as labels of val/"),
        (lambda root: (root / "LOC_val_solution.csv").unlink(), r"has 0 class folders"),
    ],
)
def test_labels_of_ilsvrc_that_do_not_fit_are_refused(change, said, tmp_path):
    source = as_ilsvrc(tmp_path / "set", kaggle)
    change(source)
    refused(said, "imagenet", source, tmp_path)


def test_labels_of_the_kit_must_be_as_many_as_the_images(tmp_path):
    source = as_ilsvrc(tmp_path / "set", kit)
    (source / "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.png").unlink()
    refused("it has 6 labels for 5 images", "imagenet", source, tmp_path)


def test_a_class_that_the_training_images_lack_is_refused(tmp_path):
    source = as_ilsvrc(tmp_path / "set", kaggle)
    text = (source / "LOC_val_solution.csv").read_text().replace(CLASSES[2], "../../x")
    (source / "LOC_val_solution.csv").write_text(text)
    refused(r"says '../../x', which train has not", "imagenet", source, tmp_path)
