"""A forward pass asks no device for values: a GPU would have to finish all its work before the processor goes on.

Fake tensors have shapes, devices and no values. Whatever asks for a value fails.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from small_models import model_around
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from perceiver import Fourier
from perceiver.adapters.image import ImagePixels
from perceiver.adapters.table import Table
from perceiver.adapters.text import TextTokens
from perceiver.adapters.timeseries import TimeSeries
from perceiver.attention import Form
from perceiver.runtime.data_checks import is_any

Inputs = Tensor | dict[str, Tensor]

LINE, PLANE = Fourier(num_bands=2, resolution=(16,)), Fourier(num_bands=2, resolution=(8, 8))
Case = tuple[Callable[[], nn.Module], Callable[[], Inputs], tuple[int, ...]]
CASES: dict[str, Case] = {
    "image": (lambda: ImagePixels(image_channels=3, position=PLANE), lambda: torch.rand(2, 3, 8, 8), (8, 8)),
    "text": (
        lambda: TextTokens(vocabulary_size=9, embedding_channels=4, position=LINE),
        lambda: torch.zeros(2, 6, dtype=torch.int64),
        (6,),
    ),
    "series": (
        lambda: TimeSeries(num_values=2, duration_seconds=10.0, position=LINE),
        lambda: {"values": torch.rand(2, 6, 2), "times": torch.arange(6, dtype=torch.float64).repeat(2, 1)},
        (6,),
    ),
    "table": (
        lambda: Table(num_numbers=2, category_sizes=[3, 4], embedding_channels=4),
        lambda: {"numbers": torch.rand(2, 2), "categories": torch.zeros(2, 2, dtype=torch.int64)},
        (),
    ),
}
"""Adapter, inputs and grid of each; made on the default device."""


def without_values(model: nn.Module) -> None:
    """Replace all parameters and buffers by those of the current device, under a FakeTensorMode."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda':UserWarning")
@pytest.mark.parametrize("form", ["auto", "dense", "factored"])
@pytest.mark.parametrize("name", CASES)
def test_a_forward_pass_asks_for_no_value(name: str, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    make, inputs, grid = CASES[name]
    model = model_around(name, make(), attention=form)
    with FakeTensorMode(), torch.device("cuda"):
        without_values(model)
        masks = {name: torch.ones(2, *grid, dtype=torch.bool)} if grid else {}
        loss = F.cross_entropy(model({name: inputs()}, masks), torch.zeros(2, dtype=torch.int64))
        assert loss.device.type == "cuda"
        with pytest.raises(DataDependentOutputException):
            loss.item()


def test_values_in_main_memory_are_checked() -> None:
    assert is_any(torch.tensor([False, True]), message="")
    assert not is_any(torch.tensor([False, False]), message="")
    with pytest.raises(ValueError, match="outside|not in"):
        TextTokens(vocabulary_size=9, embedding_channels=4, position=LINE)(torch.full((1, 3), 9))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_is_never_waited_for(name: str) -> None:
    make, inputs, _ = CASES[name]
    with torch.device("cuda"):
        model, x, target = model_around(name, make()), inputs(), torch.zeros(2, dtype=torch.int64)
    F.cross_entropy(model({name: x}), target).backward()  # type: ignore[no-untyped-call]
    torch.cuda.set_sync_debug_mode("error")
    try:
        F.cross_entropy(model({name: x}), target).backward()  # type: ignore[no-untyped-call]
    finally:
        torch.cuda.set_sync_debug_mode("default")
