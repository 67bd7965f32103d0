"""What the estimate of a latency times: the processor time that passes between begin and end."""

import time

import pytest
import torch
from torch import nn

from methods.budgets.latency_cost import forward_seconds


@pytest.mark.cpu("the clock of the processor")
def test_the_time_that_passes_is_counted_and_nothing_before_it(monkeypatch):
    clock = iter((1000.0, 1002.5))
    monkeypatch.setattr(time, "thread_time", lambda: next(clock))
    calls = []
    model = nn.Linear(2, 1)
    model.register_forward_hook(lambda *given: calls.append(1))
    assert forward_seconds(model, torch.zeros(1, 2), 3) == 2.5 and len(calls) == 3
