"""Samples from raw conditions: an image from a prompt, in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perceiver.adapters.vector import Vector
from perceiver.decoders.velocity import VelocityHead
from perceiver.generation.flow import generate
from perceiver.modalities.preprocess import unnormalised
from perceiver.modalities.spec import ModalitySpec
from perceiver.model import Perceiver
from perceiver.runtime.arguments import ArgumentError, errors_about
from perceiver.samples.batch import Batch, Sample
from perceiver.samples.collate import Collate
from perceiver.targets.classes import ClassTarget
from perceiver.targets.kinds import target_of
from perceiver.targets.predict import prepare
from perceiver.targets.unusual import Unusual


@dataclass(frozen=True, kw_only=True)
class GeneratedSamples:
    """Generated samples, `num_samples` for each condition, those of a condition in a row.

    Args:
        values: `(conditions * num_samples, …)`, normalisation undone: images `(C, H, W)` in [0, 1].
        conditions: the raw conditions, each a dict by modality.
        num_samples: number of samples of each condition.
        modality: name of the generated modality.
        spec: its spec.

    Examples:
        >>> import torch
        >>> from perceiver import GeneratedSamples
        >>> values = torch.rand(2, 1, 28, 28)
        >>> made = GeneratedSamples(
        ...     values=values, conditions=[{"text": "a 7"}], num_samples=2, modality="image", spec={"kind": "image"}
        ... )
        >>> [image.size for image in made.images()]
        [(28, 28), (28, 28)]
    """

    values: Tensor
    conditions: Sequence[Mapping[str, Any]]
    num_samples: int
    modality: str
    spec: ModalitySpec

    def condition(self, number: int) -> Mapping[str, Any]:
        """Return the raw condition of a sample."""
        return self.conditions[number // self.num_samples]

    def images(self) -> list[Image.Image]:
        """Return the samples as PIL images.

        Raises:
            ValueError: if they are no images.
        """
        if self.spec.get("kind") != "image":
            raise ValueError(f"images: expected generated images, got samples of kind {self.spec.get('kind')!r}.")
        pixels = (self.values.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        return [Image.fromarray(one[0].numpy() if len(one) == 1 else one.movedim(0, -1).numpy()) for one in pixels]


def generate_samples(
    model: Perceiver,
    conditions: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 1,
    guidance: float = 1.0,
    steps: int = 12,
    guidance_until: float = 1.0,
    solver: str = "euler",
    seed: int | None = None,
    init: Any = None,
    keep: Any = None,
    start: float = 0.0,
    shape: Sequence[int] | None = None,
    batch_size: int = 64,
    open_files: bool = True,
) -> GeneratedSamples:
    """Generate samples of the modality that a model was trained to generate, given raw values of others.

    Args:
        model: a model of `task=flow_matching` with its spec, such as one from `perceiver.load`.
        conditions: raw values by modality, as `Perceiver.predict` takes them: texts as strings, images and sounds as values
            or files; and the class, by its name or number, for a model of `task.label`. A list holds a value for each of
            several conditions; lists have one length, single values serve all. None or empty: generate without conditions.
        num_samples: number of samples of each condition.
        guidance, guidance_until, steps, solver, start: see `perceiver.generation.flow.generate`.
        seed: seed of the noise; None: torch's global generator. Samples do not depend on `batch_size`.
        init: a raw value of the generated modality to start from, with `keep` or `start`: for inpainting and editing.
        keep: which elements of `init` stay: a boolean array on its grid, or an image of it, or the file of one, whose
            light pixels stay.
        shape: shape of a sample for models of any size, such as (1, 28, 28); None: that of `init` or of the spec.
        batch_size: number of samples at a time.
        open_files: False refuses strings and paths that name files.

    Raises:
        ValueError: for a model that generates no samples, a condition that it does not have, lists of different lengths,
            guidance of a model that was trained without dropped conditions, or a value that does not fit the spec.

    Examples:
        >>> import perceiver
        >>> from perceiver import Fourier, Interface, Perceiver, VelocityHead, generate_samples
        >>> from perceiver.adapters import ImagePatches, TextTokens
        >>> from perceiver.encoders.fusion import Fusion
        >>> image = ImagePatches(image_channels=1, patch=4, position=Fourier(num_bands=4, resolution=(7, 7)))
        >>> text = TextTokens(vocabulary_size=262, embedding_channels=16, position=Fourier(num_bands=4, resolution=(32,)))
        >>> adapters = {"image": image, "text": text}
        >>> fusion = Fusion(channels={name: adapter.channels for name, adapter in adapters.items()})
        >>> encoder = Interface(token_channels=fusion.channels, num_latents=4, latent_channels=32, state_channels=16)
        >>> head = VelocityHead(state_channels=16, adapters=adapters, modality="image", condition_dropout=0.1)
        >>> spec = {"modalities": {
        ...     "image": {"kind": "image", "shape": [1, 28, 28], "mean": [0.5], "std": [0.5]},
        ...     "text": {"kind": "text", "vocabulary_size": 262},
        ... }}
        >>> model = Perceiver(adapters=adapters, encoder=encoder, head=head, fusion=fusion, spec=spec)
        >>> prompts = ["the digit seven", "a three"]
        >>> made = generate_samples(model, {"text": prompts}, num_samples=3, guidance=3.0, steps=2, seed=0)
        >>> made.values.shape, made.condition(4)
        (torch.Size([6, 1, 28, 28]), {'text': 'a three'})
    """
    head = model.head
    modalities = (model.spec or {}).get("modalities") or {}
    if not isinstance(head, VelocityHead):
        raise ValueError(
            "model: expected one that generates samples, trained with task=flow_matching; its head is a "
            f"{type(head).__name__}, not a perceiver.VelocityHead."
        )
    if head.modality not in modalities:
        raise ValueError("model: expected a spec with its modalities, such as that of a model from perceiver.load.")
    if num_samples < 1 or batch_size < 1:
        raise ArgumentError("num_samples, batch_size", f"expected at least 1 each, got {num_samples} and {batch_size}.")
    spec = modalities[head.modality]
    rows = rows_of(conditions or {}, known=sorted(set(model.adapters) - {head.modality}))
    classes = _class_conditions(model, modalities)
    unusual = Unusual(modalities, asker="generate_samples")
    given = [
        _prepared(row, modalities, classes, number=number, open_files=open_files, seen=unusual.add) if row else None
        for number, row in enumerate(rows)
    ]
    unusual.warn()
    known = None if init is None else _started(init, head.modality, modalities, open_files=open_files)
    kept = None if keep is None else _kept(keep, open_files=open_files)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    collate = Collate(modalities={**modalities, **{name: {"channel_axis": "none"} for name in classes}})
    device = next(model.parameters()).device
    owners = [row for row in range(len(rows)) for _ in range(num_samples)]
    found = []
    for first in range(0, len(owners), batch_size):
        part = [given[row] for row in owners[first : first + batch_size]]
        samples = [one for one in part if one is not None]
        batch = (collate(samples) if samples else Batch(inputs={})).to(device)
        values = generate(
            model,
            {name: (x, batch.masks[name]) if name in batch.masks else x for name, x in batch.inputs.items()},
            num_samples=len(part),
            shape_of=shape,
            steps=steps,
            guidance=guidance if samples else 1.0,
            guidance_until=guidance_until,
            solver=solver,
            generator=generator,
            init=known,
            keep=kept,
            start=start,
        )
        raw = unnormalised(values.cpu(), spec)
        found.append(raw.clamp(0, 1) if spec.get("kind") == "image" else raw)
    return GeneratedSamples(
        values=torch.cat(found), conditions=rows, num_samples=num_samples, modality=head.modality, spec=spec
    )


def _class_conditions(model: Perceiver, modalities: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """Return the class names of conditions that are no modality of the data: adapters of the target, one-hot."""
    target = target_of(model.spec)
    if not isinstance(target, ClassTarget):
        return {}
    return {
        name: target.names
        for name, adapter in model.adapters.items()
        if name not in modalities and isinstance(adapter, Vector) and adapter.channels == len(target.names)
    }


def _prepared(
    row: Mapping[str, Any],
    modalities: Mapping[str, ModalitySpec],
    classes: Mapping[str, Sequence[str]],
    *,
    number: int,
    open_files: bool,
    seen: Callable[[str, Any], None],
) -> Sample:
    """Preprocess a condition, with classes as one-hot vectors."""
    raw = {name: value for name, value in row.items() if name not in classes}
    inputs: dict[str, Any] = {
        name: _one_hot(row[name], names, where=f"conditions[{name!r}]") for name, names in classes.items() if name in row
    }
    if raw:
        with errors_about("conditions"):
            inputs |= prepare(raw, modalities, number=number, open_files=open_files, seen=seen).inputs
    return Sample(inputs=inputs, id=str(number))


def _one_hot(value: Any, names: Sequence[str], *, where: str) -> Tensor:
    """Return the one-hot vector of a class, given by its name or number."""
    number = names.index(value) if isinstance(value, str) and value in names else value
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or not 0 <= number < len(names):
        shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        raise ArgumentError(where, f"expected a class, {shown}, or a number from 0 to {len(names) - 1}, got {value!r:.60}.")
    return torch.eye(len(names))[int(number)]


def rows_of(conditions: Mapping[str, Any], *, known: Sequence[str]) -> list[dict[str, Any]]:
    """Return one dict of raw values for each condition.

    Args:
        conditions: raw values, or lists of them, by modality.
        known: modalities that the model takes.

    Raises:
        ValueError: for other modalities, or lists that are empty or of different lengths.

    Examples:
        >>> from perceiver.inference.sampling import rows_of
        >>> rows_of({"text": ["a 7", "a 3"], "style": "bold"}, known=["style", "text"])
        [{'text': 'a 7', 'style': 'bold'}, {'text': 'a 3', 'style': 'bold'}]
    """
    if unknown := sorted(set(conditions) - set(known)):
        raise ArgumentError(
            "conditions",
            f"expected any of {list(known)}, on which the model was trained, got {', '.join(map(str, unknown))}.",
        )
    lengths = {name: len(one) for name, one in conditions.items() if isinstance(one, list)}
    if 0 in lengths.values() or len(set(lengths.values())) > 1:
        raise ArgumentError("conditions", f"expected lists of one length, with a value for each condition, got {lengths}.")
    return [
        {name: one[row] if isinstance(one, list) else one for name, one in conditions.items() if one is not None}
        for row in range(max(lengths.values(), default=1))
    ]


def _started(init: Any, modality: str, modalities: Mapping[str, ModalitySpec], *, open_files: bool) -> Tensor:
    """Return `init` as the model's input, `(1, …)`."""
    with errors_about("init"):
        x = prepare({modality: init}, modalities, number=0, open_files=open_files).inputs[modality]
    if not isinstance(x, Tensor):
        raise ArgumentError("init", f"expected a modality of one tensor, got {sorted(x)}.")
    return x[None]


def _kept(keep: Any, *, open_files: bool) -> Tensor:
    """Return a mask `(1, *grid)`."""
    if isinstance(keep, str | Path):
        if not open_files:
            raise ArgumentError("keep", f"expected an array, got {str(keep)!r:.60}, which names a file.")
        with Image.open(keep) as image:
            keep = image.convert("L")
    array = np.asarray(keep)
    # Light pixels of an image, or booleans.
    return torch.from_numpy(array if array.dtype == np.bool_ else array > array.max() / 2)[None]
