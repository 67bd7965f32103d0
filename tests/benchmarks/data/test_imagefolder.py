"""Image files of a user: layouts, links, archives, sizes, and the records' identity."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from benchmarks.data.splits import load
from benchmarks.storage.paths import REPOSITORY
from methods.errors import BadInput


def config(choice, **changes):
    section = OmegaConf.to_container(OmegaConf.load(REPOSITORY / "conf" / "dataset" / f"{choice}.yaml"))
    return section | {"name": "mine", "shape": [3, 8, 8], "augment": None, "validation": 0.25} | changes


def picture(value, size=(8, 8), mode="RGB"):
    return Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).convert(mode)


def fill(folder, classes=("ants", "bees"), count=6):
    """``count`` images per class; the grey level says which image it is."""
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            picture(100 * place + number).save(folder / name / f"{number}.png")
    return folder


def test_one_folder_per_class_is_split_the_same_way_for_every_seed(tmp_path):
    source = fill(tmp_path / "flat")
    (source / "ants" / "notes.txt").write_text("not an image")
    (source / ".hidden").mkdir()
    first, second = (load(config("imagefolder", source=str(source)), seed, tmp_path / "cache") for seed in (0, 1))
    assert (first.classes, first.shape, len(first.test)) == (2, (3, 8, 8), 2)
    assert torch.equal(first.test.inputs, second.test.inputs)
    assert len(first.train) + len(first.validation) == 10
    assert not torch.equal(first.validation.inputs, second.validation.inputs)
    for split in (first.train, first.validation, first.test):
        assert torch.equal(split.targets, (split.inputs[:, 0, 0, 0] >= 100).long())


def test_own_train_and_test_folders_are_used_as_they_are(tmp_path):
    fill(tmp_path / "set" / "train", ("a", "b", "c"), 5)
    fill(tmp_path / "set" / "test", ("b", "c"), 2)
    data = load(config("imagefolder", source=str(tmp_path / "set")), 0, tmp_path / "cache")
    assert (data.classes, len(data.test), len(data.train) + len(data.validation)) == (3, 4, 15)
    assert data.test.targets.tolist() == [1, 1, 2, 2]


def test_images_are_cut_to_the_proportions_scaled_turned_upright_and_made_rgb(tmp_path):
    source = fill(tmp_path / "set")
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = 255
    Image.fromarray(wide).save(source / "ants" / "wide.png")
    picture(7, mode="L").save(source / "bees" / "grey.jpg", quality=100)
    data = load(config("imagefolder", source=str(source), shape=[3, 5, 5]), 0, tmp_path / "cache")
    pictures = torch.cat([data.train.inputs, data.validation.inputs, data.test.inputs])
    assert pictures.shape == (14, 3, 5, 5)
    assert sum(bool((each > 200).all()) for each in pictures) == 1


def test_the_second_load_reads_the_cache_and_a_changed_file_is_seen(tmp_path, monkeypatch):
    source = fill(tmp_path / "set")
    settings = config("imagefolder", source=str(source))
    before = load(settings, 0, tmp_path / "cache")
    with monkeypatch.context() as patched:
        patched.setattr("benchmarks.data.imagefolder.decode", lambda *_: pytest.fail("decoded again"))
        assert load(settings, 0, tmp_path / "cache").checksum == before.checksum
    picture(200, size=(9, 9)).save(source / "ants" / "0.png")
    assert load(settings, 0, tmp_path / "cache").checksum != before.checksum


def refuse(tmp_path, *expected, **changes):
    with pytest.raises(BadInput) as caught:
        load(config("imagefolder", **changes), 0, tmp_path / "cache")
    assert len(str(caught.value).splitlines()) <= 2
    for part in expected:
        assert part in str(caught.value)


def test_what_is_not_such_a_folder_is_refused(tmp_path):
    archive = tmp_path / "set.zip"
    archive.write_bytes(b"PK")
    refuse(tmp_path, "set.zip", "unpack", source=str(archive))
    refuse(tmp_path, "does not exist", source=str(tmp_path / "nothing"))
    refuse(tmp_path, "dataset.source=<folder>", source=None)
    refuse(tmp_path, "dataset.name=flowers", source=str(tmp_path), name="imagefolder")
    refuse(tmp_path, "0 class folders", source=str(tmp_path))
    one = fill(tmp_path / "one", ("a",))
    refuse(tmp_path, "1 class folders", source=str(one))
    (one / "b").mkdir()
    refuse(tmp_path, "holds no images", source=str(one))
    (one / "b" / "x.png").write_bytes(b"not an image")
    refuse(tmp_path, "x.png", "cannot be decoded", source=str(one))
    fill(tmp_path / "odd" / "train")
    fill(tmp_path / "odd" / "test", ("ants", "wasps"))
    refuse(tmp_path, "wasps", source=str(tmp_path / "odd"))


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_out_of_the_folder_are_refused_and_links_inside_are_not(tmp_path, what):
    outside = fill(tmp_path / "outside")
    source = fill(tmp_path / "set")
    (source / "ants" / "again.png").symlink_to(source / "ants" / "0.png")
    assert load(config("imagefolder", source=str(source)), 0, tmp_path / "cache").classes == 2
    if what == "file":
        (source / "ants" / "secret.png").symlink_to(outside / "ants" / "0.png")
    else:
        (source / "wasps").symlink_to(outside / "ants")
    refuse(tmp_path, "leads out of", source=str(source))


def test_postscript_in_disguise_is_not_handed_to_another_program(tmp_path):
    source = fill(tmp_path / "set")
    (source / "ants" / "trick.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    refuse(tmp_path, "trick.png", source=str(source))


def table(path: Path, labels, size=(11, 9)):
    encoded = []
    for label in labels:
        buffer = io.BytesIO()
        picture(10 * label, size).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    pq.write_table(pa.table({"picture": encoded, "kind": pa.array(labels, pa.int64())}), path)


def hub(tmp_path, **changes):
    own = {"source": str(tmp_path), "image_column": "picture", "label_column": "kind", "test_split": "validation"}
    return config("hub", **(own | changes))


def test_any_set_in_the_hubs_layout_by_its_column_and_split_names(tmp_path):
    table(tmp_path / "train-0.parquet", [0, 1, 2, 0, 1, 2, 0, 1])
    table(tmp_path / "validation-0.parquet", [2, 1])
    data = load(hub(tmp_path), 0, tmp_path / "cache")
    assert (data.classes, len(data.test), data.test.targets.tolist()) == (3, 2, [2, 1])
    assert data.test.inputs[0].unique().tolist() == [20]
    with pytest.raises(BadInput, match="no column 'image'.*\n.*dataset.image_column"):
        load(hub(tmp_path, image_column="image"), 0, tmp_path / "cache")
    with pytest.raises(BadInput, match=r"labels 0 to 2; expected 0 to 1"):
        load(hub(tmp_path, classes=2), 0, tmp_path / "cache")


def test_a_hub_set_needs_a_repository_and_a_name(tmp_path, monkeypatch):
    monkeypatch.delenv("SECATEURS_DATA", raising=False)
    with pytest.raises(BadInput, match="dataset.hub names no repository"):
        load(hub(tmp_path, source=None), 0, tmp_path / "cache")
    with pytest.raises(BadInput, match="dataset.name=flowers"):
        load(hub(tmp_path, name="hub"), 0, tmp_path / "cache")


def test_val_beside_train_is_the_test_split_and_it_is_said(tmp_path, caplog):
    fill(tmp_path / "set" / "train", count=6)
    fill(tmp_path / "set" / "val", count=2)
    data = load(config("imagefolder", source=str(tmp_path / "set")), 0, tmp_path / "cache")
    assert (len(data.train), len(data.validation), len(data.test)) == (9, 3, 4)
    assert "val/ is the test split" in caplog.text


def test_val_beside_train_and_test_is_the_validation_split(tmp_path):
    fill(tmp_path / "set" / "train", count=6)
    fill(tmp_path / "set" / "valid", count=3)
    fill(tmp_path / "set" / "test", count=2)
    data = load(config("imagefolder", source=str(tmp_path / "set")), 0, tmp_path / "cache")
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 6, 4)
    some = load(config("imagefolder", source=str(tmp_path / "set"), limit=5), 1, tmp_path / "cache")
    assert (len(some.train), len(some.validation)) == (5, 6)


def test_splits_without_train_are_refused(tmp_path):
    fill(tmp_path / "set" / "val")
    fill(tmp_path / "set" / "test")
    refuse(tmp_path, "no train", source=str(tmp_path / "set"))


def test_what_is_no_image_is_ignored_and_counted(tmp_path, caplog):
    source = fill(tmp_path / "set")
    (source / "ants" / "notes.txt").write_text("x")
    (source / "ants" / "._0.png").write_bytes(b"of a Macintosh")
    (source / "__MACOSX" / "ants").mkdir(parents=True)
    (source / "__MACOSX" / "ants" / "0.png").write_bytes(b"of a Macintosh")
    data = load(config("imagefolder", source=str(source)), 0, tmp_path / "cache")
    assert data.classes == 2 and len(data.train) + len(data.validation) + len(data.test) == 12
    assert "2 files ignored that are no images" in caplog.text
