"""A configuration folder of one's own (SECATEURS_CONF): its methods are in help, messages, cells, labels and boards."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.settings.home import CONF
from benchmarks.sweeps.composition import VERSION_BASE

ROOT = Path(__file__).parents[3]
PRESET = """# @package _global_
# Largest variance first.
defaults:
  - override /compensation: least_squares
  - _self_
method: {name: mine}
selection: {_target_: my_method.Mine, power: 1}
"""
CODE = """
from methods import Selection


class Mine(Selection):
    def __init__(self, power):
        self.power = power

    def scores(self, layer):
        return layer.covariance.diagonal() ** self.power
"""
TEN_LINES = """
import os
import hydra


@hydra.main(config_path=os.environ["SECATEURS_CONF"], config_name="config", version_base={version!r})
def application(config):
    pass


application()
"""


@pytest.fixture
def own(tmp_path):
    """Runs words through the command line and, where asked, ten lines; a new interpreter, which looks at the folder."""
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf/method/mine.yaml").write_text(PRESET)
    (tmp_path / "my_method.py").write_text(CODE)
    (tmp_path / "ten_lines.py").write_text(TEN_LINES.format(version=VERSION_BASE))
    env = {**os.environ, "SECATEURS_CONF": str(tmp_path / "conf"), "SECATEURS_DATA": "", "OMP_NUM_THREADS": "1"}
    env |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "COLUMNS": "200"}

    def run(*words, script=ROOT / "run.py"):
        command = [sys.executable, *([str(script)] if isinstance(script, Path) else script), *words]
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)

    return run


@pytest.mark.slow
def test_a_method_of_ones_own_is_shown_as_ten_lines_show_it(own, tmp_path):
    for words in (["--help"], ["--cfg", "job", "method=mine"], ["--info", "defaults-tree", "method=mine"]):
        ours, theirs = own(*words), own(*words, script=tmp_path / "ten_lines.py")
        assert ours.returncode == theirs.returncode == 0, ours.stderr + theirs.stderr
        assert ours.stdout == theirs.stdout and "mine" in ours.stdout
    wrong = own("method=min")
    assert wrong.returncode == 2 and ", mine, " in wrong.stderr and wrong.stderr.endswith("type method=mine\n")


BROKEN = {
    "brackets": (b"method: {name: mine\nselection: [a\n", r"broken.yaml, line 2 cannot be read as YAML"),
    "two colons": (b"a: b: c\n", r"broken.yaml, line 1 cannot be read as YAML"),
    "a tab": (b"a:\n\tb: 1\n", r"broken.yaml, line 2 cannot be read as YAML"),
    "bytes": (b"\xff\xfe\x00", r"broken.yaml cannot be read as YAML: it is not UTF-8 text"),
    "a control character": (b"a: \x07\n", r"broken.yaml.* cannot be read as YAML"),
    "a reference": (b"method: {name: '${a.b'}\n", r"the value of '\S+' cannot be read"),
}


@pytest.mark.slow
@pytest.mark.parametrize("content,said", BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_yaml_is_named_in_a_line_or_two(own, tmp_path, content, said):
    (tmp_path / "conf/method/broken.yaml").write_bytes(content)
    for words in (["method=broken", "--dry-run"], ["-m", "method=random,broken", "--dry-run"], ["--cfg", "job"]):
        result = own(*words, *(["method=broken"] if words[0] == "--cfg" else []))
        lines = result.stderr.strip().splitlines()
        assert result.returncode == 2 and 1 <= len(lines) <= 2, result.stderr
        assert re.search(said, result.stderr)
    assert own("method=random", "--dry-run").returncode == 0  # the others are as good as before


@pytest.mark.slow
@pytest.mark.parametrize(
    "content,said",
    [("- a\n- b\n", "a list"), ("just text\n", "the bare text 'just text'"), ("3\n", "the bare text '3'")],
)
def test_a_file_without_keys_is_named_where_it_is_chosen(own, tmp_path, content, said):
    (tmp_path / "conf/method/broken.yaml").write_text(content)
    (tmp_path / "conf/experiment/by_the_way.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /method: broken\n  - _self_\n"
    )
    for words in (["method=broken"], ["-m", "method=random,broken"], ["+experiment=by_the_way"]):
        result = own(*words, "--dry-run")
        assert result.returncode == 2
        assert result.stderr.startswith(f"{tmp_path}/conf/method/broken.yaml holds {said}; expected keys"), words
    elsewhere = own("method=random", "seed=abc", "--dry-run")
    assert "seed=abc is not a whole number" in elsewhere.stderr  # a file that is not chosen is not to blame


@pytest.mark.slow
def test_boards_name_a_method_of_ones_own_by_what_differs_from_its_preset(own, tmp_path):
    tiny = ["trainer=tiny", "dataset.limit=300", "measure=none", "track=none", "calibration.samples=64"]
    sweep = own("-m", "method=mine", "selection.power=1,2", "compensation=least_squares,none", *tiny)
    assert sweep.returncode == 0, sweep.stdout + sweep.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("results/runs/digits/*/*.json")]
    assert len(records) == 4 and {record["config"]["selection"]["_target_"] for record in records} == {"my_method.Mine"}
    with (tmp_path / "results/boards/leaderboard.csv").open() as file:
        named = {row["method"] for row in csv.DictReader(file)}
    assert named == {"dense", "mine", "mine (power 2)", "mine (no compensation)", "mine (power 2, no compensation)"}
    assert all(f" {name} " in sweep.stdout for name in named)
    board = own("--where", "label == 'mine (power 2)'", script=["-m", "benchmarks.leaderboard"])
    assert board.returncode == 0 and "mine (power 2)" in board.stdout and "no compensation" not in board.stdout
