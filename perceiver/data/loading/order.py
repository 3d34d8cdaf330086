"""The order of training samples, and a loader that can resume at any batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from perceiver.data.loading.shared_memory import waiting
from perceiver.runtime.random_streams import (
    LOADING,
    ORDER,
    kept_random_state,
    seed_processor,
    stream_seed,
)
from perceiver.samples.batch import Batch, Sample


class TrainingOrder(DistributedSampler[Sample]):
    """A new random order in every epoch, determined by the seed and the epoch alone.

    Several processes share an order, so their batches together are the batch of a single process with the same global
    batch size. The first samples of the order are repeated until all processes have equally many.

    This is a `DistributedSampler` because Lightning replaces or wraps every other sampler with several processes.

    Args:
        size: number of samples.
        seed: seed of the order, the same in all processes.
        rank: rank of this process, 0 to world_size - 1.
        world_size: number of processes.
        weights: `(size,)`; samples are drawn with replacement in proportion to them. None: every sample once.
        per_epoch: samples of an epoch in all processes together: as many orders of all samples, one after another, as it
            takes. None: one order of all samples.
    """

    def __init__(
        self,
        *,
        size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        weights: Tensor | None = None,
        per_epoch: int | None = None,
    ) -> None:
        super().__init__(range(size), num_replicas=world_size, rank=rank, seed=seed)  # type: ignore[arg-type]
        self.weights = weights
        self.per_epoch = size if per_epoch is None else per_epoch
        self.num_samples = -(-self.per_epoch // world_size)
        self.total_size = self.num_samples * world_size

    def drawn(self) -> Tensor:
        """Return `(samples,)`: the order of `self.epoch` in all processes together."""
        generator = torch.Generator().manual_seed(stream_seed(self.seed, ORDER, self.epoch))
        size = len(self.dataset)  # type: ignore[arg-type]
        if self.weights is not None:
            return torch.multinomial(self.weights, self.per_epoch, replacement=True, generator=generator)
        orders = [torch.randperm(size, generator=generator) for _ in range(-(-self.per_epoch // size))]
        return orders[0] if self.per_epoch == size else torch.cat(orders)[: self.per_epoch]

    def indices(self) -> Tensor:
        """Return `(samples of this process,)`: the whole order of `self.epoch`."""
        order = self.drawn()
        size = len(order)
        missing = self.total_size - size
        if missing:
            order = torch.cat([order, order.repeat(-(-missing // size))[:missing]])
        return order[self.rank :: self.num_replicas]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.indices().tolist())


class _SeededIndices(list[int]):
    """Sample indices of a batch and the seed of its random numbers; sent to loader processes."""

    def __init__(self, indices: Sequence[int], seed: int) -> None:
        super().__init__(indices)
        self.seed = seed

    def __reduce__(self) -> tuple[Any, ...]:
        return _SeededIndices, (list(self), self.seed)


class _Batches:
    """Batch sampler of a DataLoader: seeded batches of an order, starting at any batch."""

    def __init__(self, order: TrainingOrder, batch_size: int) -> None:
        self.order = order
        self.batch_size = batch_size
        self.start = 0

    def __len__(self) -> int:
        """Number of batches in an epoch, wherever it starts."""
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[_SeededIndices]:
        # Not a generator: the epoch is that of this call, not that of the first batch.
        order, size = self.order, self.batch_size
        indices, epoch = order.indices().tolist(), order.epoch
        return (
            _SeededIndices(
                indices[number * size : (number + 1) * size],
                stream_seed(order.seed, LOADING, epoch, order.rank, number),
            )
            for number in range(self.start, len(self))
        )


class _TokenBatches:
    """Batch sampler of samples of similar lengths: batches of about equally many tokens, padding included.

    Samples are sorted by their first length in steps, and by the next length within a step; in a new order within the steps
    of all lengths in every epoch, and cut at the same places in every epoch. So every epoch has equally many batches, and no
    batch exceeds the tokens. Processes take turns.

    Args:
        order: order of the samples.
        lengths: `(samples,)`, length of each sample; or `(samples, k)` lengths of what is padded separately, such as target
            and input, that by which to sort first leading.
        batch_tokens: most tokens in a batch: its samples times the longest of their lengths.
    """

    def __init__(self, order: TrainingOrder, lengths: Sequence[int] | Sequence[tuple[int, ...]], batch_tokens: int) -> None:
        self.order = order
        self.start = 0
        columns = torch.as_tensor(lengths).reshape(len(lengths), -1)
        longest = int(columns.max())
        if longest > batch_tokens:
            raise ValueError(
                f"data.batch_tokens: expected at least {longest}, the length of the longest training sample, got "
                f"{batch_tokens}."
            )
        ceilings = torch.stack([_ceilings(column, 2 if number else 3) for number, column in enumerate(columns.T)], dim=1)
        _, self.keys = ceilings.unique(dim=0, return_inverse=True)
        """`(samples,)`, place of each sample's steps in the order of all."""
        self.sizes: list[int] = []
        size = most = 0
        # The whole step counts: which of its samples meet here changes from epoch to epoch.
        for length in ceilings.amax(dim=1)[self.keys.argsort(stable=True)].tolist():
            if (size + 1) * max(most, length) > batch_tokens and size:
                self.sizes.append(size)
                size = most = 0
            size, most = size + 1, max(most, length)
        self.sizes.append(size)
        self.batch_size = max(1, round(len(self.keys) / len(self.sizes)))
        """Mean number of samples, by which the position in an epoch is counted."""

    def __len__(self) -> int:
        """Number of batches of this process in an epoch, wherever it starts."""
        return -(-len(self.sizes) // self.order.num_replicas)

    def __iter__(self) -> Iterator[_SeededIndices]:
        order = self.order
        drawn, epoch = order.drawn(), order.epoch
        batches = list(drawn[self.keys[drawn].argsort(stable=True)].split(self.sizes))
        generator = torch.Generator().manual_seed(stream_seed(order.seed, ORDER, epoch, 1))
        turn = torch.randperm(len(batches), generator=generator).tolist()
        wanted = len(self) * order.num_replicas
        turn = (turn * -(-wanted // len(turn)))[:wanted]
        own = turn[order.rank :: order.num_replicas]
        return (
            _SeededIndices(batches[own[number]].tolist(), stream_seed(order.seed, LOADING, epoch, order.rank, number))
            for number in range(self.start, len(self))
        )


def _ceilings(lengths: Tensor, least: int) -> Tensor:
    """Round lengths up to steps of a tenth of the length, and of at least `least`; none exceeds the longest length."""
    longest = int(lengths.max())
    steps = [least]
    while steps[-1] < longest:
        steps.append(steps[-1] + max(least, steps[-1] // 10))
    bounds = torch.tensor(steps).clamp(max=longest)
    return bounds[torch.bucketize(lengths.contiguous(), bounds)]


class _SeededSamples(Dataset[Sample]):
    """Samples that draw from the random numbers of their batch."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]

    def __getitems__(self, indices: Sequence[int]) -> Any:
        if isinstance(indices, _SeededIndices):
            # Collation follows and draws from the rest of the stream.
            seed_processor(indices.seed)
        whole = getattr(self.samples, "__getitems__", None)
        return whole(list(indices)) if whole is not None else [self.samples[index] for index in indices]


class TrainingLoader(DataLoader[Sample]):
    """Batches in a `TrainingOrder` with a random seed per batch, starting at any batch of an epoch.

    A batch depends only on the seed, the epoch, its number and the process: not on the number of loader processes, nor on
    earlier draws. Drawing leaves the random state of the process unchanged. The random numbers come from Python's, numpy's
    and torch's global generators.

    `state_dict` and `load_state_dict` get and set the position in the epoch, as Lightning requires of a resumable loader.
    Without Lightning, each iteration starts the next epoch.

    Args:
        samples: a map-style data set.
        collate: turns a list of samples into a batch.
        order: order of the samples.
        batch_size: samples per batch.
        batch_tokens: most tokens per batch of samples of similar length, instead of `batch_size`; needs `samples.lengths`.
        num_workers: loader processes.
    """

    def __init__(
        self,
        samples: Any,
        *,
        collate: Callable[[Any], Batch],
        order: TrainingOrder,
        batch_size: int,
        num_workers: int,
        batch_tokens: int | None = None,
    ) -> None:
        self._batches = (
            _Batches(order, batch_size) if batch_tokens is None else _TokenBatches(order, samples.lengths, batch_tokens)
        )
        super().__init__(
            _SeededSamples(samples),
            batch_sampler=self._batches,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate,
            timeout=waiting(num_workers),
        )
        # Lightning inspects this attribute, and replaces samplers of other types with several processes.
        object.__setattr__(self, "sampler", order)
        self._order = order
        self._epoch, self._delivered = order.epoch, 0
        self._continue_at: tuple[int, int] | None = None

    def __iter__(self) -> Any:
        # A generator, so that nothing is fetched before the first batch. Lightning makes iterators early, before it sets
        # the epoch and the position to resume from.
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
        """Return the number of the batch at which an epoch starts."""
        place, self._continue_at = self._continue_at, None
        return place[1] if place is not None and place[0] == epoch and place[1] < len(self._batches) else 0

    def state_dict(self) -> dict[str, int]:
        """Return the position: `epoch`, `batches` delivered in it, and `samples` delivered in all processes."""
        samples = self._delivered * self._batches.batch_size * self._order.num_replicas
        return {"epoch": self._epoch, "batches": self._delivered, "samples": samples}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Resume from this position when its epoch starts; with a different batch size, from the last complete batch."""
        batches = state_dict["samples"] // (self._batches.batch_size * self._order.num_replicas)
        self._continue_at = (state_dict["epoch"], batches)


def balanced_weights(labels: Sequence[int] | Tensor) -> Tensor:
    """Return the weights `(samples,)`, float64, that draw every class of `labels` equally often on average.

    Args:
        labels: `(samples,)`, class numbers from 0.
    """
    classes = torch.as_tensor(labels)
    return torch.bincount(classes).to(torch.float64).reciprocal()[classes]


def training_order(
    samples: Any, *, module: LightningDataModule, weights: Tensor | None = None, per_epoch: int | None = None
) -> TrainingOrder:
    """Make the order of a data module's training samples; `per_epoch` is the number of a single process.

    With a trainer, the seed is that of Lightning's `seed_everything`, equal in all processes. Without a trainer, it is drawn
    from torch's generator, as in a plain shuffling loader.
    """
    trainer = getattr(module, "trainer", None)
    if not isinstance(trainer, Trainer):
        return TrainingOrder(size=len(samples), seed=int(torch.randint(2**62, ())), weights=weights, per_epoch=per_epoch)
    seed = os.environ.get("PL_GLOBAL_SEED") or (torch.initial_seed() % 2**63 if trainer.world_size == 1 else 0)
    return TrainingOrder(
        size=len(samples),
        seed=int(seed),
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        weights=weights,
        per_epoch=None if per_epoch is None else per_epoch * trainer.world_size,
    )
