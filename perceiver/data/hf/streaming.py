"""Rows of a data set one after the other: shuffled in a buffer for training, in order for evaluation.

A batch of rows becomes a small table, so that its cells and targets are read as those of a manifest.
"""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from perceiver.data.hf.opening import with_languages
from perceiver.data.loading.shared_memory import waiting
from perceiver.data.manifest.formats.arrow_columns import table_file
from perceiver.data.manifest.formats.class_labels import class_labels
from perceiver.data.manifest.formats.table_file import TableFile, named_columns
from perceiver.data.manifest.modalities import ManifestModality
from perceiver.data.manifest.paths import Folder
from perceiver.data.manifest.rows import BadRowError, ManifestRows, RowIds
from perceiver.data.manifest.table import ManifestTable
from perceiver.data.manifest.targets import TargetColumns
from perceiver.runtime.random_streams import LOADING, ORDER, kept_random_state, seed_processor, stream_seed
from perceiver.samples.batch import Batch, Sample

_READ_AHEAD = 32  # rows of a table in evaluation


def table_of(rows: Sequence[Mapping[str, Any]], *, features: Any, path: Path) -> TableFile:
    """Return rows of a stream as columns.

    Args:
        rows: values by column; images and sound are bytes or paths.
        features: the library's features of the stream.
        path: name of the stream, for messages.

    Raises:
        ValueError: a value has another type than its column.
    """
    try:
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=features.arrow_schema)
        chosen, repeated = named_columns(path, [str(name) for name in table.column_names])
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise ValueError(f"{path}: rows differ from the types of their columns: {error}.") from error
    labels = class_labels(table.schema.metadata)
    made = table_file(path, table, chosen=chosen, repeated=repeated, labels=labels, problems={})
    return with_languages(made, features)


def shuffled(rows: Any, *, seed: int, buffer: int) -> Any:
    """Return a stream in another order: its files shuffled, then rows drawn from a buffer.

    Args:
        rows: an `IterableDataset` of the library.
        seed: seed of the order.
        buffer: number of rows in the buffer.
    """
    # From version 5 on, the library reads several files at once in threads, and waits seconds for them after each pass.
    alone = {"max_buffer_input_shards": 1} if "max_buffer_input_shards" in inspect.signature(rows.shuffle).parameters else {}
    return rows.shuffle(seed=seed, buffer_size=buffer, **alone)


class RowReader:
    """Turns rows of a stream into samples.

    Args:
        features: the library's features of the stream.
        path: name of the stream, for messages.
        modalities: modalities of the samples.
        specs: spec of each modality, by name.
        folder: base of relative paths in cells.
        id: column of ids. None: rows are numbered in evaluation.
        targets: reads targets. None: samples have no target.
        target: `spec["target"]`.
        skip: leave out unusable rows; False: raise.
        training: make the random choices of training.
    """

    def __init__(
        self,
        *,
        features: Any,
        path: Path,
        modalities: Sequence[ManifestModality],
        specs: Mapping[str, Mapping[str, Any]],
        folder: Folder,
        id: str | None,  # noqa: A002  (the name of the setting)
        targets: TargetColumns | None,
        target: Mapping[str, Any],
        skip: bool,
        training: bool,
    ) -> None:
        self.features = features
        self.path = path
        self.modalities = modalities
        self.specs = specs
        self.folder = folder
        self.id = id
        self.targets = targets
        self.target = target
        self.skip = skip
        self.training = training

    def __call__(self, rows: Sequence[Mapping[str, Any]], *, first: int = 0) -> list[Sample]:
        """Return the samples of rows.

        Args:
            rows: values by column.
            first: number of rows before these.

        Raises:
            BadRowError: a row cannot be used and is not to be skipped.
        """
        file = table_of(rows, features=self.features, path=self.path)
        # Shuffled rows have no number that a message could give.
        place = self.path if self.training else Path(f"{self.path} (from row {first + 1})")
        table = ManifestTable(path=self.path, columns=file.columns, parts=[replace(file, path=place)])
        problems = {row: f"{table.where(row)}{problem}." for row, problem in table.problems.items()}
        usable = [row for row in range(len(table)) if row not in problems]
        values = None
        if self.targets is not None:
            problems |= {row: problem for row in usable if (problem := self.targets.problem(table, row))}
            usable = [row for row in usable if row not in problems]
            problems |= self.targets.unknown(table, usable, self.target)
            usable = [row for row in usable if row not in problems]
            values = self.targets.values(table, usable, self.target)
        if problems and not self.skip:
            raise BadRowError(f"{problems[min(problems)]} Correct it, or skip such rows with data.on_bad_row=skip.")
        samples = ManifestRows(
            table=table,
            rows=usable,
            modalities=self.modalities,
            specs=self.specs,
            folder=self.folder,
            ids=RowIds(table=table, column=self.id),
            targets=values,
            training=self.training,
        )
        found: list[Sample] = []
        for index, row in enumerate(usable):
            try:
                sample = samples[index]
            except BadRowError:
                if not self.skip:
                    raise
                continue
            found.append(sample if self.id is not None else replace(sample, id=str(first + row + 1)))
        return found


