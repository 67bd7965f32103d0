"""Every grid of conf/experiment is planned: a misspelt key or choice would fail here, not after an hour."""

import re

import pytest
import warm

from benchmarks.settings.home import CONF

BERT = "model.config={model_type:bert,hidden_size:16,num_hidden_layers:1,num_attention_heads:2,intermediate_size:24}"
INSTEAD = ["model.path=null", BERT, "dataset.tokenizer=characters"]  # of a package of 90 MB that may not be installed
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_grid_can_be_planned(name, tmp_path, as_if_downloaded):
    words = ["-m", f"+experiment={name}", "--dry-run", f"paths.results={tmp_path}/results"]
    words += INSTEAD if name.startswith("minilm") else []
    done = warm.run("run.py", [*words, f"paths.cache={tmp_path}/cache"], as_if_downloaded, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"[1-9]\d* cells of {name}\b", done.stdout), done.stdout[-300:]


def test_there_are_grids():
    assert len(EXPERIMENTS) >= 10
