"""The page of a model that generates: conditions and settings on the left, samples on the right."""

from __future__ import annotations

import html
import io
import os
from collections.abc import Mapping
from typing import Any

# Gradio reads it when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio
from PIL import Image

from perceiver.decoders.velocity import VelocityHead
from perceiver.inference.sampling import generate_samples
from perceiver.inspection import word_influence
from perceiver.model import Perceiver
from perceiver.plots.generative.generated import sheet_of
from perceiver.plots.generative.word_regions import word_regions
from perceiver.plots.rendering import png_of
from perceiver.serving.decoding import decode
from perceiver.serving.demo.fields import fields_of
from perceiver.serving.limits import Limits, RefusedError
from perceiver.serving.request import Parts
from perceiver.targets.words import words_of

_MOST_SAMPLES, _MOST_STEPS = 32, 50
_MOST_WORDS, _MOST_CHARACTERS = 24, 500
"""Longest prompt whose words are left out one by one, each a run of the model over the whole prompt at each step."""
_EMPTY = "<p class='note'>Fill in conditions, or none, and press Generate.</p>"


def build_generation_page(model: Perceiver, *, name: str, limits: Limits) -> gradio.Blocks:
    """Return the page of a model that generates samples.

    Args:
        model: a model with a `VelocityHead` and a spec of its modalities.
        name: name of the model, for the title.
        limits: limits of files, as for the server.

    Raises:
        ValueError: without such a spec.
    """
    assert isinstance(model.head, VelocityHead)
    generated, guided = model.head.modality, model.head.condition_dropout > 0
    if generated not in ((model.spec or {}).get("modalities") or {}):
        raise ValueError(f"{name}: the model has no {generated!r} in its spec, which it generates.")
    known = _conditions(model)
    with gradio.Blocks(title=f"perceiver-demo: {name}", analytics_enabled=False) as page:
        gradio.HTML(f"<h1>{html.escape(name)}</h1><p class='note'>Generates {html.escape(generated)}.</p>", padding=False)
        with gradio.Row():
            with gradio.Column(scale=2, min_width=300):
                fields = [fields_of(key, modality) for key, modality in known.items()]
                controls = [
                    gradio.Slider(1, _MOST_SAMPLES, value=8, step=1, label="Samples"),
                    gradio.Slider(0, 8, value=3 if guided else 1, step=0.5, label="Guidance", interactive=guided),
                    gradio.Slider(1, _MOST_STEPS, value=12, step=1, label="Steps"),
                    gradio.Number(0, precision=0, label="Seed", minimum=0),
                ]
                run = gradio.Button("Generate", variant="primary", elem_id="generate")
            with gradio.Column(scale=3, min_width=360):
                message = gradio.HTML(_EMPTY, elem_id="message")
                image = gradio.Image(
                    label="Samples", visible=False, interactive=False, buttons=[], elem_id="samples", format="png"
                )
                regions = gradio.Image(
                    label="What each word changes, step by step", visible=False, interactive=False, buttons=[], format="png"
                )
        inputs = [*controls, *(component for one in fields for component in one.components)]

        def generate(count: float, guidance: float, steps: float, seed: float, *values: Any) -> list[Any]:
            rest = list(values)
            parts = {}
            for one in fields:
                taken, rest = rest[: len(one.components)], rest[len(one.components) :]
                if (part := one.part(taken)) is not None:
                    parts[one.name] = part
            return answer(
                model,
                parts,
                limits=limits,
                num_samples=min(int(count), _MOST_SAMPLES),
                guidance=guidance,
                steps=min(int(steps), _MOST_STEPS),
                seed=int(seed or 0),
            )

        run.click(generate, inputs, [message, image, regions], api_name=False)
    return page


def answer(
    model: Perceiver, parts: Parts, *, limits: Limits, num_samples: int, guidance: float, steps: int, seed: int
) -> list[Any]:
    """Return what the message, the samples and the regions of words become.

    Args:
        model: a model that generates.
        parts: what was filled in, by modality; may be empty.
        limits: limits of files.
        num_samples, guidance, steps, seed: see `perceiver.generate_samples`; guidance is 1 for models without it.
    """
    assert isinstance(model.head, VelocityHead)
    hidden = gradio.update(value=None, visible=False)
    try:
        raw = decode(parts, _conditions(model), limits) if parts else {}
        drawn = samples_image(
            model,
            raw,
            num_samples=num_samples,
            guidance=guidance if model.head.condition_dropout else 1.0,
            steps=steps,
            seed=seed,
        )
        found = regions_image(model, raw, steps=steps, seed=seed)
    except (RefusedError, ValueError, TypeError) as error:
        shown = html.escape(str(error).removeprefix("sample 0, "))
        return [gradio.update(value=f"<div class='error'>{shown}</div>", visible=True), hidden, hidden]
    return [
        gradio.update(value="", visible=False),
        gradio.update(value=drawn, visible=True),
        hidden if found is None else gradio.update(value=found, visible=True),
    ]


def samples_image(
    model: Perceiver, raw: Mapping[str, Any], *, num_samples: int, guidance: float, steps: int, seed: int
) -> Image.Image:
    """Return a sheet of samples for one condition as an image.

    Args:
        model: a model that generates.
        raw: values of the condition by modality, decoded: no value names a file.
        num_samples, guidance, steps, seed: see `perceiver.generate_samples`.

    Raises:
        ValueError: if a value does not fit the spec.
    """
    made = generate_samples(
        model,
        # A list would be several conditions.
        {key: [value] for key, value in raw.items()},
        num_samples=num_samples,
        guidance=guidance,
        steps=steps,
        seed=seed,
        open_files=False,
    )
    return Image.open(io.BytesIO(png_of(sheet_of(made))))


def regions_image(model: Perceiver, raw: Mapping[str, Any], *, steps: int, seed: int) -> Image.Image | None:
    """Return the maps of a prompt's words as an image; None if the condition is no short text, or no image is generated.

    Args:
        model: a model that generates.
        raw: values of the condition by modality.
        steps, seed: see `perceiver.inspection.word_influence`.
    """
    assert isinstance(model.head, VelocityHead)
    specs = (model.spec or {})["modalities"]
    name, *others = [*raw, ""]
    if others != [""] or specs[name].get("kind") != "text" or specs[model.head.modality].get("kind") != "image":
        return None
    prompt = raw[name]
    if not isinstance(prompt, str) or len(prompt) > _MOST_CHARACTERS or _words(prompt) > _MOST_WORDS:
        return None
    found = word_influence(model, prompt, modality=name, steps=steps, seed=seed)
    return Image.open(io.BytesIO(png_of(word_regions(found))))


def _words(prompt: str) -> int:
    return len(words_of([prompt.encode()]))


def _conditions(model: Perceiver) -> dict[str, Mapping[str, Any]]:
    """Return the spec of each modality that can be a condition."""
    assert isinstance(model.head, VelocityHead)
    specs = (model.spec or {})["modalities"]
    return {key: specs[key] for key in sorted(model.adapters) if key != model.head.modality and key in specs}
