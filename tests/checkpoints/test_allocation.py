"""The limit on memory: absurd sizes fail before they are taken, ordinary construction passes."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from perceiver.checkpoints.allocation import AllocationError, limit_allocation, show_bytes

HUGE = 10**12


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(HUGE),
        lambda: torch.zeros(HUGE // 10, 10),
        lambda: torch.ones((HUGE,)),
        lambda: torch.zeros(size=(HUGE,)),
        lambda: torch.full((HUGE,), 1.0),
        lambda: torch.randn(HUGE),
        lambda: torch.randint(3, (HUGE,)),
        lambda: torch.randperm(HUGE),
        lambda: torch.arange(HUGE),
        lambda: torch.arange(0, HUGE, 0.5),
        lambda: torch.linspace(0, 1, HUGE),
        lambda: torch.linspace(0, 1, steps=HUGE),
        lambda: torch.eye(HUGE),
        lambda: torch.hann_window(HUGE),
        lambda: torch.ones(1).repeat(HUGE),
        lambda: torch.ones(1).new_zeros(HUGE),
        lambda: nn.Linear(HUGE, 3),
        lambda: nn.Embedding(HUGE, 3),
        lambda: nn.LSTM(3, 10**8),
    ],
)
def test_an_absurd_size_is_refused_before_it_is_taken(make: Callable[[], object]) -> None:
    with pytest.raises(AllocationError, match=r"a tensor of shape .* needs .* are allowed \(because\)"):  # noqa: SIM117
        with limit_allocation(max_bytes=10**9, max_modules=1000, reason="because"):
            make()


def test_the_sum_of_parameters_counts() -> None:
    with (
        pytest.raises(AllocationError, match=r"parameters and buffers need more than 1\.0 MB in all \(because\)"),
        limit_allocation(max_bytes=10**6, max_modules=1000, reason="because"),
    ):
        nn.Sequential(*(nn.Linear(100, 100) for _ in range(26)))


def test_the_number_of_modules_counts() -> None:
    with (
        pytest.raises(AllocationError, match="more than 1,000 modules"),
        limit_allocation(max_bytes=10**6, max_modules=1000, reason="because"),
    ):
        nn.ModuleList(nn.Identity() for _ in range(10**9))


def test_ordinary_construction_passes_and_temporaries_do_not_add_up() -> None:
    with limit_allocation(max_bytes=10**6, max_modules=1000, reason="because"):
        for _ in range(100):
            nn.init.trunc_normal_(torch.empty(10_000))
        nn.Sequential(nn.Linear(10, 10), nn.LazyLinear(3), nn.BatchNorm1d(3))
        torch.ones(1).expand(HUGE)


def test_nothing_is_limited_afterwards() -> None:
    with pytest.raises(ZeroDivisionError), limit_allocation(max_bytes=10, max_modules=1000, reason="because"):
        _ = 1 / 0
    assert nn.Linear(100, 100).weight.shape == (100, 100)


def test_wrong_arguments_get_torchs_own_error() -> None:
    with limit_allocation(max_bytes=10, max_modules=1000, reason="because"), pytest.raises((TypeError, RuntimeError)):
        torch.linspace(0, 1)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1536, "1.5 kB"), (3.1e6, "3.1 MB"), (2e15, "2.0 PB"), (4e24, "4e+09 PB")],
)
def test_sizes_are_shown_for_people(size: float, text: str) -> None:
    assert show_bytes(size) == text
