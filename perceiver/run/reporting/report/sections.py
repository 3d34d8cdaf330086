"""The sections of report.html, made from a run's configuration, spec, metrics, files and test outputs."""

from __future__ import annotations

import csv
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from perceiver.plots.training.learning_curves import Curve
from perceiver.run.configuration.command_line import typed_override
from perceiver.run.configuration.yaml_file import to_yaml
from perceiver.run.reporting.report.outcomes import ClassResult, Interval
from perceiver.run.reporting.report.page import code, folded, image_file, paragraph, table

_LIBRARIES = ("torch", "lightning", "hydra-core", "torchmetrics", "numpy")
_CAPTIONS = {
    "samples": "Samples with their predictions",
    "attention": "What latents attend to",
    "latents": "Attention of single latents",
    "attention_modalities": "Share of attention by modality",
    "confusion": "Confusion matrix",
    "reconstruction": "Reconstructions",
}
_MOST_CLASSES = 200
_MOST_REASONS = 100


def overview(metrics: Mapping[str, Any], intervals: Mapping[str, Interval], directory: Path) -> str:
    """Test and validation metrics, with intervals where they are known, and how to load the model."""
    rows: list[Sequence[object]] = []
    for stage in ("test", "val", "train"):
        for name in sorted(name for name in metrics if name.startswith(f"{stage}/") and name.count("/") == 1):
            interval = intervals.get(name)
            shown = "" if interval is None else f"{interval.low:.4g} to {interval.high:.4g}"
            rows.append([stage, name.partition("/")[2].replace("_", " "), float(metrics[name]), shown])
    return (
        table(["split", "metric", "value", "95% interval"], rows)
        + (paragraph("Intervals: bootstrap over the samples of the test split, 1000 resamples.") if intervals else "")
        + code(
            f'import perceiver\nmodel = perceiver.load("{directory}")\nmodel.predict(samples)\n\n'
            f"# without PyTorch\npython train.py mode=export {typed_override('ckpt_path', directory)}"
        )
    )


def data_section(spec: Mapping[str, Any], config: Mapping[str, Any], *, left_out: Sequence[str] = ()) -> str:
    """Modalities, how columns are read, classes and counts, and the reasons for samples that were left out."""
    rows = []
    for name, entry in sorted(spec.get("modalities", {}).items()):
        facts = {key: value for key, value in entry.items() if key not in ("kind", "mean", "std") and value is not None}
        normalised = "by mean and standard deviation of the training split" if "mean" in entry else "–"
        rows.append(
            [name, entry.get("kind", ""), "; ".join(f"{key}: {_short(value)}" for key, value in facts.items()), normalised]
        )
    parts = [table(["modality", "kind", "read as", "normalised"], rows)]
    target = spec.get("target") or {}
    names, counts = target.get("names") or [], target.get("counts") or target.get("positives") or []
    if names and len(counts) == len(names):
        total = max(1, sum(counts))
        parts.append(paragraph(f"Target: {target.get('kind')}, {len(names)} of them. Training split:"))
        shown = list(zip(names, counts, strict=True))[:_MOST_CLASSES]
        parts.append(table(["class", "training samples", "share"], [[name, int(n), n / total] for name, n in shown]))
    elif names:
        facts = {key: value for key, value in target.items() if key not in ("kind", "names")}
        parts.append(paragraph(f"Target: {target.get('kind')}: {', '.join(map(str, names[:_MOST_CLASSES]))}."))
        parts.append(paragraph("; ".join(f"{key}: {_short(value)}" for key, value in facts.items())))
    if left_out:
        more = f"\n… and {len(left_out) - _MOST_REASONS:,} more" if len(left_out) > _MOST_REASONS else ""
        listed = "\n".join(_short(reason) for reason in left_out[:_MOST_REASONS])
        parts.append(folded(f"Left out: {len(left_out):,} samples", code(listed + more)))
    data = config.get("data")
    return "".join(parts) + (folded("Settings of the data", code(to_yaml(data))) if isinstance(data, Mapping) else "")


def classes_section(results: Sequence[ClassResult]) -> str:
    """Precision, recall and F1 of each class."""
    rows = [[one.name, one.samples, one.precision, one.recall, one.f1] for one in results[:_MOST_CLASSES]]
    return table(["class", "test samples", "precision", "recall", "F1"], rows)


def figures_section(folder: Path, *, leave_out: Sequence[str] = ()) -> str:
    """All figures of the run directory."""
    parts = []
    for file in sorted(folder.glob("*.png")):
        if file.stem not in leave_out:
            caption = next((text for name, text in _CAPTIONS.items() if file.stem.startswith(name)), file.stem)
            stage = file.stem.rpartition("_")[2]
            parts.append(image_file(file, f"{caption} ({stage})" if stage in ("val", "test") else caption))
    texts = [folded(file.stem, code(file.read_text(errors="replace")[:20_000])) for file in sorted(folder.glob("*.txt"))]
    return "".join(parts + texts)


def cost_section(metrics: Mapping[str, Any], cost: Mapping[str, object]) -> str:
    """Time, memory, size."""
    rows: list[Sequence[object]] = [["parameters", int(metrics["parameters"])]] if "parameters" in metrics else []
    if "seconds" in metrics:
        rows.append(["seconds", float(metrics["seconds"])])
    if "epochs" in metrics:
        rows.append(["epochs", int(metrics["epochs"])])
    if "best_epoch" in metrics:
        rows.append(["best epoch", int(metrics["best_epoch"]) + 1])
    return table(["", ""], [*rows, *([name, value] for name, value in cost.items())])


def model_section(summary: str, config: Mapping[str, Any]) -> str:
    """The table of the model, and its configuration."""
    model = config.get("model")
    settings = folded("Configuration of the model", code(to_yaml(model))) if isinstance(model, Mapping) else ""
    return (code(summary) if summary else "") + settings


def configuration_section(config: Mapping[str, Any]) -> str:
    """The resolved configuration, as config.yaml has it."""
    return folded("config.yaml", code(to_yaml(config)))


def versions_section() -> str:
    """Versions of the libraries, the commit, the machine."""
    rows: list[Sequence[object]] = [["perceiver-multimodal", _version("perceiver-multimodal")], ["commit", _commit()]]
    rows += [[name, _version(name)] for name in _LIBRARIES]
    rows += [["Python", platform.python_version()], ["system", f"{platform.system()} {platform.machine()}"]]
    return table(["", ""], rows)


def curves_of(file: Path) -> dict[str, Curve]:
    """Return the curves in a run's csv/metrics.csv; the last value of an epoch counts. Empty without a readable table."""
    try:
        with file.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, csv.Error, UnicodeDecodeError):
        return {}
    curves: dict[str, dict[float, float]] = {}
    for row in rows:
        try:
            epoch = float(row.get("epoch") or "nan")
        except ValueError:
            continue
        for name, value in row.items():
            if name and "/" in name and not name.startswith("test/") and value and epoch == epoch:
                try:
                    curves.setdefault(name, {})[epoch + 1] = float(value)
                except ValueError:
                    continue
    return {name: sorted(points.items()) for name, points in curves.items()}


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= 200 else f"{text[:200]} …"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "–"


def _commit() -> str:
    """The commit of a clone; "–" for an installed package."""
    root = Path(__file__).resolve().parents[4]
    if not (root / ".git").exists():
        return "–"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "–"
    return found.stdout.strip() or "–"
