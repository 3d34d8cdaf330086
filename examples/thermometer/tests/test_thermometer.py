"""The adapter and the kind satisfy the contracts of perceiver."""

import pytest
import torch
from thermometer import Readings, Thermometer

from perceiver import Fourier
from perceiver.testing import Check, adapter_checks, modality_checks


def make_adapter() -> Thermometer:
    return Thermometer(position=Fourier(num_bands=4, resolution=[24]), step_seconds=3600.0, duration_seconds=86400.0)


@pytest.mark.parametrize("check", adapter_checks(make_adapter, lambda: torch.randn(3, 1, 20), grid_axes=(2,)), ids=str)
def test_adapter(check: Check) -> None:
    check()


@pytest.mark.parametrize("check", modality_checks(Readings, lambda: [[11.2, 11.0, 10.9], [3.5, 4.0]]), ids=str)
def test_kind(check: Check) -> None:
    check()
