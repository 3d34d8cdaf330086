"""Inference of a checkpoint's model over the `predict_dataloader` of a data module; only a sink keeps the outputs.

The outputs go into one table, in order, or into parts (`perceiver.run.parts`), which several processes compute.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from hydra.utils import instantiate
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from perceiver import checkpoints
from perceiver.decoders import CausalDecoder, NextTokenHead
from perceiver.generation import Decoding, Generated
from perceiver.model import Perceiver
from perceiver.run.assembly.data import make_data
from perceiver.run.assembly.spec import use_stored_spec
from perceiver.run.parts.folder import PartFolder, continuing
from perceiver.run.parts.loader import PartLoader, Place, rows_of, samples_at
from perceiver.run.parts.shares import Counter, unfinished
from perceiver.run.parts.table import PartWriter
from perceiver.run.processes.interruption import until_interrupted
from perceiver.run.processes.launch import start_ranks_by_job
from perceiver.run.run_directory import RunDirectory
from perceiver.runtime.process_rank import process_rank
from perceiver.runtime.progress import reporting
from perceiver.samples.batch import Batch
from perceiver.training.precision import cast_inputs_alone

Outputs = Tensor | Generated
Compute = Callable[[Batch], Outputs]
Sink = Callable[[list[str], Any], None]
"""Takes the ids of B samples and their outputs on the CPU: `(B, …)` float32, or generated sequences."""
Rows = Callable[[list[str], Any, int], pa.Table]
"""Turns the ids of B samples, their outputs on the CPU and the row number of the first into rows of a table."""

_IRRELEVANT = ("batch_size", "num_workers", "check_files", "needs_test", "balanced_sampling")
"""Settings of data that do not change the content of its rows."""


def find_checkpoint(path: str | None, *, mode: str) -> Path:
    """Return the checkpoint file that `ckpt_path` names; raises if the path is missing or does not exist."""
    if path is None:
        raise ValueError(f"mode={mode}: expected a checkpoint, ckpt_path=RUN_DIR or ckpt_path=FILE; got none.")
    return checkpoints.find(path)


def set_decoding(model: Perceiver, generation: Mapping[str, Any] | None) -> None:
    """Let a model generate texts in another way than its checkpoint configures; None changes nothing.

    Raises:
        ValueError: the model generates no text, or a setting is unknown or out of range.
    """
    if generation is None:
        return
    if not isinstance(model.head, CausalDecoder | NextTokenHead):
        raise ValueError(
            f"generation: expected null, since the checkpoint's model generates no text: its head is "
            f"{type(model.head).__name__}, not a perceiver.decoders.CausalDecoder."
        )
    model.head.decoding = Decoding.of(generation, where="generation")


@dataclass(frozen=True, kw_only=True)
class Inference:
    """A trained model and the data to process.

    Args:
        model: model of the checkpoint.
        data: data module with the checkpoint's spec.
        spec: spec of the checkpoint.
        file: path of the checkpoint.
        trainer: provides the devices and the precision.
        settings: configuration of data and precision, for the description of parts.
        rows_per_part: rows of a part; None: one table, or parts of a default size with several processes.
    """

    model: Perceiver
    data: LightningDataModule
    spec: dict[str, Any]
    file: Path
    trainer: Trainer
    settings: Mapping[str, Any]
    rows_per_part: int | None = None

    @classmethod
    def of(cls, config: DictConfig, *, file: Path, rows_per_part: int | None = None) -> Inference:
        """Load the checkpoint `file` with the configured `trust`, `data` and `trainer`.

        A single device computes, unless parts or `trainer=ddp` are asked for.

        Raises:
            ValueError: the data module has no prediction data, or does not fit the checkpoint; several devices are
                configured, but not with `trainer=ddp`.
        """
        if rows_per_part is not None and rows_per_part < 1:
            raise ValueError(f"rows_per_part: expected 1 or more, or null, got {rows_per_part}.")
        recipe = checkpoints.read(file)
        model = checkpoints.load(file, trust=list(config.trust))
        data = make_data(config.data)
        if type(data).predict_dataloader is LightningDataModule.predict_dataloader:
            raise ValueError(f"data: {type(data).__name__} has no predict_dataloader.")
        spec = use_stored_spec(data, recipe.spec, file=file, trained_on=recipe.section("data"))
        described = OmegaConf.to_container(config.data, resolve=True)
        assert isinstance(described, dict)
        settings = {
            "data": {str(key): value for key, value in described.items() if key not in _IRRELEVANT},
            "precision": str(config.trainer.precision),
        }
        return cls(
            model=model,
            data=data,
            spec=spec,
            file=file,
            trainer=_trainer(config, in_parts=rows_per_part is not None),
            settings=settings,
            rows_per_part=rows_per_part,
        )

    @property
    def in_parts(self) -> bool:
        """Whether the outputs go into parts: asked for, or needed by several processes."""
        return self.rows_per_part is not None or self.trainer.world_size > 1

    def run(self, compute: Compute, sink: Sink) -> None:
        """Call `compute` with every batch on the trainer's device, in evaluation mode, and `sink` with the outputs."""
        loader = self._loader()
        dataset = getattr(loader, "dataset", None)
        total = None if dataset is None or not hasattr(dataset, "__len__") else len(dataset)
        seen = 0
        with reporting(self._title, total=total, unit="rows") as report:

            def keep(ids: list[str], outputs: Any) -> None:
                nonlocal seen
                sink(ids or [str(seen + row) for row in range(_count(outputs))], outputs)
                seen += _count(outputs)
                report.reach(seen)

            self._predict(_Inference(self.model, compute, keep, begin=report.begin), loader)

    def run_in_parts(
        self, compute: Compute, rows: Rows, *, path: Path, settings: Mapping[str, Any], directory: Path
    ) -> PartFolder:
        """Compute the missing parts of a table, in all processes, and return it.

        Args:
            compute: see `run`.
            rows: makes the rows of a batch.
            path: folder of the parts.
            settings: settings of the mode that determine the rows.
            directory: the run directory.

        Raises:
            ValueError: the folder holds parts of other settings, another checkpoint, or other data.
            BlockingIOError: another run writes to the directory.
        """
        loader = self._loader()
        with RunDirectory(directory).locked():
            run = {**self.settings, **settings}
            if process_rank() == 0:
                run["checkpoint"] = _digest(self.file)
            folder = PartFolder.prepared(path, rows=rows_of(loader), rows_per_part=self.rows_per_part, run=run)
            finished = folder.finished()
            done = sum(len(folder.span(part)) for part in finished)
            if process_rank() == 0:
                _require_same_rows(folder, finished, loader)
                earlier = f", {len(finished):,} of them complete" if finished else ""
                sys.stdout.write(
                    f"{path}: {folder.count:,} parts of {folder.rows_per_part:,} rows{earlier}; if interrupted, "
                    f"{continuing(directory)}\n"
                )
                sys.stdout.flush()
            self._compute(compute, rows, PartLoader(loader, folder, unfinished(folder)), folder, done=done)
            if missing := folder.count - len(folder.finished()):
                raise RuntimeError(f"{path}: {missing} of {folder.count} parts are missing. Run the same command again.")
        return folder

    def _compute(self, compute: Compute, rows: Rows, loader: PartLoader, folder: PartFolder, *, done: int) -> None:
        counter = Counter("rows", start=done)
        with (
            reporting(self._title, total=folder.rows, unit="rows", start=done) as report,
            PartWriter(folder) as table,
        ):

            def keep(ids: list[str], outputs: Any) -> None:
                place: Place = loader.places.popleft()
                count = _count(outputs)
                ids = ids or [str(place.first + row) for row in range(count)]
                table.write(place, rows(ids, outputs, place.first))
                report.reach(counter.add(count))

            self._predict(_Inference(self.model, compute, keep, begin=report.begin), loader)
        self.trainer.strategy.barrier("parts")

    def _loader(self) -> Any:
        self.data.prepare_data()
        self.data.setup("predict")
        return self.data.predict_dataloader()

    def _predict(self, module: _Inference, loader: Any) -> None:
        """Run Lightning's prediction over a loader, with the hooks of the data module."""
        self.data.predict_dataloader = lambda: loader  # type: ignore[method-assign]
        until_interrupted(self.trainer, lambda: self.trainer.predict(module, datamodule=self.data, return_predictions=False))

    @property
    def _title(self) -> str:
        return str(self.file.parent.parent.name if self.file.parent.name == "checkpoints" else self.file.name)


