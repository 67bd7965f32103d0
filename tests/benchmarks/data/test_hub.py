"""A hub that does not answer is looked at once, before any cell, and the message says where data may come from."""

import importlib.util
import io
import socket
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.data import hub
from benchmarks.data.decode import Columns, decode_hub
from benchmarks.sweeps.run_command import main
from methods.errors import BadInput

TINY = ["trainer=tiny", "dataset.limit=200", "measure=none", "track=none"]
huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def looks(monkeypatch, tmp_path):
    """Connections to a hub on this machine that hangs up on everybody; the libraries' caches are empty."""
    made = []
    server = socket.create_server(("127.0.0.1", 0))

    def hang_up():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            made.append(connection.getpeername())
            connection.close()

    thread = threading.Thread(target=hang_up, daemon=True)
    thread.start()
    import datasets

    for place in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("SECATEURS_DATA", "")
    hub.unreachable.cache_clear()
    yield made
    hub.unreachable.cache_clear()
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(10)


@pytest.fixture
def folders(tmp_path):
    return [f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"]


@pytest.mark.slow
@pytest.mark.parametrize("dry", [["--dry-run"], []], ids=["planned", "run"])
def test_a_hub_that_does_not_answer_is_looked_at_once_for_all_cells(dry, looks, folders, tmp_path, capsys):
    assert main(["-m", "dataset=mnist", "seed=0,1,2", "method=random,magnitude", *TINY, *folders, *dry]) == 2
    said = capsys.readouterr().err
    assert 1 <= len(looks) <= 2  # the HTTP library tries a second time where it is hung up on
    assert len(said.strip().splitlines()) == 2
    assert "ylecun/mnist" in said and "does not answer" in said and "dataset.source=" in said
    assert not list(tmp_path.glob("results/runs/*/*/*.json"))  # no cell failed of it


def test_one_that_refuses_connections_is_named_as_fast(looks, folders, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{address[1]}")
    assert main(["dataset=cifar10", *TINY, *folders, "--dry-run"]) == 2
    assert "does not answer" in capsys.readouterr().err


def test_offline_nobody_is_asked(looks, folders, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert main(["dataset=mnist", *TINY, *folders, "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert looks == [] and "offline mode is enabled" in said and "dataset.source=" in said


def test_the_switch_is_as_it_was_after_a_look(looks):
    with pytest.raises(hub.BadInput, match="cannot get a/b"):
        hub.rows_of("a/b", None, "train", None)
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


def test_images_of_the_hub_are_those_of_the_subset_split_and_revision_that_are_named(tmp_path, monkeypatch):
    import datasets

    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 4), dtype=np.uint8)
    asked = []

    def encoded(image):
        Image.fromarray(image).save(out := io.BytesIO(), "png")
        return {"bytes": out.getvalue(), "path": None}

    def serve(*names, **options):
        asked.append((names, options))
        return datasets.Dataset.from_dict({"picture": [*map(encoded, pixels)], "kind": [2, 0, 1, 1, 0]})

    monkeypatch.setattr(datasets, "load_dataset", serve)
    columns = Columns("picture", "kind", (1, 6, 4), 3, resize=False)
    images, labels = decode_hub(str(tmp_path), "v2", "test", columns, "small")
    assert asked == [((str(tmp_path), "small"), {"split": "test", "revision": "v2"})]
    assert torch.equal(images[:, 0], torch.from_numpy(pixels)) and labels.tolist() == [2, 0, 1, 1, 0]


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")
def test_networks_and_tokenizers_of_others_are_looked_for_once_too(looks):
    from benchmarks.data.tokens import tokenizer_of
    from benchmarks.models.pretrained import transformer

    for _ in range(3):
        with pytest.raises(
            BadInput, match=r"somebody/something cannot be had: the Hugging Face hub: it does not answer"
        ):
            tokenizer_of("somebody/something", [], padded=True)
        with pytest.raises(BadInput, match=r"somebody/something is no network .* it does not answer"):
            transformer(path="somebody/something", classes=2, vocabulary=9, padding=0, task="text_classification")
    assert 1 <= len(looks) <= 2  # the HTTP library tries a second time where it is hung up on