class RowStream:
    """Training rows from a shuffling buffer, in a new order in every epoch.

    An epoch has a fixed number of full batches. If the rows end before, they begin again, in another order. Each loader
    process reads files of its own, so that with several a row may come twice in an epoch, or not at all.

    Args:
        rows: an `IterableDataset` of the library.
        read: turns rows into samples.
        rows_per_epoch: rows of an epoch, of which a remainder that fills no batch is left out.
        buffer: number of rows from which the next is drawn.
        seed: seed of the order.
        cut: whether the rows are what other splits left of a shuffled stream. A single loader process reads them then.
    """

    def __init__(
        self,
        rows: Any,
        *,
        read: RowReader,
        rows_per_epoch: int,
        buffer: int,
        seed: int,
        cut: bool = False,
    ) -> None:
        self.rows = rows
        self.read = read
        self.rows_per_epoch = rows_per_epoch
        self.buffer = buffer
        self.seed = seed
        self.cut = cut

    def loader(self, *, collate: Callable[[Any], Batch], batch_size: int, num_workers: int) -> DataLoader[Sample]:
        """Return a loader of batches; its `state_dict` is the position in the epoch.

        Raises:
            ValueError: there are several processes, or an epoch has no full batch.
        """
        require_single_process()
        count = self.rows_per_epoch // batch_size
        if count == 0:
            raise ValueError(
                f"data.batch_size: expected at most the {self.rows_per_epoch} rows of an epoch, got {batch_size}."
            )
        workers = min(num_workers, 1 if self.cut else int(self.rows.num_shards))
        batches = _Batches(self, collate=collate, batch_size=batch_size, count=count, workers=workers)
        return StreamLoader(batches, num_workers=workers)