class _Inference(LightningModule):
    """The module that Lightning's prediction loop calls."""

    def __init__(self, model: Perceiver, compute: Compute, sink: Sink, *, begin: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.model = model
        self.compute_batch = compute
        self.sink = sink
        self.begin = begin

    def setup(self, stage: str) -> None:
        """Keep times in float64, whatever the trainer's precision; see `cast_inputs_alone`."""
        cast_inputs_alone(self.trainer.precision_plugin)

    def on_predict_start(self) -> None:
        """Start the clock: all processes run."""
        self.begin()

    def predict_step(self, batch: Batch, batch_idx: int) -> int:
        """Process a batch and return its number of samples, since Lightning warns about None."""
        outputs = self.compute_batch(batch)
        self.sink(list(batch.ids), outputs.float().cpu() if isinstance(outputs, Tensor) else outputs.cpu())
        return batch.size


def _trainer(config: DictConfig, *, in_parts: bool) -> Trainer:
    """Return the configured trainer; on a single device unless parts or processes are asked for."""
    settings = OmegaConf.to_container(config.trainer, resolve=True)
    assert isinstance(settings, dict)
    strategy = settings.get("strategy")
    parallel = in_parts or "DDPStrategy" in str(strategy.get("_target_") if isinstance(strategy, dict) else strategy)
    if not parallel:
        settings |= {"devices": 1, "num_nodes": 1}
    trainer: Trainer = instantiate({**settings, "_partial_": True}, _convert_="all")(
        logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    if not isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy):
        raise ValueError(
            f"trainer: {type(trainer.strategy).__name__} cannot compute parts, whose number differs between processes. Use "
            "trainer=ddp, or trainer=single."
        )
    start_ranks_by_job(trainer, Path(config.run_dir))
    return trainer


def _count(outputs: Any) -> int:
    return len(outputs) if isinstance(outputs, Tensor) else len(outputs.ids)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _require_same_rows(folder: PartFolder, finished: list[int], loader: Any) -> None:
    """Compare the ids of some complete parts with those of the data, since files may change while settings do not."""
    for part in sorted({*finished[:1], *finished[-1:]}):
        row = folder.span(part).start
        [id_] = samples_at(loader, row).ids or [str(row)]
        before = pa.parquet.ParquetFile(folder.file(part)).read_row_group(0, columns=["id"])["id"][0].as_py()
        if before != id_:
            raise ValueError(
                f"{folder.path}: row {row:,} has the id {before!r} there, and {id_!r} in the data, which has changed. "
                "Choose another directory."
            )
