"""Random numbers of evaluation: the same for a sample in every epoch, batch and process."""

from __future__ import annotations

import torch

from perceiver.runtime.random_streams import stream_of
from perceiver.samples.batch import Batch


def generators_of(batch: Batch, *, seed: int, number: int = 0) -> list[torch.Generator]:
    """Return a generator on the CPU for each sample, seeded by its id, or without one by its row and the batch number.

    Args:
        batch: samples.
        seed: seed of all.
        number: number of the batch in the split.
    """
    names = batch.ids or [""] * batch.size
    return [torch.Generator().manual_seed(stream_of(seed, name or f"{number}/{row}")) for row, name in enumerate(names)]
