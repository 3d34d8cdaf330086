"""What tasks do alike, whatever the objective: optimizer and schedule, random streams of processes, a lost loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DistributedSampler

from perceiver.batch import Batch
from perceiver.masks import presence
from perceiver.tasks.parameter_groups import parameter_groups

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
SchedulerFactory = Callable[[Optimizer, int], LRScheduler]


def optimization(
    model: nn.Module, *, optimizer: OptimizerFactory, scheduler: SchedulerFactory | None, trainer: Trainer
) -> OptimizerLRScheduler:
    """The optimizer over two parameter groups; the schedule, if any, advances with every step."""
    made = optimizer(parameter_groups(model))
    if scheduler is None:
        return made
    steps = trainer.estimated_stepping_batches
    # An endless training has infinitely many steps, which no integer holds: the schedule says what to do then.
    total = int(steps) if steps != float("inf") else -1
    return {"optimizer": made, "lr_scheduler": {"scheduler": scheduler(made, total), "interval": "step"}}


def counted(task: LightningModule, stage: str, batch_idx: int, size: int) -> int:
    """How many samples of an evaluation batch count, the first ones; all of them in a single process.

    Lightning gives all processes equally many samples by repeating the first few of the data at the end. Every sample shall
    count once, so that metrics are those of a single process, whatever the number of processes.

    Args:
        task: whose trainer evaluates.
        stage: val or test.
        batch_idx: number of the batch in this process.
        size: samples in it.
    """
    loader = getattr(task.trainer, f"{stage}_dataloaders", None)
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or sampler.shuffle or sampler.drop_last:
        return size
    samples = len(sampler.dataset)  # type: ignore[arg-type]
    own = len(range(sampler.rank, samples, sampler.num_replicas))
    return max(0, min(size, own - batch_idx * int(loader.batch_size)))  # type: ignore[union-attr]


def learning_rate(trainer: Trainer) -> float:
    """Of the first parameter group, now."""
    return float(trainer.optimizers[0].param_groups[0]["lr"])


def separate_random_streams(rank: int) -> None:
    """Give every process but the first a random stream of its own; call it before the first batch is loaded.

    All processes were seeded alike, so that they build the same model; augmentation, mixing and dropout drawn from the same
    stream would repeat one another's choices. Loader processes inherit the difference, and the order of samples has a seed
    of its own.
    """
    if rank > 0:
        seeds = np.random.SeedSequence([torch.initial_seed(), rank])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))


def require_modality(batch: Batch) -> None:
    """Check that every sample has at least one modality, by what the masks say; on a device it would cost a synchronisation.

    Raises:
        ValueError: for a sample that has none, naming it.
    """
    there = [presence(x, batch.masks.get(name)) for name, x in batch.inputs.items()]
    masks = [own for own in there if own is not None]
    if len(masks) < len(there):  # one that all samples have
        return
    missing = ~torch.stack(masks).any(dim=0)
    if bool(missing.any()):
        index = int(missing.nonzero()[0])
        raise ValueError(
            f"sample {sample_name(batch.ids, index)!r}: has none of the modalities {sorted(batch.inputs)}: its masks are "
            "False everywhere. Expected something valid in at least one: leave the sample out, or mend what masks it."
        )


def require_classes(batch: Batch, *, num_classes: int) -> None:
    """Check that every sample has a class number as its target; on a GPU a wrong one kills the process without a name.

    Raises:
        ValueError: there are no targets, or one is outside [0, num_classes); names the sample.
    """
    if batch.target is None:
        raise ValueError("batch.target: expected one class number per sample, got None; the data has no labels.")
    if batch.target.is_floating_point() or batch.target.ndim != 1:
        raise ValueError(
            f"batch.target: expected one class number per sample ({batch.size},), got {batch.target.dtype} "
            f"{tuple(batch.target.shape)}. A class for each pixel is what task=segmentation learns."
        )
    outside = (batch.target < 0) | (batch.target >= num_classes)
    if bool(outside.any()):
        index = int(outside.nonzero()[0])
        raise ValueError(
            f"target of sample {sample_name(batch.ids, index)!r}: expected a class number from 0 to "
            f"{num_classes - 1}, got {int(batch.target[index])}. "
            "Correct the label, or the class names of the data module's spec."
        )


def require_finite(loss: Tensor, *, batch: Batch, task: LightningModule) -> None:
    """Stop at a loss that is lost.

    Raises:
        FloatingPointError: for NaN or infinity; what follows would be lost anyway.
    """
    if bool(torch.isfinite(loss)):
        return
    raise FloatingPointError(
        f"the training loss became {float(loss.detach())} in epoch {task.current_epoch + 1}, step {task.global_step + 1}, "
        f"at a learning rate of {learning_rate(task.trainer):.3g} (samples {', '.join(batch.ids[:3])}, …). Lower "
        "optimizer.lr, or set trainer.gradient_clip_val; checkpoints of earlier epochs are intact."
    )


def sample_name(ids: Sequence[str], index: int) -> str:
    """What error messages call a sample of a batch."""
    return ids[index] if index < len(ids) else f"number {index} of its batch"
