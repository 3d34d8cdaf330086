"""What a preset knows of the data."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from perceiver.samples.batch import first_tensor

MOST_SAMPLES = 64
"""Training samples whose sizes are measured."""


@dataclass(frozen=True, kw_only=True)
class ModalityFacts:
    """Size of a modality's samples.

    Args:
        kind: kind of the modality.
        shape: the largest size along every axis among the measured samples: `(C, H, W)`, `(C, samples)`, `(T, values)`, …
        seconds: duration of the longest measured sample; None if the kind has none.
        sample_rate: in hertz; None for other kinds than sound.
        free: whether neither the command line nor a pretrained network chooses the adapter.
        pretrained: whether a pretrained network is the adapter.
    """

    kind: str
    shape: tuple[int, ...]
    seconds: float | None = None
    sample_rate: int | None = None
    free: bool = True
    pretrained: bool = False


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rules of a preset depend on.

    Args:
        samples: number of training samples.
        validation: number of validation samples.
        target: kind of the target: classes, labels or values.
        outputs: number of classes, labels or values.
        modalities: by name.
        settings: values of settings that are not the preset's to choose, by key.
        accumulated: batches per training step.
    """

    samples: int
    validation: int
    target: str
    outputs: int
    modalities: Mapping[str, ModalityFacts]
    settings: Mapping[str, Any] = field(default_factory=dict)
    accumulated: int = 1


def facts_of(
    training: Any,
    validation: Any,
    spec: Mapping[str, Any],
    *,
    chosen: Collection[str] = (),
    pretrained: Collection[str] = (),
    settings: Mapping[str, Any] | None = None,
    accumulated: int = 1,
    seed: int = 0,
) -> Facts:
    """Measure the data.

    Args:
        training, validation: the splits; up to `MOST_SAMPLES` training samples are read.
        spec: spec of the data.
        chosen: modalities whose adapter is chosen already.
        pretrained: modalities with a pretrained network.
        settings, accumulated: see `Facts`.
        seed: seed of random cuts of samples that are read; the random state is kept.

    Raises:
        ValueError: the number of samples is unknown, or the target is none of classes, labels and values.
    """
    target = spec.get("target") or {}
    if target.get("kind") not in ("classes", "labels", "values"):
        raise ValueError(
            f"preset: expected null, because presets are for targets that are classes, labels or values, and this target is "
            f"of kind {target.get('kind')}."
        )
    if not hasattr(training, "__len__"):
        raise ValueError("preset: expected null, because the number of training samples of this data is unknown.")
    shapes: dict[str, tuple[int, ...]] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for number in torch.linspace(0, len(training) - 1, min(len(training), MOST_SAMPLES)).round().long().tolist():
            for name, value in _sample(training, number).items():
                own = tuple(first_tensor(value).shape)
                before = shapes.get(name, own)
                shapes[name] = tuple(map(max, own, before)) if len(own) == len(before) else own
    return Facts(
        samples=len(training),
        validation=len(validation),
        target=str(target["kind"]),
        outputs=len(target.get("names", ())),
        modalities={
            name: _modality(
                entry,
                shapes.get(name, ()),
                free=name not in chosen and name not in pretrained,
                pretrained=name in pretrained,
            )
            for name, entry in spec["modalities"].items()
        },
        settings=dict(settings or {}),
        accumulated=accumulated,
    )


def _sample(samples: Any, number: int) -> Mapping[str, Tensor | Mapping[str, Tensor]]:
    """Return the inputs of a sample."""
    if hasattr(samples, "__getitems__"):
        found = samples.__getitems__([number])
        batch = found if hasattr(found, "inputs") else found[0]
        inputs: Mapping[str, Any] = batch.inputs
        return {name: _first(value) for name, value in inputs.items()} if hasattr(batch, "ids") else inputs
    own: Mapping[str, Any] = samples[number].inputs
    return own


def _first(value: Tensor | Mapping[str, Tensor]) -> Tensor | dict[str, Tensor]:
    return value[0] if isinstance(value, Tensor) else {name: one[0] for name, one in value.items()}


def _modality(entry: Mapping[str, Any], shape: tuple[int, ...], *, free: bool, pretrained: bool) -> ModalityFacts:
    rate = entry.get("sample_rate")
    seconds = shape[-1] / rate if rate and entry.get("kind") == "audio" and shape else None
    kind = str(entry.get("kind"))
    return ModalityFacts(kind=kind, shape=shape, seconds=seconds, sample_rate=rate, free=free, pretrained=pretrained)
