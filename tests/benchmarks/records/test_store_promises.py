"""Edges of what a record may hold: clocks of other machines, and what went wrong."""

from datetime import UTC, datetime, timedelta

import pytest
from sample_records import made

from benchmarks.records.store import Store, Unreadable, read


@pytest.mark.parametrize("hours,early", [(-48, False), (20, False), (30, True)])
def test_a_record_may_be_a_day_ahead_of_this_machines_clock_and_no_more(tmp_path, hours, early):
    store = Store(tmp_path / "runs", tmp_path / "cells")
    created = (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
    path = store.write(made(created=created))
    if early:
        with pytest.raises(Unreadable, match="later than now|in the future|created"):
            read(path)
    else:
        assert read(path).created == created


def test_what_is_wrong_with_a_file_is_the_message(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("[]")
    with pytest.raises(Unreadable) as caught:
        read(path, named=False)
    assert len(str(caught.value)) > 5
    assert str(Unreadable("torn")) == "torn" and not Unreadable("torn").keep and Unreadable("torn", keep=True).keep
