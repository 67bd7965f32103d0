"""When a training starts processes of its own."""

from types import SimpleNamespace

import pytest

from benchmarks.training.multi_device import takes_several


@pytest.mark.parametrize(
    ("strategy", "devices", "started", "expected"),
    [
        ("ddp", 2, False, True),
        ("ddp_spawn", "2", False, True),
        ("ddp", 1, False, False),
        ("ddp_spawn", "1", False, False),
        ("auto", 2, False, False),
        ("ddp", 2, True, False),
    ],
)
def test_processes_are_started_for_several_devices_unless_somebody_has_started_them(
    monkeypatch, strategy, devices, started, expected
):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if started:
        monkeypatch.setenv("LOCAL_RANK", "0")
    assert takes_several(SimpleNamespace(strategy=strategy, devices=devices)) == expected
