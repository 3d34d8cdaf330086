"""The order of training samples, and a loader of their batches that can be stopped anywhere and continued there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from perceiver.batch import Batch, Sample
from perceiver.runtime.random_streams import (
    LOADING,
    ORDER,
    kept_random_state,
    seed_processor,
    stream_seed,
)


class TrainingOrder(DistributedSampler[Sample]):
    """A new order in every epoch, which follows from the seed and the epoch alone.

    Several processes deal one order out among themselves, so their batches together are the batch that one process of the
    same global batch size would have; the first samples of the order fill up what is missing to equal numbers.

    A subclass because Lightning replaces or wraps every other sampler when there are several processes.

    Args:
        size: number of samples.
        seed: as is that of all processes.
        rank: of this process, 0 to world_size - 1.
        world_size: number of processes.
        weights: `(size,)`; samples are drawn with replacement in proportion. None: every sample once.
    """

    def __init__(self, *, size: int, seed: int, rank: int = 0, world_size: int = 1, weights: Tensor | None = None) -> None:
        super().__init__(range(size), num_replicas=world_size, rank=rank, seed=seed)  # type: ignore[arg-type]
        self.weights = weights

    def indices(self) -> Tensor:
        """`(samples of this process,)`: the whole order of `self.epoch`."""
        generator = torch.Generator().manual_seed(stream_seed(self.seed, ORDER, self.epoch))
        size = len(self.dataset)  # type: ignore[arg-type]
        if self.weights is None:
            order = torch.randperm(size, generator=generator)
        else:
            order = torch.multinomial(self.weights, size, replacement=True, generator=generator)
        missing = self.total_size - size
        if missing:
            order = torch.cat([order, order.repeat(-(-missing // size))[:missing]])
        return order[self.rank :: self.num_replicas]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.indices().tolist())


class _SeededIndices(list[int]):
    """The samples of a batch, and the seed of its random numbers; travels to loader processes."""

    def __init__(self, indices: Sequence[int], seed: int) -> None:
        super().__init__(indices)
        self.seed = seed

    def __reduce__(self) -> tuple[Any, ...]:
        return _SeededIndices, (list(self), self.seed)


class _Batches:
    """What a DataLoader takes as its batch sampler: seeded batches of an order, from any of them on."""

    def __init__(self, order: TrainingOrder, batch_size: int) -> None:
        self.order = order
        self.batch_size = batch_size
        self.start = 0

    def __len__(self) -> int:
        """Batches of an epoch, wherever it starts."""
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[_SeededIndices]:
        # No generator: the epoch is the one at this moment, not at that of the first batch.
        order, size = self.order, self.batch_size
        indices, epoch = order.indices().tolist(), order.epoch
        return (
            _SeededIndices(
                indices[number * size : (number + 1) * size],
                stream_seed(order.seed, LOADING, epoch, order.rank, number),
            )
            for number in range(self.start, len(self))
        )


class _SeededSamples(Dataset[Sample]):
    """Samples, made with the random numbers of the batch that they are asked for."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]

    def __getitems__(self, indices: Sequence[int]) -> Any:
        if isinstance(indices, _SeededIndices):
            # Collation, which follows, draws from what is left of the stream.
            seed_processor(indices.seed)
        whole = getattr(self.samples, "__getitems__", None)
        return whole(list(indices)) if whole is not None else [self.samples[index] for index in indices]


class TrainingLoader(DataLoader[Sample]):
    """Batches in a `TrainingOrder`, each with random numbers of its own, from any batch of an epoch on.

    A batch depends on the seed, the epoch, its number and the process alone: not on the number of loader processes, nor on
    what was drawn before. Drawing leaves the random state of the process as it was. The random numbers are those of
    Python's, numpy's and torch's global generators.

    `state_dict` and `load_state_dict` say and set how far the epoch has got, which is what Lightning asks of a loader that
    can be continued. Without Lightning, an epoch follows another by itself.

    Args:
        samples: a map-style data set.
        collate: samples of a batch to the batch.
        order: of the samples.
        batch_size: samples per batch.
        num_workers: loader processes.
    """

    def __init__(
        self, samples: Any, *, collate: Callable[[Any], Batch], order: TrainingOrder, batch_size: int, num_workers: int
    ) -> None:
        self._batches = _Batches(order, batch_size)
        super().__init__(
            _SeededSamples(samples),
            batch_sampler=self._batches,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate,
        )
        # What Lightning looks at: a sampler of another kind it would replace where there are several processes.
        object.__setattr__(self, "sampler", order)
        self._order = order
        self._epoch, self._delivered = order.epoch, 0
        self._continue_at: tuple[int, int] | None = None

    def __iter__(self) -> Any:
        # A generator: nothing is fetched before the first batch is asked for. Lightning makes iterators early, when it has
        # not yet said which epoch it is, nor where to continue.
        order = self._order
        self._epoch, self._delivered = order.epoch, self._first(order.epoch)
        self._batches.start = self._delivered
        with kept_random_state():
            fetched = super().__iter__()
        order.set_epoch(order.epoch + 1)
        while True:
            with kept_random_state():
                batch = next(fetched, None)
            if batch is None:
                return
            self._delivered += 1
            yield batch

    def _first(self, epoch: int) -> int:
        """The batch that an epoch begins with."""
        place, self._continue_at = self._continue_at, None
        return place[1] if place is not None and place[0] == epoch and place[1] < len(self._batches) else 0

    def state_dict(self) -> dict[str, int]:
        """The place in the data: `epoch`, `batches` of it that were delivered, and the `samples` in all processes."""
        samples = self._delivered * self._batches.batch_size * self._order.num_replicas
        return {"epoch": self._epoch, "batches": self._delivered, "samples": samples}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue there, as soon as its epoch is asked for; in batches of another size, at the whole batch before."""
        batches = state_dict["samples"] // (self._batches.batch_size * self._order.num_replicas)
        self._continue_at = (state_dict["epoch"], batches)


def balanced_weights(labels: Sequence[int] | Tensor) -> Tensor:
    """`(samples,)` float64: drawn in proportion, with replacement, every class that occurs comes equally often on average.

    Args:
        labels: `(samples,)`, classes from 0.
    """
    classes = torch.as_tensor(labels)
    return torch.bincount(classes).to(torch.float64).reciprocal()[classes]


def training_order(samples: Any, *, module: LightningDataModule, weights: Tensor | None = None) -> TrainingOrder:
    """The order of a data module's training samples.

    Its seed is Lightning's `seed_everything` where there is a trainer, as of all processes; else it is drawn from torch's
    generator, as a plain shuffling loader's.
    """
    trainer = getattr(module, "trainer", None)
    if not isinstance(trainer, Trainer):
        return TrainingOrder(size=len(samples), seed=int(torch.randint(2**62, ())), weights=weights)
    seed = os.environ.get("PL_GLOBAL_SEED") or (torch.initial_seed() % 2**63 if trainer.world_size == 1 else 0)
    return TrainingOrder(
        size=len(samples), seed=int(seed), rank=trainer.global_rank, world_size=trainer.world_size, weights=weights
    )
