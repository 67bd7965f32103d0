"""What is refused before any work, and what only looks as if it had to be."""

from pathlib import Path

import pytest

from benchmarks.data import hub
from benchmarks.data.flat import TINY, classes_of
from benchmarks.data.readers import refuse_unreadable
from benchmarks.data.textfiles import labels_in
from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import Composer
from methods.errors import BadInput

COMPOSER = Composer(CONF)


def test_a_folder_without_the_images_files_is_refused_when_cells_are_planned(tmp_path):
    config = COMPOSER.cell(["dataset=mnist", "model=lenet5", f"dataset.source={tmp_path}"])
    with pytest.raises(BadInput, match=r"train.*parquet"):
        refuse_unreadable(config["dataset"], tmp_path / "cache")


@pytest.mark.parametrize("name", ["mnist", "food101"])
def test_a_hub_that_is_silent_is_refused_when_cells_are_planned_for_files_and_for_collections(
    tmp_path, monkeypatch, name
):
    def silent(*asked):
        raise BadInput(f"{asked[0]} does not answer")

    monkeypatch.setenv("SECATEURS_DATA", "")
    monkeypatch.setattr(hub, "refuse_unreachable", silent)
    config = COMPOSER.cell([f"dataset={name}", "model=resnet20"])
    with pytest.raises(BadInput, match=f"{config['dataset']['hub']} does not answer"):
        refuse_unreadable(config["dataset"], tmp_path)


def test_blank_lines_of_a_file_of_labels_are_no_images(tmp_path):
    labels = tmp_path / TINY
    labels.write_text("\nb.JPEG\tdog\t0\t0\t9\t9\n   \na.JPEG\tcat\t0\t0\t9\t9\n\n")
    pictures = [Path("val/images/a.JPEG"), Path("val/images/b.JPEG")]
    assert classes_of(pictures, labels, ["cat", "dog"]) == ["cat", "dog"]


def test_labels_of_a_column_are_whole_numbers_from_zero_on():
    assert labels_in([0, 2, 1], "kind").tolist() == [0, 2, 1]
    for wrong in (-1, True, 0.0, None, "0"):
        with pytest.raises(BadInput, match=r"column 'kind' holds .* in row 1; expected whole numbers from 0 on"):
            labels_in([0, wrong], "kind")
