"""The linear schedule against its formula."""

import functools

import pytest
import torch

from verl.dft.model.engine import linear_share


def test_linear_rises_from_zero_and_falls_to_the_least():
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=8.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(linear_share, 2, 6, 0.25))
    rates = []
    for _ in range(7):
        rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.0, 4.0, 8.0, 6.5, 5.0, 3.5, 2.0])


def test_linear_without_warm_up_begins_at_the_full_rate():
    assert [linear_share(0, 4, 0.0, step) for step in range(6)] == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
