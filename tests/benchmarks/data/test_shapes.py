"""Synthetic images: what decides them, what a class is, and the way from a folder of them to a leaderboard."""

import json
import os

import numpy as np
import pytest
import warm
from PIL import Image

from benchmarks.make_images import CLASSES, encoded, main, picture
from methods.errors import BadInput


def test_an_image_is_decided_by_seed_split_and_number():
    first = encoded(3, 0, "train", 5)
    assert encoded(3, 0, "train", 5) == first
    others = [encoded(3, 1, "train", 5), encoded(3, 0, "test", 5), encoded(3, 0, "train", 6), encoded(4, 0, "train", 5)]
    assert len({first, *others}) == 5


def test_nuisance_is_that_of_the_number_and_not_of_the_class():
    """Colours and sizes are drawn before the class is looked at, so that they cannot tell it."""
    sizes = [{picture(label, 0, "train", number).size for label in range(len(CLASSES))} for number in range(3)]
    assert all(len(each) == 1 for each in sizes) and len(set.union(*sizes)) == 3
    corners = [np.asarray(picture(label, 0, "train", 7), dtype=float)[:3, :3].mean() for label in range(len(CLASSES))]
    assert max(corners) - min(corners) < 30


def test_classes_differ_where_the_shape_lies():
    images = [np.asarray(picture(label, 0, "train", 11).resize((64, 64)), dtype=float) for label in range(len(CLASSES))]
    for label, image in enumerate(images):
        assert all(np.abs(image - other).mean() > 3 for other in images[:label])


def test_the_folder_has_all_classes_in_both_splits_and_is_there_whole_or_not_at_all(tmp_path, capsys):
    assert main([str(tmp_path / "set"), "--images", "20"]) == 0
    assert "20 training and 10 test images of 10 classes" in capsys.readouterr().out
    files = sorted((tmp_path / "set").rglob("*.jpg"))
    assert len(files) == 30 and len({(path.parts[-3], path.parts[-2]) for path in files}) == 20
    with Image.open(files[0]) as image:
        assert image.format == "JPEG" and 150 <= min(image.size) <= max(image.size) < 220
    with pytest.raises(BadInput, match="is there already"):
        main([str(tmp_path / "set"), "--images", "20"])
    with pytest.raises(BadInput, match="at least 10"):
        main([str(tmp_path / "few"), "--images", "5"])
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot be written"):
        main([str(tmp_path / "file" / "set"), "--images", "20"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "set"]


@pytest.mark.slow
def test_from_a_folder_of_images_to_a_leaderboard(tmp_path, capsys):
    """The grid of the experiment in small: narrow layers, few images, one epoch, one speed-up."""
    main([str(tmp_path / "set"), "--images", "60", "--test", "20"])
    words = ["-m", "+experiment=shapes_resnet18", f"dataset.source={tmp_path}/set", "dataset.storage=cached"]
    words += ["dataset.shape=[3,32,32]", "dataset.stored=36", "dataset.workers=1", "model.width=0.06"]
    words += ["trainer.train.epochs=1", "trainer.train.precision=fp32"]
    words += ["calibration.samples=32", "measure.latency.batches=[1]"]
    words += ["measure.latency.max_seconds=0.05", "track=none", "budget.speedup=1.4", "seed=0"]
    folders = [f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"]
    done = warm.run("run.py", [*words, *folders], dict(os.environ), tmp_path, timeout=600)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-1500:]
    records = [json.loads(path.read_text()) for path in (tmp_path / "results" / "runs").glob("shapes/*/*.json")]
    assert {record["method"] for record in records} == {"spectral", "magnitude", "random", "taylor"}
    assert len(records) == 4 and len({record["fingerprint"]["data"] for record in records}) == 1
    assert all(record["latency"] for record in records if record["status"] == "done")
    assert len(list((tmp_path / "cache" / "data").glob("*/manifest.json"))) == 1, "decoded once"
    board = (tmp_path / "results" / "boards" / "leaderboard.csv").read_text()
    assert "shapes" in board and "taylor" in board
