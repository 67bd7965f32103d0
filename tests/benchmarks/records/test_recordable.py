"""What a record keeps of a configuration names no place of the machine it was made on."""

from benchmarks.records.keys import cell_key, recordable


def test_a_network_or_tokenizer_of_ones_own_is_named_without_its_folder():
    config = {
        "model": {"name": "mine", "path": "/home/someone/networks/mine"},
        "dataset": {"name": "verses", "tokenizer": "~/tokenizers/own"},
        "seed": 0,
    }
    kept = recordable(config)
    assert kept["model"]["path"] == "mine" and kept["dataset"]["tokenizer"] == "own"
    elsewhere = {**config, "model": {"name": "mine", "path": "/elsewhere/mine"}}
    assert cell_key(elsewhere) == cell_key(config)
    other = {**config, "model": {"name": "mine", "path": "/home/someone/networks/other"}}
    assert cell_key(other) != cell_key(config)
