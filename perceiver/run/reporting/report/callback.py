"""The callback that collects what report.html needs, and writes it at the end of a run."""

from __future__ import annotations

import resource
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from perceiver.data.loading.source import Source
from perceiver.plots.rendering import literal_texts, png_of
from perceiver.plots.supervised.calibration import reliability_diagram
from perceiver.plots.training.learning_curves import learning_curves
from perceiver.run.reporting.console import summary_of
from perceiver.run.reporting.report import sections
from perceiver.run.reporting.report.outcomes import Collected, Interval, bootstrap, by_class, calibration
from perceiver.run.reporting.report.page import image, page, paragraph
from perceiver.run.reporting.whole_model import whole_model
from perceiver.runtime.files import atomic_write
from perceiver.samples.batch import Batch

NAME = "report.html"
CURVES, CALIBRATION = "learning_curves.png", "calibration_test.png"
_MOST_ELEMENTS = 10**8  # of the test outputs that are kept in memory


class Report(Callback):
    """Writes `report.html`, `figures/learning_curves.png` and `figures/calibration_test.png` into the run directory.

    The report is one file without links to others: metrics with confidence intervals, learning curves, results by class,
    calibration, all figures, data, model, cost, configuration and versions. Intervals, classes and calibration need the test
    outputs in a single process; in several processes they are left out. An error is only a warning.

    Args:
        directory: the run directory.
    """

    def __init__(self, *, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._collected = Collected([], [])
        self._last: Any = None
        self._hook: Any = None
        self._first: Batch | None = None
        self._tested_samples, self._test_seconds, self._started = 0, 0.0, 0.0

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to collect the outputs of the head."""
        model = whole_model(trainer, pl_module)
        self._collected, self._tested_samples, self._started = Collected([], []), 0, time.perf_counter()
        if model is not None and trainer.world_size == 1:
            self._hook = model.head.register_forward_hook(self._keep)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the outputs `(B, c)` of a batch with targets."""
        self._tested_samples += batch.size
        made, self._last = self._last, None
        self._first = batch.rows(slice(1)) if self._first is None else self._first
        if isinstance(made, Tensor) and made.ndim == 2 and len(made) == batch.size and batch.target is not None:
            self._collected.elements += made.numel()
            if self._collected.elements <= _MOST_ELEMENTS:
                self._collected.outputs.append(made.detach().float().cpu())
                self._collected.targets.append(batch.target.detach().cpu())

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop collecting."""
        self._test_seconds = time.perf_counter() - self._started
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def write(self, trainer: Trainer, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        """Write the figures and the report; an error is only a warning.

        Args:
            trainer: the trainer, after its work.
            config: the resolved configuration with the spec.
            metrics: the metrics of the run, as in metrics.json.
        """
        if not trainer.is_global_zero:
            return
        try:
            with literal_texts():
                self._write(trainer, config, metrics)
        except Exception as error:
            warnings.warn(f"{NAME} is left out: {type(error).__name__}: {error}")

    def _keep(self, module: Any, arguments: Any, output: Any) -> None:
        self._last = output

    def _write(self, trainer: Trainer, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        spec = config.get("spec") or {}
        folder = self.directory / "figures"
        curves = self._draw(
            learning_curves(
                sections.curves_of(self.directory / "csv" / "metrics.csv"),
                best_epoch=metrics["best_epoch"] + 1 if "best_epoch" in metrics else None,
            ),
            folder / CURVES,
        )
        names = [str(name) for name in (spec.get("target") or {}).get("names") or []]
        joined = self._collected.joined() if self._collected.elements <= _MOST_ELEMENTS else None
        intervals: dict[str, Interval] = {}
        classes = reliability = ""
        if joined is not None:
            intervals = _intervals(*joined, metrics=metrics)
            if _is_classification(*joined) and len(names) == joined[0].shape[1]:
                classes = sections.classes_section(by_class(*joined, names))
                bins, error = calibration(*joined)
                drawn = self._draw(reliability_diagram(bins, error=error), folder / CALIBRATION)
                reliability = paragraph(f"Expected calibration error: {error:.4f}, in 15 bins of equal width.") + image(
                    drawn or b"", "Reliability: share of correct predictions by probability (test)"
                )
        cost: dict[str, object] = {"device": str(trainer.strategy.root_device), "peak memory, GB": _peak_gigabytes()}
        if self._test_seconds and self._tested_samples:
            cost["test, samples per second"] = self._tested_samples / self._test_seconds
        own = (Path(CURVES).stem, Path(CALIBRATION).stem)
        content = page(
            str(self.directory.name),
            f"Run directory {self.directory}",
            {
                "Results": sections.overview(metrics, intervals, self.directory),
                "Learning curves": image(curves, "Metrics over the epochs") if curves else "",
                "Classes": classes,
                "Calibration": reliability,
                "Figures": sections.figures_section(folder, leave_out=own),
                "Data": sections.data_section(spec, config, left_out=_left_out(trainer)),
                "Model": sections.model_section(self._summary(trainer), config),
                "Cost": sections.cost_section(metrics, cost),
                "Configuration": sections.configuration_section(config),
                "Versions": sections.versions_section(),
            },
        )
        with atomic_write(self.directory / NAME) as file:
            file.write(content.encode("utf-8", errors="replace"))

    def _summary(self, trainer: Trainer) -> str:
        """The table of the model; empty without a test, or if its parameters are sharded."""
        model = None if self._first is None else whole_model(trainer, trainer.lightning_module)
        if self._first is None or model is None:
            return ""
        # Tests run in inference mode, whose tensors cannot be differentiated.
        copied = self._first.to("cpu")
        inputs: dict[str, Any] = {
            name: x.clone() if isinstance(x, Tensor) else {key: part.clone() for key, part in x.items()}
            for name, x in copied.inputs.items()
        }
        device = next(model.parameters()).device
        target = None if copied.target is None else copied.target.clone()
        masks = {name: mask.clone() for name, mask in copied.masks.items()}
        return str(summary_of(model, Batch(inputs=inputs, masks=masks, target=target).to(device)))

    def _draw(self, figure: Figure | None, path: Path) -> bytes | None:
        if figure is None:
            return None
        picture = png_of(figure, dpi=90)
        with atomic_write(path) as file:
            file.write(picture)
        return picture


def write_report(trainer: Trainer, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Write the report of a run, if its trainer has the callback."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Report):
            callback.write(trainer, config, metrics)


def _is_classification(outputs: Tensor, target: Tensor) -> bool:
    return target.ndim == 1 and not target.is_floating_point()


def _intervals(outputs: Tensor, target: Tensor, *, metrics: Mapping[str, Any]) -> dict[str, Interval]:
    """Return intervals of those test metrics that are means over samples: those that the samples' values reproduce."""
    values: dict[str, Tensor] = {}
    if _is_classification(outputs, target):
        values["test/accuracy"] = (outputs.argmax(dim=1) == target).double()
        values["test/loss"] = F.cross_entropy(outputs, target, reduction="none")
    elif target.shape == outputs.shape and bool(((target == 0) | (target == 1)).all()):
        values["test/loss"] = F.binary_cross_entropy_with_logits(outputs, target.float(), reduction="none").mean(dim=1)
    elif target.numel() == outputs.numel():
        values["test/loss"] = (outputs - target.reshape(outputs.shape).float()).square().mean(dim=1)
    return {
        name: bootstrap(own.numpy())
        for name, own in values.items()
        if name in metrics and abs(float(own.mean()) - float(metrics[name])) <= 1e-3 * max(1.0, abs(float(metrics[name])))
    }


def _peak_gigabytes() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == "darwin" else 1024 * peak) / 2**30


def _left_out(trainer: Trainer) -> list[str]:
    """Return the reasons for samples that the data left out; empty for data modules of other packages."""
    source = getattr(getattr(trainer, "datamodule", None), "source", None)
    return source.left_out if isinstance(source, Source) else []
