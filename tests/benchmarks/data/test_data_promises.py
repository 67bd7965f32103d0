"""What reading data promises beside its tensors: nothing augmented unasked, refusals before work, what is ignored."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from benchmarks.data import readers
from benchmarks.data.augment import Augmentation
from benchmarks.data.decode import Columns, decode_folder, parquet_files
from benchmarks.data.imagefolder import find
from benchmarks.data.readers import Raw, image_sequences, refuse_unreadable
from benchmarks.data.splits import Split
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from methods.errors import BadInput


def test_nothing_is_augmented_unless_it_is_asked_for():
    images = torch.arange(4 * 36, dtype=torch.uint8).view(4, 1, 6, 6)
    split = Split(images, torch.arange(4), augmentation=Augmentation(crop=2, flip=True))
    plain = split.to_inputs(slice(None))
    order = torch.randperm(4, generator=torch.Generator().manual_seed(5))
    [(inputs, targets)] = split.batches(4, generator=torch.Generator().manual_seed(5))
    assert torch.equal(targets, order) and torch.equal(inputs, plain[order])
    [(changed, _)] = split.batches(4, generator=torch.Generator().manual_seed(5), augment=True)
    assert not torch.equal(changed, plain[order])


def test_images_of_another_size_are_refused_unless_they_may_be_scaled(tmp_path):
    import io

    stream = io.BytesIO()
    Image.fromarray(np.zeros((9, 9), dtype=np.uint8)).save(stream, "PNG")
    pq.write_table(
        pa.table({"image": [{"bytes": stream.getvalue(), "path": None}], "label": [0]}), tmp_path / "train.parquet"
    )
    with pytest.raises(BadInput, match="train.parquet"):
        decode_folder(tmp_path, "train", Columns("image", "label", (1, 8, 8), 10, resize=False))
    images, _ = decode_folder(tmp_path, "train", Columns("image", "label", (1, 8, 8), 10, resize=True))
    assert images.shape == (1, 1, 8, 8)


def test_a_folder_without_parquet_files_says_what_it_holds_but_not_everything(tmp_path):
    for name in "abcdef":
        (tmp_path / name).mkdir()
    with pytest.raises(BadInput, match=r"it holds a, b, c, d\)"):
        parquet_files(tmp_path, "train")


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(path)


def test_folders_beside_the_splits_are_named_and_nothing_is_said_without_them(tmp_path, caplog):
    for split in ("train", "test"):
        for name in ("a", "b"):
            picture(tmp_path / split / name / "0.png")
    with caplog.at_level(logging.WARNING):
        find(tmp_path)
    assert not caplog.records
    (tmp_path / "spare").mkdir()
    with caplog.at_level(logging.WARNING):
        assert set(find(tmp_path)) == {"train", "test"}
    assert "ignored beside train/: spare" in caplog.text


def test_hidden_folders_and_what_archivers_leave_are_no_images(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / name / "0.png")
        picture(tmp_path / name / ".thumbnails" / "0.png")
        picture(tmp_path / name / "__MACOSX" / "sub" / "0.png")
        picture(tmp_path / name / "deep" / "1.png")
    found = find(tmp_path)["train"]
    assert {name: [path.name for path in paths] for name, paths in found.items()} == {
        "a": ["0.png", "1.png"],
        "b": ["0.png", "1.png"],
    }


def test_sequences_of_images_that_are_nowhere_are_refused_before_any_work(tmp_path):
    config = Composer(CONF).cell(["dataset=row_mnist", "model=irnn", f"dataset.source={tmp_path}/nowhere"])
    with pytest.raises(BadInput, match=r"nowhere .*does not exist"):
        refuse_unreadable(config["dataset"], tmp_path)


def test_sequences_have_the_checksum_of_their_images_and_say_that_they_are_sequences(monkeypatch, tmp_path):
    images = torch.zeros(2, 1, 4, 6, dtype=torch.uint8)
    raw = Raw(images, torch.arange(2), images, torch.arange(2), "somewhere", "sum")
    monkeypatch.setattr(readers, "images", lambda cfg, cache: raw)
    found = image_sequences({"images": "m", "image_shape": [1, 4, 6], "pool": 1, "shape": [4, 6]}, tmp_path)
    assert (found.checksum, found.origin) == ("sum", "somewhere, as sequences")
