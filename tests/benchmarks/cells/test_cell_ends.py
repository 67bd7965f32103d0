"""How a cell ends that is refused or fails, what is refused before it begins, and which seed each of its stages has."""

import pytest

from benchmarks.cells import cell
from benchmarks.cells.parts import check
from benchmarks.records.store import Store
from benchmarks.settings.home import CONF
from benchmarks.storage.paths import Paths
from benchmarks.sweeps.composition import Composer
from methods.baselines.magnitude import MagnitudeSelection
from methods.errors import BadInput
from methods.seeds import derive_seed

SMALL = ("dataset=digits", "dataset.limit=400", "model.widths=[20,16]", "measure=none", "track=none", "trainer=tiny")


def configured(folder, *words):
    folders = [f"paths.results={folder}/results", f"paths.cache={folder}/cache"]
    return Composer(CONF).cell([*SMALL, *folders, "method=magnitude", "budget.keep=0.4", *words])


@pytest.mark.parametrize("error,recorded", [(BadInput("no such thing"), False), (KeyError("ours"), True)])
@pytest.mark.slow
def test_a_refused_cell_leaves_no_record_and_a_failed_one_tells_where(tmp_path, monkeypatch, error, recorded):
    def scores(self, layer):
        raise error

    monkeypatch.setattr(MagnitudeSelection, "scores", scores)
    config = configured(tmp_path)
    if recorded:
        record = cell.run(config)
        assert record.status == "failed" and record.reason.startswith("KeyError") and "scores" in record.traceback
    else:
        with pytest.raises(BadInput, match="no such thing"):
            cell.run(config)
    assert len(Store.of(Paths.of(config["paths"])).find_all([cell.cell_key(config)])) == recorded


def test_fine_tuning_has_the_stream_of_its_name_below_the_cells_seed(tmp_path, monkeypatch):
    """Which of the possible streams it is decides whether a record can be made again."""
    seeds, fit = [], cell.fit

    def spy(model, data, settings, seed, **named):
        seeds.append(seed)
        return fit(model, data, settings, seed, **named)

    monkeypatch.setattr(cell, "fit", spy)
    cell.run(configured(tmp_path, "seed=7"))
    assert seeds == [derive_seed(7, "finetune")]


def test_a_network_that_does_not_suit_the_data_is_refused_before_any_work(tmp_path):
    config = Composer(CONF).cell(["dataset=digits", "model=lenet5", "measure=none", "track=none", "trainer=tiny"])
    with pytest.raises(BadInput, match="cannot take inputs of shape"):
        check({**config, "paths": {"results": str(tmp_path / "results"), "cache": str(tmp_path / "cache")}})
    assert list(tmp_path.iterdir()) == []


def test_memory_is_measured_of_the_dense_and_the_pruned_network_where_it_is_asked_for(tmp_path, monkeypatch):
    asked, found = [], {"batch": 2, "dense_mb": 3.0, "pruned_mb": 2.0, "prune_mb": 1.0}

    def measured(dense, pruned, config, shape, classes, tokens):
        numbers = (sum(each.numel() for each in model.parameters()) for model in (dense, pruned))
        asked.append((*numbers, shape, classes, tokens))
        return found

    monkeypatch.setattr("benchmarks.measure.memory.measure_memory", measured)
    assert cell.run(configured(tmp_path)).memory is None and asked == []
    record = cell.run(configured(tmp_path, "measure.memory=2"))
    assert found.items() <= record.memory.model_dump().items()
    [(dense, pruned, shape, classes, tokens)] = asked
    assert dense > pruned and tuple(shape) == (1, 8, 8) and classes == 10 and tokens is None
