"""What half and double precision cast of a batch."""

from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import DoublePrecision, HalfPrecision, Precision

from perceiver.samples.batch import Batch
from perceiver.training.precision import cast_inputs_alone


@pytest.mark.parametrize(
    ("plugin", "dtype"),
    [(HalfPrecision("bf16-true"), torch.bfloat16), (DoublePrecision(), torch.float64), (Precision(), torch.float32)],
)
def test_inputs_are_cast_and_nothing_else(plugin: Any, dtype: torch.dtype) -> None:
    times = torch.tensor([[1.7e9, 1.7e9 + 1]], dtype=torch.float64)
    batch = Batch(
        inputs={
            "image": torch.rand(1, 1, 2, 2),
            "text": torch.tensor([[4097]]),
            "series": {"values": torch.rand(1, 2, 1), "times": times, "present": torch.ones(1, 2, 1) > 0},
        },
        masks={"text": torch.ones(1, 1) > 0},
        target=torch.tensor([[1001.0]]),
        ids=["a"],
        target_mask=torch.ones(1) > 0,
    )
    for _ in range(2):  # every fit prepares the plugin
        cast_inputs_alone(plugin)
    cast = plugin.convert_input(batch)
    assert cast.inputs["image"].dtype == cast.inputs["series"]["values"].dtype == dtype
    assert cast.inputs["text"].dtype == torch.int64
    assert cast.inputs["series"]["present"].dtype == torch.bool
    assert torch.equal(cast.inputs["series"]["times"], times)
    assert cast.target is batch.target
    assert (cast.masks, cast.ids, cast.target_mask) == (batch.masks, ["a"], batch.target_mask)
    other = torch.rand(2)
    assert plugin.convert_input(other).dtype == dtype, "what is no batch is left to the plugin"
