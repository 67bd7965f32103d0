"""docs/python.md tells the truth: its blocks run, in their order."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.mark.slow
def test_every_block_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) > 8
    names: dict[str, object] = {"__name__": "page"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    assert names["pruned"].achieved["speedup"] == pytest.approx(2, rel=0.01)
    assert len(names["gradual"].steps) == 5
    assert len(names["found"]) == 4 and set(names["table"]["method"]) == {"random", "magnitude"}
    assert "unknown method 'spectrall'; choose from" in capsys.readouterr().out
