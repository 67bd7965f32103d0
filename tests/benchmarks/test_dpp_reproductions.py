"""The reproductions of DPP pruning in their quick version."""

import pytest

from benchmarks.reproductions import Workplace, module_of


@pytest.mark.slow
def test_teacher_student(tmp_path):
    outcome = module_of("dpp_teacher_student").run(Workplace(tmp_path, tmp_path, tmp_path, quick=True))
    table = outcome.table
    assert {"theory", "published", "ours", "std", "n", "difference"} <= set(table.columns)
    unpruned = table[(table["student"] == "trained") & (table["method"] == "unpruned")]
    assert float(unpruned["ours"].iloc[0]) < 0.2  # before training it is about 16 * 2 / 6 and more
    assert "fails for k = 2-5" in outcome.setting
    assert all(path.is_file() for path in outcome.figures)
    verdict = next(claim for claim in outcome.claims if "all k" in claim.text)
    assert verdict.seen is False, verdict.evidence  # z = 3: random edges win at k = 1 only
