"""What a cell writes down of what it read, what it may write at all, and where its fine-tuning begins."""

import dataclasses

import pytest

from benchmarks.cells import cell
from benchmarks.records.store import Store
from benchmarks.settings.home import CONF
from benchmarks.storage.lease import Lost
from benchmarks.storage.paths import Paths
from benchmarks.sweeps.composition import Composer

SMALL = ("dataset=digits", "dataset.limit=400", "model.widths=[12]", "measure=none", "track=none", "trainer=tiny")


def configured(folder, *words):
    folders = [f"paths.results={folder}/results", f"paths.cache={folder}/cache"]
    return Composer(CONF).cell([*SMALL, *folders, "method=magnitude", "budget.keep=0.5", *words])


@pytest.mark.parametrize("skipped", [None, 0, 3])
def test_images_left_out_are_counted_in_the_record_where_they_may_be_and_else_not_mentioned(
    tmp_path, monkeypatch, skipped
):
    read = cell.load
    monkeypatch.setattr(cell, "load", lambda *args: dataclasses.replace(read(*args), checksum="c", skipped=skipped))
    fingerprint = cell.run(configured(tmp_path)).fingerprint
    assert fingerprint["data"] == "c" and fingerprint.get("skipped_images", "nothing said") == (
        "nothing said" if skipped is None else skipped
    )


@pytest.mark.parametrize("holds", [True, False])
def test_only_a_worker_that_still_holds_its_cell_writes_a_network_and_a_record(tmp_path, holds):
    config = configured(tmp_path, "save=true")
    key = cell.cell_key(config)
    if holds:
        assert cell.run(config, holds=lambda: True).status == "done"
    else:
        with pytest.raises(Lost):
            cell.run(config, holds=lambda: False)
    records = Store.of(Paths.of(config["paths"])).find_all([key])
    assert len(records) == holds
    assert bool(list((tmp_path / "results").rglob("*.safetensors"))) == holds


def test_fine_tuning_begins_with_its_first_epoch(tmp_path, monkeypatch):
    """Its rates and draws are those of epoch 0: only what trains by the dense recipe goes on where that was left."""
    begun, fit = [], cell.fit

    def spy(*args, first_epoch, **named):
        begun.append(first_epoch)
        return fit(*args, first_epoch=first_epoch, **named)

    monkeypatch.setattr(cell, "fit", spy)
    cell.run(configured(tmp_path))
    assert begun == [0]
