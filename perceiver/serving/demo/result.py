"""What the page shows for a sample: the prediction, the share of each modality, and what the model attends to."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from perceiver.inspection.explanation import explain
from perceiver.model import Perceiver
from perceiver.plots.attention.explanation import draw_contributions, words_html
from perceiver.plots.inputs import singles
from perceiver.samples.collate import Collate
from perceiver.targets.predict import prepare
from perceiver.targets.predictions import (
    PALETTE,
    FieldPrediction,
    LabelsPrediction,
    Prediction,
    SegmentationPrediction,
    TextPrediction,
    ValuesPrediction,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What the page shows.

    Args:
        probabilities: probability of each class or label; None for other targets.
        text: prediction as HTML, for values and texts; None for other targets.
        image: prediction as an image, for targets on a grid; None for other targets.
        shares: share of each modality in the prediction.
        looks: where the model looks, by modality: an image, or HTML of a text.
    """

    probabilities: dict[str, float] | None = None
    text: str | None = None
    image: Image.Image | None = None
    shares: dict[str, float]
    looks: dict[str, Image.Image | str]


def result_of(model: Perceiver, raw: Mapping[str, Any]) -> Result:
    """Predict for a raw sample and explain the prediction.

    Args:
        model: a model with a spec.
        raw: values by modality, decoded: no value names a file.

    Raises:
        ValueError, TypeError: if the sample does not fit the spec.
    """
    assert model.spec is not None
    modalities = model.spec["modalities"]
    sample = prepare(raw, modalities, number=0, open_files=False)
    batch = Collate(modalities=modalities)([sample]).to(next(model.parameters()).device)
    found = explain(model, dict(raw))
    [single] = singles([batch], modalities)
    looks: dict[str, Image.Image | str] = {}
    for name, contributions in found.tokens.items():
        spec = modalities[name]
        if spec.get("kind") == "text" and isinstance(raw[name], str):
            looks[name] = words_html(raw[name], contributions, spec=spec)
        else:
            x, mask = single.shown(name, spec)
            adapter = model.adapters[name]
            figure = draw_contributions(x, mask, contributions, spec=spec, adapter=adapter)
            file = io.BytesIO()
            figure.savefig(file, format="png")
            looks[name] = Image.open(file)
    return Result(**_shown(found.prediction), shares=found.modalities, looks=looks)


def _shown(prediction: Any) -> dict[str, Any]:
    match prediction:
        case Prediction() | LabelsPrediction():
            return {"probabilities": prediction.probabilities}
        case ValuesPrediction():
            values = prediction.values.items()
            rows = (f"<tr><td>{html.escape(name)}</td><td>{value:.6g}</td></tr>" for name, value in values)
            return {"text": f"<table>{''.join(rows)}</table>"}
        case TextPrediction():
            return {"text": f"<p style='font-size:1.2em'>{html.escape(prediction.text)}</p>"}
        case SegmentationPrediction():
            return {"image": _large(_coloured(prediction.classes)), "text": _legend(prediction)}
        case FieldPrediction():
            names = ", ".join(html.escape(name) for name in prediction.names)
            return {"image": _large(_grey(prediction.values)), "text": f"<p>{names}, side by side</p>"}
    return {"text": html.escape(str(prediction))}


def _coloured(classes: NDArray[np.int64]) -> Image.Image:
    colours = np.frombuffer(bytes.fromhex(PALETTE), np.uint8).reshape(-1, 3)
    return Image.fromarray(colours[classes % len(colours)])


def _legend(prediction: SegmentationPrediction) -> str:
    entries = [
        f"<span style='color:#{PALETTE[6 * (number % 20) : 6 * (number % 20) + 6]}'>■</span> {html.escape(name)} {share:.0%}"
        for number, (name, share) in enumerate(prediction.shares.items())
        if share > 0
    ]
    return f"<p>{' &nbsp; '.join(entries)}</p>"


def _grey(values: NDArray[np.float32]) -> Image.Image:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    scaled = np.nan_to_num((values - low) / (high - low or 1.0)) * 255
    return Image.fromarray(np.concatenate(list(scaled.astype(np.uint8)), axis=1))


def _large(image: Image.Image) -> Image.Image:
    factor = max(1, 320 // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
