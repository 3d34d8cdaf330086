"""Inference of a checkpoint's model over the `predict_dataloader` of a data module; only a sink keeps the outputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from perceiver import checkpoints
from perceiver.batch import Batch
from perceiver.decoders import CausalDecoder, NextTokenHead
from perceiver.generation import Decoding, Generated
from perceiver.model import Perceiver
from perceiver.run.data import make_data
from perceiver.run.processes.interruption import until_interrupted
from perceiver.run.spec import use_stored_spec
from perceiver.training.precision import cast_inputs_alone

Outputs = Tensor | Generated
Compute = Callable[[Batch], Outputs]
Sink = Callable[[list[str], Any], None]
"""Takes the ids of B samples and their outputs on the CPU: `(B, …)` float32, or generated sequences."""


def find_checkpoint(path: str | None, *, mode: str) -> Path:
    """Return the checkpoint file that `ckpt_path` names; raises if the path is missing or does not exist."""
    if path is None:
        raise ValueError(f"mode={mode}: expected a checkpoint, ckpt_path=RUN_DIR or ckpt_path=FILE; got none.")
    return checkpoints.find(path)


def set_decoding(model: Perceiver, generation: Mapping[str, Any] | None) -> None:
    """Let a model generate texts in another way than its checkpoint configures; None changes nothing.

    Raises:
        ValueError: the model generates no text, or a setting is unknown or out of range.
    """
    if generation is None:
        return
    if not isinstance(model.head, CausalDecoder | NextTokenHead):
        raise ValueError(
            f"generation: expected null, since the checkpoint's model generates no text: its head is "
            f"{type(model.head).__name__}, not a perceiver.decoders.CausalDecoder."
        )
    model.head.decoding = Decoding.of(generation, where="generation")


@dataclass(frozen=True, kw_only=True)
class Inference:
    """A trained model and the data to process.

    Args:
        model: model of the checkpoint.
        data: data module with the checkpoint's spec.
        spec: spec of the checkpoint.
        file: path of the checkpoint.
        trainer: provides the device and the precision.
    """

    model: Perceiver
    data: LightningDataModule
    spec: dict[str, Any]
    file: Path
    trainer: Trainer

    @classmethod
    def of(cls, config: DictConfig, *, file: Path) -> Inference:
        """Load the checkpoint `file` with the configured `trust`, `data` and `trainer`, on a single device.

        Raises:
            ValueError: the data module has no prediction data, or does not fit the checkpoint.
        """
        recipe = checkpoints.read(file)
        model = checkpoints.load(file, trust=list(config.trust))
        data = make_data(config.data)
        if type(data).predict_dataloader is LightningDataModule.predict_dataloader:
            raise ValueError(f"data: {type(data).__name__} has no predict_dataloader.")
        spec = use_stored_spec(data, recipe.spec, file=file, trained_on=recipe.section("data"))
        settings = OmegaConf.to_container(config.trainer, resolve=True)
        assert isinstance(settings, dict)
        trainer: Trainer = instantiate({**settings, "devices": 1, "num_nodes": 1, "_partial_": True}, _convert_="all")(
            logger=False, enable_checkpointing=False, enable_progress_bar=sys.stdout.isatty()
        )
        return cls(model=model, data=data, spec=spec, file=file, trainer=trainer)

    def run(self, compute: Compute, sink: Sink) -> None:
        """Call `compute` with every batch on the trainer's device, in evaluation mode, and `sink` with the outputs."""
        module = _Inference(self.model, compute, sink)
        until_interrupted(self.trainer, lambda: self.trainer.predict(module, datamodule=self.data, return_predictions=False))


class _Inference(LightningModule):
    """The module that Lightning's prediction loop calls."""

    def __init__(self, model: Perceiver, compute: Compute, sink: Sink) -> None:
        super().__init__()
        self.model = model
        self.compute_batch = compute
        self.sink = sink
        self.seen = 0

    def setup(self, stage: str) -> None:
        """Keep times in float64, whatever the trainer's precision; see `cast_inputs_alone`."""
        cast_inputs_alone(self.trainer.precision_plugin)

    def predict_step(self, batch: Batch, batch_idx: int) -> int:
        """Process a batch and return its number of samples, since Lightning warns about None."""
        ids = batch.ids or [str(self.seen + row) for row in range(batch.size)]
        self.seen += batch.size
        outputs = self.compute_batch(batch)
        self.sink(list(ids), outputs.float().cpu() if isinstance(outputs, Tensor) else outputs.cpu())
        return batch.size
