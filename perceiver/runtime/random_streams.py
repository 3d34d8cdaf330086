"""Random numbers that follow from where a training is, not from what was drawn before.

A batch, or a training step, starts from a random state made of the seed, the epoch, its number within the epoch and the
process. So a training that is resumed in the middle of an epoch draws what it would have drawn, without a random state in
its checkpoints, and neither loader processes nor anything that happens between two steps can change what it draws.
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
"""What random numbers are for: the order of samples, making a batch, a training step. Each has streams of its own."""


def stream_seed(*numbers: int) -> int:
    """A seed in [0, 2**63) that looks nothing like that of any other numbers, each at least 0."""
    # Half of what it makes: torch's generators and JSON take signed integers.
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def stream_of(seed: int, name: str) -> int:
    """The same for something that has a name, such as a sample."""
    return stream_seed(seed, zlib.crc32(name.encode()))


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch, those of accelerators too."""
    seed_processor(seed)
    if _has_accelerator():
        torch.manual_seed(seed)


def seed_processor(seed: int) -> None:
    """The same without accelerators: nothing that makes batches in main memory draws from theirs."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (the state that third-party transforms draw from)
    # Not torch.manual_seed, which asks for accelerators every time: this is done for every batch.
    torch.default_generator.manual_seed(seed)


@cache
def _has_accelerator() -> bool:
    return torch.accelerator.is_available()


@contextmanager
def kept_random_state() -> Iterator[None]:
    """What is drawn inside changes nothing outside. Accelerators are left out."""
    python, array, tensor = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(array)  # noqa: NPY002
        torch.set_rng_state(tensor)
