"""What a record says of the code that made it."""

import subprocess
from pathlib import Path

import secateurs
from benchmarks.records.fingerprint import CODE, fingerprint
from benchmarks.storage.paths import REPOSITORY

BEFORE = fingerprint()  # a process names the commit that it began with


def git(*words):
    done = subprocess.run(["git", "-C", REPOSITORY, *words], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def test_in_a_clone_a_record_carries_the_commit_and_whether_its_code_was_changed():
    """An archive that was unpacked is no clone, even inside of one; there is no commit to tell."""
    top = git("rev-parse", "--show-toplevel")
    clone = top is not None and Path(top).resolve() == REPOSITORY
    mark = fingerprint()
    assert mark["secateurs"] == secateurs.__version__
    assert mark["commit"] == BEFORE["commit"]
    if clone:
        assert len(mark["commit"]) == 40 and git("cat-file", "-t", mark["commit"]) == "commit"
        assert mark["dirty"] in (True, False)
        assert git("merge-base", "--is-ancestor", mark["commit"], "HEAD") is not None  # nothing of another clone
        assert all((REPOSITORY / name).exists() for name in CODE)
    else:
        assert mark["commit"] is None and mark["dirty"] is None
