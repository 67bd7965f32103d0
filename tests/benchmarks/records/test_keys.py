import copy
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.records.keys import cell_key, dense_key, identity, recordable, variant_key

CONFIG = {
    "dataset": {"name": "digits", "validation": 0.1, "source": None},
    "model": {"_target_": "benchmarks.models.mlp.build", "name": "mlp_digits", "widths": [64, 32], "bias": True},
    "method": {"name": "spectral"},
    "selection": {"_target_": "methods.spectral.selection.SpectralSelection", "theta": 0.5},
    "compensation": {"_target_": "methods.compensation.LeastSquares", "ridge": None},
    "budget": {"keep": 0.25, "compression": None, "speedup": None},
    "trainer": {"train": {"epochs": 30, "lr": 0.1, "devices": 1}, "finetune": {"epochs": 5, "lr": 0.01}},
    "track": {"mode": "offline"},
    "paths": {"results": "results", "cache": ".cache"},
    "seed": 0,
}


def changed(path, value):
    config = copy.deepcopy(CONFIG)
    *parents, last = path.split(".")
    section = config
    for parent in parents:
        section = section.setdefault(parent, {})
    section[last] = value
    return config


def test_known_keys_are_frozen():
    """If this fails, every stored result is orphaned: change the rule back, do not change the test."""
    assert cell_key(CONFIG) == "9b00b5a0f5cc8ac4"
    assert dense_key(CONFIG) == "2bbb69aa29d199e8"
    assert cell_key(changed("seed", 1)) == "1bbd42a83817f18b"
    assert cell_key({}) == "44136fa355b3678a"  # sha256 of "{}"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("track.mode", "online"),
        ("track.api_key", "secret"),
        ("paths.results", "/elsewhere"),
        ("hydra.launcher", "joblib"),
        ("save", True),
        ("controls", ["random"]),
        ("dry_run", True),
        ("experiment", "theory"),
        ("dataset.source", "/data"),
        ("trainer.devices", 2),
        ("trainer.strategy", "ddp"),
        ("trainer.train.devices", 4),
        ("trainer.finetune.accelerator", "gpu"),
        ("selection._convert_", "all"),
        ("model.new_option", None),
        ("new_section", {}),
        ("new_section", {"deep": {"option": None}}),
        ("seed", 0.0),
        ("model.widths", (64.0, 32)),
    ],
)
def test_what_leaves_the_result_alone_leaves_the_key_alone(path, value):
    assert cell_key(changed(path, value)) == cell_key(CONFIG)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 1),
        ("dataset.name", "mnist"),
        ("model._target_", "benchmarks.models.other"),
        ("model.widths", [32, 64]),
        ("model.bias", 1),
        ("selection.theta", 0.25),
        ("compensation._target_", "methods.compensation.NoCompensation"),
        ("compensation.ridge", 0.0),
        ("budget.keep", 0.5),
        ("trainer.train.lr", 0.2),
        ("trainer.finetune.precision", "bf16"),
        ("measure.batch", 64),
    ],
)
def test_what_changes_the_result_changes_the_key(path, value):
    assert cell_key(changed(path, value)) != cell_key(CONFIG)


@pytest.mark.parametrize(
    "path", ["selection.theta", "budget.keep", "trainer.finetune.lr", "method.name", "measure.batch"]
)
def test_dense_network_is_shared_by_the_cells_that_prune_it(path):
    assert dense_key(changed(path, 0.75)) == dense_key(CONFIG)


@pytest.mark.parametrize("path", ["dataset.validation", "model.widths", "trainer.train.lr", "seed", "dense.epochs"])
def test_dense_network_depends_on_its_training(path):
    assert dense_key(changed(path, 7)) != dense_key(CONFIG)


def test_variant_is_the_cell_without_its_seed():
    assert variant_key(CONFIG) == variant_key(changed("seed", 5)) != variant_key(changed("budget.keep", 0.5))


def test_recordable_keeps_nulls_and_numbers_and_drops_what_is_local():
    kept = recordable(changed("trainer.train.lr", 1.0))
    assert kept["budget"] == {"keep": 0.25, "compression": None, "speedup": None}
    assert isinstance(kept["trainer"]["train"]["lr"], float)
    assert not {"track", "paths"} & kept.keys()
    assert "source" not in kept["dataset"] and "devices" not in kept["trainer"]["train"]
    assert CONFIG["dataset"]["source"] is None and CONFIG["trainer"]["train"]["devices"] == 1, "input is left alone"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.sampled_from([*CONFIG, "other"]), values, max_size=6))
def test_key_survives_order_recording_and_a_second_reduction(config):
    key = cell_key(config)
    assert cell_key(dict(reversed(config.items()))) == key
    assert cell_key(recordable(config)) == key
    assert cell_key(identity(config)) == key


def test_hydra_containers_have_the_key_of_their_plain_values():
    from omegaconf import OmegaConf

    assert cell_key(OmegaConf.create(CONFIG)) == cell_key(CONFIG)


def test_objects_are_refused():
    with pytest.raises(TypeError, match="plain values, not object"):
        cell_key({"model": object()})


def test_import_brings_no_heavy_package():
    script = (
        "import sys, benchmarks.records.keys\n"
        "print(sorted({'torch', 'numpy', 'pydantic', 'omegaconf'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_memory_that_moments_may_take_is_no_part_of_the_key():
    one, other = ({"calibration": {"samples": 9, "memory": memory}, "seed": 0} for memory in (None, 10**6))
    assert cell_key(one) == cell_key(other) != cell_key({"calibration": {"samples": 8}, "seed": 0})