class _Batches(IterableDataset[Any]):
    """The batches of an epoch. With W loader processes, process w makes the batches w, w + W, w + 2 W …

    Each batch has random numbers of its own, so that a resumed epoch continues as an uninterrupted one.
    """

    def __init__(
        self, stream: RowStream, *, collate: Callable[[Any], Batch], batch_size: int, count: int, workers: int
    ) -> None:
        self.stream = stream
        self.collate = collate
        self.batch_size = batch_size
        self.count = count
        self.workers = max(1, workers)
        self.epoch = 0
        self.start = 0

    def __iter__(self) -> Iterator[Batch | None]:
        worker = get_worker_info()
        place = 0 if worker is None else worker.id
        groups = self._groups()
        # Earlier batches of the epoch were delivered: their rows are passed over without being decoded.
        for _ in range(place, self.start, self.workers):
            next(groups)
        for number in range(self.start // self.workers * self.workers + place, self.count, self.workers):
            if number < self.start:
                yield None  # keeps the turns of the processes
                continue
            seed_processor(stream_seed(self.stream.seed, LOADING, self.epoch, number))
            rows = next(groups)
            samples = self.stream.read(rows)
            if not samples:
                raise BadRowError(f"{self.stream.read.path}: none of the {len(rows)} rows of a batch can be used.")
            yield self.collate(samples)

    def _groups(self) -> Iterator[list[Any]]:
        """Return groups of rows of a batch, without end."""
        rows = itertools.chain.from_iterable(self._pass(number) for number in itertools.count())
        while True:
            yield list(itertools.islice(rows, self.batch_size))

    def _pass(self, number: int) -> Iterable[Any]:
        seed = stream_seed(self.stream.seed, ORDER, self.epoch, number) % 2**32
        empty = True
        rows = shuffled(self.stream.rows, seed=seed, buffer=self.stream.buffer)
        # In a loader process, the library shuffles an iteration by rows in another order, so that other rows than were cut
        # would be passed over.
        for row in _whole(rows) if self.stream.cut else rows:
            empty = False
            yield row
        if empty:
            raise BadRowError(f"{self.stream.read.path}: a loader process got no rows; set data.num_workers=0.")


class StreamLoader(DataLoader[Any]):
    """Batches of a stream, starting at any batch of an epoch; each iteration is the next epoch.

    Args:
        batches: the batches of an epoch.
        num_workers: loader processes.
    """

    def __init__(self, batches: _Batches, *, num_workers: int) -> None:
        super().__init__(
            batches,
            batch_size=None,
            num_workers=num_workers,
            collate_fn=_unchanged,
            timeout=waiting(num_workers),
            pin_memory=torch.cuda.is_available(),
        )
        self._made = batches
        self._epoch, self._delivered, self._next = 0, 0, 0
        self._continue_at: tuple[int, int] | None = None

    def __len__(self) -> int:
        """Number of batches in an epoch, wherever it starts."""
        return self._made.count

    def __iter__(self) -> Any:
        # A generator: nothing is read before the first batch, since Lightning makes iterators before it sets the position.
        place, self._continue_at = self._continue_at, None
        self._epoch, start = (self._next, 0) if place is None else place
        if start >= len(self):
            self._epoch, start = self._epoch + 1, 0
        self._delivered = self._made.start = start
        self._made.epoch = self._epoch
        with kept_random_state():
            fetched = super().__iter__()
        self._next = self._epoch + 1
        while True:
            with kept_random_state():
                batch = next(fetched, _END)
            if batch is _END:
                return
            if batch is not None:
                self._delivered += 1
                yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the position: `epoch`, `batches` and `samples` delivered in it, and the settings that it depends on."""
        size = self._made.batch_size
        return {
            "epoch": self._epoch,
            "batches": self._delivered,
            "samples": self._delivered * size,
            "batch_size": size,
            "workers": self._made.workers,
        }

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Resume from this position.

        Raises:
            ValueError: in the middle of an epoch, batch size or loader processes differ: rows would be seen twice or never.
        """
        within = 0 < state_dict["batches"] < len(self)
        for setting, key, own in (
            ("batch_size", "batch_size", self._made.batch_size),
            ("num_workers", "workers", self._made.workers),
        ):
            if within and state_dict.get(key) != own:
                raise ValueError(
                    f"data.{setting}: expected {state_dict.get(key)}, as when the epoch was interrupted, since a stream has "
                    f"no random access; got {own}."
                )
        self._continue_at = (state_dict["epoch"], state_dict["batches"])


class StreamedRows(IterableDataset[Sample]):
    """Rows in order, for test and prediction. A single loader process reads them.

    Args:
        streams: streams of the library, one after the other.
        read: turns rows into samples.
    """

    def __init__(self, streams: Sequence[Any], *, read: RowReader) -> None:
        self.streams = list(streams)
        self.read = read

    def __iter__(self) -> Iterator[Sample]:
        require_single_process()
        worker = get_worker_info()
        if worker is not None and worker.id > 0:
            return
        rows, first = itertools.chain.from_iterable(map(_whole, self.streams)), 0
        while some := list(itertools.islice(rows, _READ_AHEAD)):
            yield from self.read(some, first=first)
            first += len(some)


def _whole(stream: Any) -> Iterator[dict[str, Any]]:
    """Return all rows of a stream, in the same order in every process.

    In a loader process, the library divides and reshuffles an iteration by rows, but not one by batches.
    """
    for some in stream.iter(batch_size=_READ_AHEAD):
        for values in zip(*some.values(), strict=True):
            yield dict(zip(some, values, strict=True))


def require_single_process() -> None:
    """Refuse several processes, which would all see all rows.

    Raises:
        ValueError: there are several processes.
    """
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        raise ValueError(
            "data.streaming: expected false with several processes. Pack the data set into shards with mode=shard, or train "
            "with trainer=single."
        )


def _unchanged(batch: Any) -> Any:
    return batch


_END = object()
