"""Random numbers that depend on the position in training, not on earlier draws.

Each batch and each training step start from a random state derived from the seed, the epoch, its number within the epoch
and the process. So a run resumed in the middle of an epoch draws the same numbers as an uninterrupted run, without a random
state in its checkpoints. Loader processes, or code that runs between two steps, cannot change the draws.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch

ORDER, LOADING, STEP = range(3)
"""Purposes of random numbers: the order of samples, making a batch, a training step. Each has separate streams."""


def stream_seed(*numbers: int) -> int:
    """Return a seed in [0, 2**63) that is statistically independent for different `numbers`, each at least 0."""
    # 63 bits, because torch's generators and JSON take signed integers.
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def stream_of(seed: int, name: str) -> int:
    """Return such a seed for a named object, such as a sample."""
    return stream_seed(seed, zlib.crc32(name.encode()))


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch, including those of accelerators."""
    seed_processor(seed)
    if _has_accelerator():
        torch.manual_seed(seed)


def seed_processor(seed: int) -> None:
    """Seed the global generators without accelerators, whose generators are not used to make batches in main memory."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (the state that third-party transforms draw from)
    # Not torch.manual_seed, which queries accelerators on every call; this runs for every batch.
    torch.default_generator.manual_seed(seed)


@cache
def _has_accelerator() -> bool:
    return torch.accelerator.is_available()


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Restore the random state on exit, so that draws inside do not affect draws outside. Accelerators are excluded."""
    python, array, tensor = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)  # noqa: NPY002
        torch.set_rng_state(tensor)
