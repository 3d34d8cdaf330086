"""The adapter and the data set keep what perceiver relies on."""

import pytest
import torch
from thermometer import Thermometer, Weather

from perceiver import Fourier
from perceiver.data import DataModule
from perceiver.testing import Check, adapter_checks, data_module_checks


def make_adapter() -> Thermometer:
    return Thermometer(position=Fourier(num_bands=4, resolution=[24]), step_seconds=3600.0, duration_seconds=86400.0)


@pytest.mark.parametrize("check", adapter_checks(make_adapter, lambda: torch.randn(3, 1, 20), grid_axes=(2,)), ids=str)
def test_adapter(check: Check) -> None:
    check()


@pytest.mark.parametrize("check", data_module_checks(lambda: DataModule(Weather(days=40))), ids=str)
def test_data(check: Check) -> None:
    check()
