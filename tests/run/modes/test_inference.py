"""Prediction in reduced precision: what is a time keeps its digits."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from perceiver.run.modes.inference import _Inference
from perceiver.samples.batch import Batch

EPOCH_SECONDS = 1_700_000_001.25


@pytest.mark.usefixtures("unchecked")  # any module serves as a model
@pytest.mark.parametrize("precision", ["bf16-true", "32-true"])
def test_times_keep_their_digits(precision: Any) -> None:
    series = {"values": torch.ones(1, 2, 1), "times": torch.full((1, 2), EPOCH_SECONDS, dtype=torch.float64)}
    seen: list[Batch] = []

    def compute(batch: Batch) -> torch.Tensor:
        seen.append(batch)
        return torch.zeros(1, 1)

    module = _Inference(torch.nn.Linear(1, 1), compute, lambda ids, outputs: None)  # type: ignore[arg-type]
    trainer = Trainer(
        accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    loader = DataLoader([0], batch_size=None, collate_fn=lambda _: Batch(inputs={"pulse": series}))
    trainer.predict(module, loader, return_predictions=False)
    [batch] = seen
    times = batch.inputs["pulse"]["times"]  # type: ignore[index]
    assert times.dtype == torch.float64
    assert times[0, 0] == EPOCH_SECONDS
    assert (batch.inputs["pulse"]["values"].dtype == torch.bfloat16) == (precision == "bf16-true")  # type: ignore[index]
