"""Two ranks with two workers each train from shards, and once more from a checkpoint in the middle.

Each rank writes <phase>-<rank>.json into each folder of shards: for each step the epoch and the ids of its batch.
"""

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from perceiver.data import DataModule
from perceiver.data.shards import Shards

STEP = 5


class Notes(LightningModule):
    """Learns nothing, notes what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen.append([self.current_epoch, batch.ids])
        return self.weight * batch.size

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main(batch_size: str, *folders: str) -> None:
    torch.set_num_threads(1)
    for folder in folders:
        twice(folder, int(batch_size))


def twice(folder: str, batch_size: int) -> None:
    checkpoint: Path | None = None
    for phase in ("whole", "resumed"):
        data = DataModule.of(
            Shards, shards=folder, batch_size=batch_size, num_workers=2, modalities=["note"], needs_test=False
        )
        saved = ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=STEP, save_top_k=-1)
        trainer = Trainer(
            accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False, callbacks=[saved], limit_val_batches=0,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        module = Notes()
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        Path(folder, f"{phase}-{trainer.global_rank}.json").write_text(json.dumps(module.seen))
        checkpoint = Path(folder, f"step={2 * STEP}.ckpt")
