"""What submit objects to, for any record: a result that differs, a folder of this machine, a word that was edited."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from sample_records import made

import benchmarks.submit as command
from benchmarks.records.keys import cell_key, dense_key
from benchmarks.records.store import Store
from benchmarks.storage import checkpoint
from benchmarks.storage.paths import Paths
from benchmarks.submit import COUNTS, SAME_ACCURACY, SAME_COUNT, disagreement, keep_networks, objection

ACCURACIES = st.floats(0.05, 0.95).map(lambda value: round(value, 6))
NUMBERS = st.integers(100, 10**8)
STAGES = st.sampled_from(["dense", "pruned", "tuned"])
WORDS = st.text(st.characters(categories=("L", "N"), include_characters="._- "), min_size=1).filter(
    lambda text: not text.startswith("~")
)


def scored(accuracy, count, stage="tuned", **changes):
    metrics = {name: {"accuracy": 0.5, "parameters": 1000} for name in ("dense", "pruned", "tuned")}
    metrics[stage] = {"accuracy": accuracy, **dict.fromkeys(COUNTS, count)}
    return made(metrics=metrics, **changes)


@given(ACCURACIES, NUMBERS, STAGES)
def test_a_result_agrees_with_itself_and_not_with_another_outcome(accuracy, count, stage):
    record = scored(accuracy, count, stage)
    assert disagreement(record, record) is None
    other = scored(accuracy, count, stage, status="collapsed")
    assert disagreement(record, other) == "done, there collapsed"
    assert disagreement(other, record) == "collapsed, there done"


@given(ACCURACIES, ACCURACIES, NUMBERS, STAGES)
def test_accuracies_agree_within_a_point_in_whichever_order(here, there, count, stage):
    one, two = scored(here, count, stage), scored(there, count, stage)
    apart = abs(here - there) > SAME_ACCURACY
    assert (disagreement(one, two) is not None) == (disagreement(two, one) is not None) == apart
    if apart:
        assert disagreement(one, two) == f"{stage} accuracy {here}, there {there}"


@given(ACCURACIES, NUMBERS, st.floats(0.9, 1.1), STAGES)
def test_counts_agree_within_a_percent_of_the_reviewed_one(accuracy, count, factor, stage):
    one, two = scored(accuracy, round(count * factor), stage), scored(accuracy, count, stage)
    apart = abs(round(count * factor) - count) > SAME_COUNT * count
    assert (disagreement(one, two) is not None) == apart


@given(ACCURACIES, STAGES)
def test_a_figure_that_only_one_has_is_a_difference(accuracy, stage):
    one, two = scored(accuracy, 1000, stage), scored(accuracy, None, stage)
    assert disagreement(one, two) is not None and disagreement(two, one) is not None


def holding(text, depth, in_list):
    """A record whose configuration has ``text`` somewhere below the section of an option of one's own."""
    value = [text] if in_list else text
    for level in range(depth):
        value = {f"level{level}": value}
    config = made().config | {"model": {"name": "mlp", "own": value}}
    return made(config=config, key=cell_key(config))


@given(WORDS, st.integers(0, 4), st.booleans())
def test_a_folder_of_this_machine_is_found_wherever_it_stands(name, depth, in_list):
    assert objection(holding(name, depth, in_list)) is None
    for folder in (f"/home/{name}", f"~/{name}"):
        said = objection(holding(folder, depth, in_list))
        assert said == f"its configuration names a folder of this machine ({folder})"


@given(st.integers(1, 10**6), WORDS)
def test_an_edited_configuration_has_another_key(seed, name):
    for change in ({"seed": seed}, {"model": {"name": name}}):
        record = made()
        if record.config | change != record.config:
            record.config.update(change)
            assert (
                objection(record) == "its configuration has another key: it was edited, or the rule of keys has changed"
            )


@given(st.sampled_from(["dataset", "model", "method"]), WORDS)
def test_a_heading_that_is_not_that_of_the_configuration_is_refused(section, name):
    record = made(settings={"method": {"name": "spectral"}})
    said = objection(record.model_copy(update={section: name}))
    own = record.config[section]["name"]
    assert said == (None if name == own else f"it says {section} {name}, but its configuration says {own}")


def trained(seconds, *losses):
    """What the file of a dense network says of its training."""
    return {"seconds": seconds, "history": {"epochs": [{"train_loss": loss} for loss in losses]}}


def reviewed_networks(tmp_path, seconds):
    """Reviewed records of as many seeds, and in the cache their dense networks, each with its seconds of training."""
    paths = Paths(tmp_path / "results", tmp_path / "cache")
    store, keys = Store.of(paths), []
    for seed, took in enumerate(seconds):
        config = made().config | {"seed": seed}
        history = {"train": [{"train_loss": 0.5}, {"train_loss": 0.25}], "finetune": []}
        record = made(config=config, key=cell_key(config), seed=seed, history=history)
        store.write(record, store.cells)
        keys.append(dense_key(record.config))
        checkpoint.save(paths.cache / "dense" / keys[-1], "dense", {"a": torch.ones(1000)}, trained(took, 0.5, 0.25))
    assert len(set(keys)) == len(seconds)
    return paths, store, keys


def test_dear_networks_of_reviewed_records_are_kept_once(tmp_path):
    paths, store, keys = reviewed_networks(tmp_path, [59.0, 61.0, 600.0])
    kept, left = keep_networks(store, paths)
    assert {path.name for path in kept} == set(keys[1:]) and not left
    assert all(checkpoint.load(path, "dense")[0]["a"].sum() == 1000 for path in kept)
    assert keep_networks(store, paths) == ([], [])


def test_weights_of_cheap_networks_are_not_read(tmp_path, caplog):
    paths, store, keys = reviewed_networks(tmp_path, [59.0, 61.0])
    for key in keys:
        for weights in (paths.cache / "dense" / key).glob("*.safetensors"):
            weights.unlink()
    assert keep_networks(store, paths) == ([], [])
    assert keys[1] in caplog.text and keys[0] not in caplog.text  # reading them would say that they are damaged


def test_networks_beyond_the_room_are_named_and_stay_where_they_are(tmp_path, monkeypatch):
    paths, store, _ = reviewed_networks(tmp_path, [100.0, 100.0, 100.0])
    monkeypatch.setattr(command, "ROOM", 10_000)
    kept, left = keep_networks(store, paths)
    assert len(kept) == 2 and len(left) == 1 and "with its 0.0 MB all would have more than 0 MB" in left[0]
    assert sum(path.stat().st_size for path in paths.dense.glob("*/*")) <= 10_000


def test_only_the_network_that_a_reviewed_record_began_with_is_kept_and_it_replaces_another(tmp_path):
    paths, store, keys = reviewed_networks(tmp_path, [100.0])
    source, target = paths.cache / "dense" / keys[0], paths.dense / keys[0]
    checkpoint.save(source, "dense", {"a": torch.zeros(1000)}, trained(100.0, 0.5, 0.26))  # another machine's training
    assert keep_networks(store, paths) == ([], []) and not target.exists()
    checkpoint.save(target, "dense", {"a": torch.zeros(1000)}, trained(100.0, 0.5, 0.26))
    checkpoint.save(source, "dense", {"a": torch.ones(1000)}, trained(100.0, 0.5, 0.250000001))
    assert keep_networks(store, paths) == ([target], [])
    assert checkpoint.load(target, "dense")[0]["a"].sum() == 1000
