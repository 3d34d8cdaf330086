"""Embeddings of raw samples, and classification by the names of the classes alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from perceiver.targets.predict import batches_of
from perceiver.targets.predictions import Prediction

Forward = Callable[[Mapping[str, Any], Mapping[str, Tensor]], Tensor]


def embed(
    forward: Forward,
    spec: Mapping[str, Any] | None,
    samples: Any,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    open_files: bool = True,
) -> Tensor:
    """Embed raw samples; the caller sets evaluation mode. See `Perceiver.embed`.

    Args:
        forward: inputs and masks of B samples -> embeddings `(B, E)`.
        spec: spec with modalities.
        samples: one sample, or an iterable of samples.
        batch_size: number of samples at a time.
        device: device for the inputs of `forward`.
        open_files: whether strings and paths name files to open.
    """
    modalities = (spec or {}).get("modalities")
    if not modalities:
        raise ValueError("embed: expected a model whose spec has modalities, such as one from perceiver.load.")
    batches = batches_of(samples, modalities, batch_size=batch_size, device=device, open_files=open_files)
    found = [forward(batch.inputs, batch.masks).cpu() for batch in batches]
    if not found:
        raise ValueError("embed: expected at least one sample, got none.")
    return torch.cat(found)


def names_as_samples(spec: Mapping[str, Any] | None, names: Sequence[Any], modality: str | None) -> list[dict[str, Any]]:
    """Return a sample of one modality for the name of each class.

    Args:
        spec: spec with modalities.
        names: a raw value of the modality for each class.
        modality: the modality; None: the only one of kind text.

    Raises:
        ValueError: without names, or if the modality is not clear.
    """
    specs = (spec or {}).get("modalities", {})
    texts = [name for name, one in specs.items() if one.get("kind") == "text"]
    chosen = modality if modality is not None or len(texts) != 1 else texts[0]
    if chosen is None or chosen not in specs or len(names) == 0:
        raise ValueError(
            f"zero_shot: expected a name for each class, and `modality`, one of {sorted(specs)}, for them; got "
            f"{len(names)} names and modality={modality!r}."
        )
    return [{chosen: name} for name in names]


def by_similarity(similarities: Tensor, names: Sequence[Any]) -> list[Prediction]:
    """Return the class of each sample by a softmax over `(S, classes)`; classes without a written name are numbers."""
    shown = [name if isinstance(name, str) else str(number) for number, name in enumerate(names)]
    predictions = []
    for row in similarities.float().softmax(dim=1).cpu():
        best = int(row.argmax())
        predictions.append(Prediction(shown[best], float(row[best]), dict(zip(shown, row.tolist(), strict=True))))
    return predictions
