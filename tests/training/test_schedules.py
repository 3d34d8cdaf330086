"""Learning rates over the steps."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler

from perceiver.training.schedules import flat_cosine, step_decay, warmup_cosine


def rates(factory: Callable[..., LRScheduler], steps: int, *, beyond: int = 0) -> list[float]:
    """The learning rate that each step is taken with, for a peak of 2."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = factory(optimizer, steps)
    seen = []
    for _ in range(steps + beyond):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_warmup_cosine() -> None:
    seen = rates(partial(warmup_cosine, warmup_fraction=0.2, final_fraction=0.1), 100, beyond=5)
    assert seen[0] == pytest.approx(2 / 21), "the first step already learns"
    assert seen[19] == pytest.approx(2 * 20 / 21)
    assert seen[20] == 2.0
    assert all(a < b for a, b in pairwise(seen[:21]))
    assert all(a > b for a, b in pairwise(seen[20:100]))
    assert seen[60] == pytest.approx(2 * (0.1 + 0.9 * 0.5)), "half of the fall at half of the time"
    assert seen[100:] == pytest.approx([0.2] * 5), "training beyond the plan stays at the end"


def test_flat_cosine() -> None:
    seen = rates(flat_cosine, 110)
    assert seen[:56] == [2.0] * 56
    assert seen[82] == pytest.approx(1 + math.cos(math.pi * 27 / 55))
    assert seen[-1] < 0.01


def test_step_decay_is_that_of_the_first_perceiver() -> None:
    seen = rates(step_decay, 120, beyond=3)
    assert seen[:84] == [2.0] * 84
    assert seen[84:102] == pytest.approx([0.2] * 18)
    assert seen[102:114] == pytest.approx([0.02] * 12)
    assert seen[114:] == pytest.approx([0.002] * 9)
    assert rates(partial(step_decay, drops=[0.5], drop_factor=0.5), 4) == [2.0, 2.0, 1.0, 1.0]
    with pytest.raises(ValueError, match=r"scheduler\.drops: .*increasing"):
        rates(partial(step_decay, drops=[0.5, 0.2]), 4)
    with pytest.raises(ValueError, match=r"scheduler\.drops\[1\].*1\.5"):
        rates(partial(step_decay, drops=[0.5, 1.5]), 4)


@pytest.mark.parametrize("factory", [warmup_cosine, flat_cosine, step_decay])
def test_an_endless_training_is_refused(factory: Callable[..., LRScheduler]) -> None:
    with pytest.raises(ValueError, match=r"trainer\.max_epochs"):
        rates(factory, -1)


@pytest.mark.parametrize(
    ("factory", "argument"),
    [(warmup_cosine, "warmup_fraction"), (warmup_cosine, "final_fraction"), (flat_cosine, "flat_fraction")],
)
def test_fractions_are_checked(factory: Callable[..., LRScheduler], argument: str) -> None:
    with pytest.raises(ValueError, match=rf"scheduler\.{argument}.*1\.5"):
        rates(partial(factory, **{argument: 1.5}), 10)


def test_state_is_plain() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    state = warmup_cosine(optimizer, 10).state_dict()
    assert state["lr_lambdas"] == [None]
