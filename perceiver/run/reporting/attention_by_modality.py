"""Share of a model's attention that each modality gets, logged during validation."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from perceiver.run.reporting.whole_model import whole_model
from perceiver.samples.batch import Batch


class AttentionByModality(Callback):
    """Logs `val/attention/<modality>`, the share of the latents' attention that each modality of a model gets.

    The shares are means over cross-attends and samples; a modality missing from a sample counts as 0. Nothing is logged
    for models of a single modality, for models other than `perceiver.Perceiver`, or if parameters are sharded over
    processes.

    Args:
        num_batches: number of batches at the start of each validation; these are encoded a second time.
    """

    def __init__(self, *, num_batches: int = 2) -> None:
        if num_batches < 1:
            raise ValueError(f"AttentionByModality.num_batches: expected 1 or more, got {num_batches}.")
        self.num_batches = num_batches

    @staticmethod
    def logged_names(model: torch.nn.Module) -> list[str]:
        """Return the names under which the shares of a model are logged."""
        adapters = getattr(model, "adapters", ())
        return [f"val/attention/{name}" for name in adapters] if len(adapters) > 1 else []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log the shares of a batch, if it is among the first `num_batches`."""
        if batch_idx >= self.num_batches or dataloader_idx > 0:
            return
        model = whole_model(trainer, pl_module)
        if model is None or len(model.adapters) < 2:
            return
        with torch.no_grad():
            steps = model.attention_by_modality(batch.inputs, batch.masks)
        for name in model.adapters:
            # Every process logs all modalities, even those missing from its batch, since the means are synchronised.
            shares = [step[name].mean() for step in steps if name in step]
            share = torch.stack(shares).mean() if shares else torch.zeros((), device=pl_module.device)
            pl_module.log(
                f"val/attention/{name}", share, on_step=False, on_epoch=True, batch_size=batch.size, sync_dist=True
            )
