"""Training losses step by step in one process, or in two, of the same global batches.

One model reads a whole image; another reads two halves, of which the second process has only one.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, Strategy
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader

from perceiver.adapters import ImagePixels
from perceiver.decoders.pooled import PooledHead
from perceiver.encoders.encoder import Encoder
from perceiver.encoders.fusion import Fusion
from perceiver.model import Perceiver
from perceiver.objectives import classification
from perceiver.run.processes.fully_sharded import FullySharded
from perceiver.samples.batch import Batch
from perceiver.tokens.positions import Fourier
from perceiver.training import Task

STEPS, BATCH, PROCESSES = 20, 16, 2
STRATEGIES = {"ddp": DDPStrategy, "fsdp2": FullySharded}


def model(names: tuple[str, ...]) -> Perceiver:
    """Always the same weights; no dropout, which would differ between processes."""
    torch.manual_seed(3)
    adapters = {
        name: ImagePixels(image_channels=1, position=Fourier(num_bands=4 + len(name), resolution=(8, 8))) for name in names
    }
    fusion = Fusion(channels={name: adapter.channels for name, adapter in adapters.items()})
    encoder = Encoder(
        token_channels=fusion.channels,
        num_latents=4,
        latent_channels=16,
        num_cross_attends=2,
        num_blocks=2,
        num_layers_per_block=1,
        num_self_heads=2,
    )
    return Perceiver(adapters=adapters, fusion=fusion, encoder=encoder, head=PooledHead(latent_channels=16, num_classes=10))


def batches(names: tuple[str, ...], *, rank: int, processes: int) -> list[Batch]:
    """Return the batches of a process: of each global batch, the first process has the first half, the second the other.

    The second half has no lower halves of images: one process has them masked, a process of its own lacks them.
    """
    images, digits = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    target = torch.tensor(digits)
    own = BATCH // processes
    made = []
    for step in range(STEPS):
        rows = slice(step * BATCH + rank * own, step * BATCH + (rank + 1) * own)
        inputs: dict[str, Any] = {names[0]: pixels[rows] if len(names) == 1 else pixels[rows, :, :4]}
        masks: dict[str, Tensor] = {}
        if len(names) > 1 and processes == 1:
            inputs["lower"] = pixels[rows, :, 4:]
            masks["lower"] = torch.arange(BATCH) < BATCH // 2
        elif len(names) > 1 and rank == 0:
            inputs["lower"] = pixels[rows, :, 4:]
        made.append(Batch(inputs=inputs, masks=masks, target=target[rows], ids=[str(row) for row in range(own)]))
    return made


class Losses(Callback):
    """The loss of the global batch after every step: the mean over processes, which have equally many samples."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean")))


def curve(names: tuple[str, ...], strategy: str) -> list[float]:
    """Train and return the losses."""
    processes = 1 if strategy == "auto" else PROCESSES
    made: str | Strategy = "auto" if strategy == "auto" else STRATEGIES[strategy]()
    losses = Losses()
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy=made,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        gradient_clip_val=1.0,
        callbacks=[losses],
    )
    optimizer = partial(torch.optim.AdamW, lr=1e-3)
    task = Task(model=model(names), objective=classification(num_classes=10), optimizer=optimizer)
    data = batches(names, rank=trainer.global_rank, processes=processes)
    trainer.fit(task, DataLoader(data, batch_size=None))  # type: ignore[arg-type]
    return losses.losses


def write(strategy: str, file: str) -> None:
    """Write the losses by model; called by each process."""
    curves = {kind: curve(names, strategy) for kind, names in {"whole": ("image",), "halves": ("image", "lower")}.items()}
    Path(file).write_text(json.dumps(curves))
