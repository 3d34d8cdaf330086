"""Figures of predictions on a grid and their truth: class maps with a legend, fields of values, flow colours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.utils import flow_to_image

from perceiver.model import Perceiver
from perceiver.plots.evaluation import modalities_of, on_device
from perceiver.plots.inputs import singles
from perceiver.plots.rendering import literal_texts
from perceiver.runtime.evaluating import evaluating
from perceiver.samples.batch import Batch
from perceiver.targets.kinds import target_of
from perceiver.targets.pixels import FieldTarget, SegmentationTarget, cut_to_size
from perceiver.targets.predictions import FieldPrediction

_SIDE = 1.7
"""Width of a picture in inches."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One sample as a figure shows it, on the CPU.

    Args:
        x: the input of the target's modality, in the units before normalisation.
        prediction: prediction of the model.
        truth: target `(*grid)` or `(E, *grid)`, on the grid of the prediction.
        valid: validity of the target, `(*grid)`.
    """

    x: Tensor
    prediction: Any
    truth: Tensor
    valid: Tensor


def shown_samples(model: Perceiver, batches: Iterable[Batch], *, target: Any, count: int) -> list[Shown]:
    """Return the first samples with targets.

    Args:
        model: model with a spec.
        batches: batches as in training, read only as far as needed.
        target: interpretation of the outputs.
        count: number of samples.
    """
    made: list[Shown] = []
    specs = modalities_of(model)
    with evaluating(model):
        for batch in on_device(model, batches):
            if batch.target is None or target.modality not in batch.inputs:
                break
            predictions = cut_to_size(target.predict(model(batch.inputs, batch.masks)), target=target, masks=batch.masks)
            for row, single in enumerate(singles([batch], specs)):
                if target.modality not in single.inputs:
                    continue
                x, _ = single.shown(target.modality, specs[target.modality])
                height, width = x.shape[-2:]
                truth = batch.target[row, ..., :height, :width].cpu()
                mask = batch.target_mask
                valid = torch.ones(height, width, dtype=torch.bool) if mask is None else mask[row, :height, :width].cpu()
                made.append(Shown(x=x, prediction=predictions[row], truth=truth, valid=valid))
                if len(made) == count:
                    return made
    return made


class Segmentations:
    """Figure of several samples: image, true classes and predicted classes, with a legend.

    Args:
        num_samples: number of samples, from the start of the data.
    """

    def __init__(self, *, num_samples: int = 6) -> None:
        _check(num_samples, owner="Segmentations")
        self.num_samples = num_samples

    @literal_texts()
    def __call__(self, model: Perceiver, batches: Iterable[Batch]) -> dict[str, Figure]:
        """Return `{"segmentation": figure}`; an empty dict for other models. Ignored pixels are white in the truth."""
        target = target_of(model.spec)
        shown = (
            shown_samples(model, batches, target=target, count=self.num_samples)
            if isinstance(target, SegmentationTarget)
            else []
        )
        if not shown or not isinstance(target, SegmentationTarget):
            return {}
        names = list(target.names)
        colours = class_colours(len(names))
        picture = {"cmap": ListedColormap(colours), "norm": BoundaryNorm(np.arange(len(names) + 1) - 0.5, len(names))}
        figure = Figure(figsize=(len(shown) * _SIDE + 1.6, 3 * (_height(shown) + 0.2) + 0.2), layout="constrained")
        for column, one in enumerate(shown):
            truth = np.ma.array(one.truth.numpy(), mask=~one.valid.numpy())
            pictures: list[tuple[Any, dict[str, Any]]] = [
                (_picture(one.x), {}),
                (truth, picture),
                (one.prediction.classes, picture),
            ]
            for row, ((image, settings), title) in enumerate(zip(pictures, ("image", "true", "predicted"), strict=True)):
                axes = figure.add_subplot(3, len(shown), row * len(shown) + column + 1)
                axes.imshow(image, interpolation="nearest", **settings)
                axes.set(xticks=[], yticks=[])
                if column == 0:
                    axes.set_title(title, fontsize=8, loc="left")
        numbers = [np.append(one.truth[one.valid].numpy(), one.prediction.classes) for one in shown]
        found = np.unique(np.concatenate(numbers)).tolist()
        patches = [Patch(facecolor=colours[number], edgecolor="0.5", label=names[number]) for number in found]
        figure.legend(handles=patches, loc="outside right upper", fontsize=7)
        return {"segmentation": figure}


class Fields:
    """Figure of several samples: input, true values and predicted values, with directions as colours.

    Args:
        num_samples: number of samples, from the start of the data.
    """

    def __init__(self, *, num_samples: int = 6) -> None:
        _check(num_samples, owner="Fields")
        self.num_samples = num_samples

    @literal_texts()
    def __call__(self, model: Perceiver, batches: Iterable[Batch]) -> dict[str, Figure]:
        """Return `{"flow": figure}` or `{"field": figure}`; an empty dict for other models.

        Flow has the colours of `torchvision.utils.flow_to_image`, on the same scale for truth and prediction of a sample;
        other fields show their first value. Invalid pixels are grey in the truth; the title shows the end-point error.
        """
        target = target_of(model.spec)
        shown = (
            shown_samples(model, batches, target=target, count=self.num_samples) if isinstance(target, FieldTarget) else []
        )
        if not shown:
            return {}
        kind = str((model.spec or {})["target"]["kind"])
        rows = [self._pictures(one, kind) for one in shown]
        titles = [title for title, _, _ in rows[0]]
        size = ((len(shown) + 0.2) * _SIDE, len(titles) * (_height(shown) + 0.2) + 0.2)
        figure = Figure(figsize=size, layout="constrained")
        for column, (one, pictures) in enumerate(zip(shown, rows, strict=True)):
            for row, (title, image, settings) in enumerate(pictures):
                axes = figure.add_subplot(len(titles), len(shown), row * len(shown) + column + 1)
                axes.imshow(image, interpolation="nearest", **settings)
                axes.set(xticks=[], yticks=[])
                own = f"error {end_point_error(one):.2f}" if row == len(titles) - 1 else ""
                text = ", ".join(part for part in (title if column == 0 else "", own) if part)
                axes.set_title(text, fontsize=8, loc="left")
        return {kind: figure}

    def _pictures(self, one: Shown, kind: str) -> list[tuple[str, Any, dict[str, Any]]]:
        """Return title, picture and drawing options."""
        field = torch.from_numpy(one.prediction.values)
        hidden = ~one.valid
        if kind == "flow" and one.x.ndim == 4:
            frames: list[tuple[str, Any, dict[str, Any]]] = [
                (f"frame {n + 1}", _picture(one.x[:, n]), {}) for n in range(one.x.shape[1])
            ]
            # Same scale for both: the colours of a field depend on its largest vector.
            both = torch.cat([one.truth.float().masked_fill(hidden, 0.0), field], dim=-1)
            true, predicted = np.split(flow_to_image(both).movedim(0, -1).numpy().copy(), 2, axis=1)
            true[hidden.numpy()] = 128
            return [*frames, ("true flow", true, {}), ("predicted", predicted, {})]
        values = one.truth[0][one.valid]
        scale = {"vmin": float(values.min()), "vmax": float(values.max())} if len(values) else {}
        true = np.ma.array(one.truth[0].numpy(), mask=hidden.numpy())
        image = one.x[:, 0] if one.x.ndim == 4 else one.x
        return [("input", _picture(image), {}), ("true", true, scale), ("predicted", field[0].numpy(), scale)]


def end_point_error(one: Shown) -> float:
    """Return the mean Euclidean norm of the error over the valid pixels of a sample; NaN without valid pixels."""
    assert isinstance(one.prediction, FieldPrediction)
    errors = torch.linalg.vector_norm(torch.from_numpy(one.prediction.values) - one.truth, dim=0)
    return float(errors[one.valid].mean())


def class_colours(count: int) -> list[tuple[float, float, float, float]]:
    """Return a colour per class; up to 20 colours are easy to distinguish."""
    if count <= 20:
        # The ten saturated colours first, then the ten pale colours.
        return [matplotlib.colormaps["tab20"]((2 * n) % 20 + (2 * n) // 20) for n in range(count)]
    return [matplotlib.colormaps["hsv"](n / count) for n in range(count)]


def _picture(x: Tensor) -> NDArray[Any]:
    """Convert `(C, H, W)` in [0, 1] to colour for three channels, otherwise to their mean in grey."""
    pixels = np.nan_to_num(x.float().numpy()).clip(0.0, 1.0)
    coloured: NDArray[Any] = np.moveaxis(pixels, 0, -1) if len(pixels) == 3 else np.repeat(pixels.mean(0)[..., None], 3, -1)
    return coloured


def _height(shown: list[Shown]) -> float:
    """Return the height in inches of the tallest picture; all have the same width."""
    return _SIDE * min(max(one.x.shape[-2] / one.x.shape[-1] for one in shown), 2.0)


def _check(num_samples: int, *, owner: str) -> None:
    if num_samples < 1:
        raise ValueError(f"{owner}.num_samples: expected at least 1, got {num_samples}.")
