"""Predictions on a grid: a class for each pixel, or a field of values such as optical flow.

The functions `segmentation_target`, `field_target` and `flow_target` make the entry `target` of the spec for a data module.
It names the modality whose grid the target shares, so that predictions of padded samples can be cropped to size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from perceiver.targets.comparison import Comparison
from perceiver.targets.predictions import FieldPrediction, SegmentationPrediction
from perceiver.tokens.masks import extents

FLOW_NAMES = ("x", "y")
"""Channels of a flow field: motion to the right and down, in pixels."""


@dataclass(frozen=True)
class SegmentationTarget:
    """Target with one class per pixel; outputs are logits.

    Args:
        names: class names 0, 1, …
        modality: modality whose grid the target shares.
    """

    names: Sequence[str]
    modality: str

    def predict(self, outputs: Float[Tensor, "batch *grid classes"]) -> list[SegmentationPrediction]:
        """Return predictions by a softmax over the classes."""
        names = tuple(self.names)
        probabilities = outputs.float().softmax(dim=-1).movedim(-1, 1).cpu()
        return [SegmentationPrediction(one.argmax(dim=0).numpy(), one.numpy(), names) for one in probabilities]

    def compare(self, outputs: Float[Tensor, "batch *grid classes"], target: Int[Tensor, "batch *grid"]) -> list[Comparison]:
        """Compare by the share of wrong pixels, over all pixels."""
        wrong = (outputs.argmax(dim=-1) != target).flatten(1).float().mean(dim=1).tolist()
        found = [sorted(set(one.classes.ravel().tolist())) for one in self.predict(outputs)]
        truths = [sorted(set(row.flatten().tolist())) for row in target]
        return [
            Comparison(
                predicted=", ".join(self.names[number] for number in predicted),
                true=", ".join(self.names[number] for number in true),
                correct=loss == 0,
                loss=loss,
            )
            for predicted, true, loss in zip(found, truths, wrong, strict=True)
        ]


@dataclass(frozen=True)
class FieldTarget:
    """Target with values per pixel; outputs are normalised, `(value - mean) / std`.

    Args:
        names: value names, in the order of the outputs.
        mean, std: mean and standard deviation per value, in the units of the data.
        modality: modality whose grid the target shares.
    """

    names: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    modality: str

    @classmethod
    def of(cls, target: Mapping[str, Any]) -> FieldTarget:
        """Make the target from the spec's entry."""
        return cls(names=target["names"], mean=target["mean"], std=target["std"], modality=target["modality"])

    def values(self, outputs: Float[Tensor, "batch *grid values"]) -> Float[Tensor, "batch values *grid"]:
        """Return values with normalisation undone, channels first, in float32."""
        mean, std = (torch.tensor(numbers, dtype=torch.float32, device=outputs.device) for numbers in (self.mean, self.std))
        return (outputs.float() * std + mean).movedim(-1, 1)

    def predict(self, outputs: Float[Tensor, "batch *grid values"]) -> list[FieldPrediction]:
        """Return predictions with normalisation undone."""
        names = tuple(self.names)
        return [FieldPrediction(one.numpy(), names) for one in self.values(outputs).cpu()]

    def compare(
        self, outputs: Float[Tensor, "batch *grid values"], target: Float[Tensor, "batch values *grid"]
    ) -> list[Comparison]:
        """Compare by the mean end-point error over all pixels."""
        errors = torch.linalg.vector_norm(self.values(outputs) - target, dim=1).flatten(1).mean(dim=1).tolist()
        lengths = torch.linalg.vector_norm(target.float(), dim=1).flatten(1).mean(dim=1).tolist()
        return [
            Comparison(predicted=f"error {error:.3g}", true=f"length {length:.3g}", correct=None, loss=error)
            for error, length in zip(errors, lengths, strict=True)
        ]


def cut_to_size(predictions: Sequence[Any], *, target: Any, masks: Mapping[str, Tensor]) -> list[Any]:
    """Remove the batch padding from predictions on grids; return other predictions unchanged.

    Args:
        predictions: predictions for B samples.
        target: target that made them.
        masks: masks of the batch; the mask of the target's modality gives the size of each sample.
    """
    mask = masks.get(getattr(target, "modality", ""))
    if mask is None or mask.ndim < 3:
        return list(predictions)
    rows, columns = (sizes.tolist() for sizes in extents(mask)[-2:])
    return [one.cut(height, width) for one, height, width in zip(predictions, rows, columns, strict=True)]


def segmentation_target(*, names: Sequence[str], counts: Sequence[int], modality: str) -> dict[str, Any]:
    """Return the spec's entry `target` for a class per pixel.

    Args:
        names: class names.
        counts: number of pixels of each class in the training split, or in a part of it.
        modality: modality whose grid the target shares.
    """
    return {"kind": "segmentation", "names": list(names), "counts": list(counts), "modality": modality}


def field_target(*, names: Sequence[str], mean: Sequence[float], std: Sequence[float], modality: str) -> dict[str, Any]:
    """Return the spec's entry `target` for values per pixel.

    Args:
        names: value names.
        mean, std: mean and standard deviation per value over the valid pixels of the training split, or of a part of it.
        modality: modality whose grid the target shares.

    Raises:
        ValueError: unless every value has a mean and a standard deviation above 0.
    """
    if not len(names) == len(mean) == len(std) > 0 or not all(map(math.isfinite, [*mean, *std])) or min(std) <= 0:
        raise ValueError(
            f"field_target: expected a finite mean and a standard deviation above 0 for each of {list(names)}, got "
            f"{list(mean)} and {list(std)}."
        )
    return {"kind": "field", "names": list(names), "mean": list(mean), "std": list(std), "modality": modality}


def flow_target(
    *, flow: Float[Tensor, "samples 2 *grid"], mask: Shaped[Tensor, "samples *grid"], modality: str
) -> dict[str, Any]:
    """Return the spec's entry `target` for optical flow, normalised by its root mean square over both directions.

    No mean is subtracted, so that 0 means no motion.

    Args:
        flow: flow of the training split, or of a part of it.
        mask: where the flow is valid.
        modality: modality of the frames.

    Raises:
        ValueError: if there is no motion, or no valid pixel.
    """
    squares = flow.double().square().mean(dim=1)[mask]
    scale = float(squares.mean().sqrt()) if len(squares) else 0.0
    if not math.isfinite(scale) or scale == 0:
        raise ValueError(
            f"flow_target: expected motion in some valid pixel, got a root mean square of {scale} over {len(squares)}."
        )
    target = field_target(names=FLOW_NAMES, mean=[0.0, 0.0], std=[scale, scale], modality=modality)
    return {**target, "kind": "flow"}
