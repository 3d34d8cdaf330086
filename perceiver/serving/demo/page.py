"""The page: inputs from the spec on the left, the result on the right."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from typing import Any

# Gradio reads it when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio

from perceiver.decoders.velocity import VelocityHead
from perceiver.model import Perceiver
from perceiver.serving.decoding import decode
from perceiver.serving.demo.fields import fields_of
from perceiver.serving.demo.generation import build_generation_page
from perceiver.serving.demo.result import Result, result_of
from perceiver.serving.limits import Limits, RefusedError

_FONT = ["system-ui", "sans-serif"]  # system fonts: the page loads nothing from other hosts
_CSS = """
.bars, .bars tr, .bars td {border: 0 !important; white-space: nowrap} .bars {width: 100%; border-collapse: collapse}
.bars td {padding: 2px 8px}
.bars .bar {height: 14px; border-radius: 4px; background: #f97316; min-width: 1px} .bars td:nth-child(2) {width: 100%}
.words {font-size: 1.15em; line-height: 1.9; white-space: pre-wrap} .words span {border-radius: 4px; padding: 2px 3px}
.error {padding: 10px 14px; border-radius: 8px; background: #fee2e2; color: #991b1b}
.note {opacity: 0.7}
"""
_EMPTY = "<p class='note'>Fill in one or more inputs, and press Predict. Inputs may be left out.</p>"


def build_page(model: Perceiver, *, name: str, limits: Limits = Limits()) -> gradio.Blocks:  # noqa: B008  (it is frozen)
    """Return the page of a model; of one that generates samples, see `build_generation_page`.

    Args:
        model: a model with a spec of modalities and target.
        name: name of the model, for the title.
        limits: limits of files, as for the server.

    Raises:
        ValueError: without such a spec.
    """
    if isinstance(model.head, VelocityHead):
        return build_generation_page(model, name=name, limits=limits)
    spec = model.spec or {}
    modalities: Mapping[str, Mapping[str, Any]] = spec.get("modalities") or {}
    if not modalities or not spec.get("target"):
        raise ValueError(f"{name}: the model has no modalities and target in its spec, and predicts nothing.")
    with gradio.Blocks(title=f"perceiver-demo: {name}", analytics_enabled=False) as page:
        gradio.HTML(f"<h1>{html.escape(name)}</h1>{_summary(modalities, spec['target'])}", padding=False)
        with gradio.Row():
            with gradio.Column(scale=2, min_width=300):
                fields = [fields_of(key, modality) for key, modality in sorted(modalities.items())]
                with gradio.Row():
                    clear = gradio.Button("Clear")
                    run = gradio.Button("Predict", variant="primary", elem_id="predict")
            with gradio.Column(scale=3, min_width=360):
                message = gradio.HTML(_EMPTY, elem_id="message")
                label = gradio.Label(label="Prediction", num_top_classes=5, visible=False, elem_id="prediction")
                image = gradio.Image(label="Prediction", visible=False, interactive=False, buttons=[])
                shares = gradio.HTML(label="Contributions", visible=False, elem_id="shares")
                looks = {
                    key: (
                        gradio.HTML(visible=False),
                        gradio.Image(visible=False, interactive=False, buttons=[], show_label=False, height=300),
                    )
                    for key in sorted(modalities)
                }
        inputs = [component for one in fields for component in one.components]
        outputs = [message, label, image, shares, *(component for pair in looks.values() for component in pair)]

        def predict(*values: Any) -> list[Any]:
            rest = list(values)
            try:
                found = {one.name: one.part(_taken(rest, len(one.components))) for one in fields}
                parts = {key: part for key, part in found.items() if part is not None}
                return _updates(result_of(model, decode(parts, modalities, limits)), sorted(modalities))
            except RefusedError as error:
                return _failed(str(error), len(modalities))
            except (ValueError, TypeError) as error:
                return _failed(str(error).removeprefix("sample 0, "), len(modalities))

        run.click(predict, inputs, outputs, api_name=False)
        clear.click(
            lambda: [*[None] * len(inputs), *_nothing(_EMPTY, len(modalities))], None, [*inputs, *outputs], api_name=False
        )
    return page


def launch_settings(limits: Limits) -> dict[str, Any]:
    """Return arguments of `Blocks.launch`: nothing is shared or loaded from other hosts, and uploads are bounded."""
    return {
        "share": False,
        "quiet": True,
        "ssr_mode": False,
        "footer_links": [],
        "max_file_size": limits.request_bytes,
        "enable_monitoring": False,
        "strict_cors": True,
        "theme": gradio.themes.Soft(primary_hue="orange", font=_FONT, font_mono=["monospace"]),
        "css": _CSS,
    }


def _taken(values: list[Any], count: int) -> list[Any]:
    taken = values[:count]
    del values[:count]
    return taken


def _updates(result: Result, modalities: Sequence[str]) -> list[Any]:
    updates = [
        gradio.update(value=result.text or "", visible=result.text is not None),
        gradio.update(value=result.probabilities, visible=result.probabilities is not None),
        gradio.update(value=result.image, visible=result.image is not None),
        gradio.update(value=_bars(result.shares), visible=True),
    ]
    for name in modalities:
        look = result.looks.get(name)
        is_text = isinstance(look, str)
        heading = f"<b>Where the model looks: {html.escape(name)}</b>"
        updates += [
            gradio.update(value=heading + (f"<div class='words'>{look}</div>" if is_text else ""), visible=look is not None),
            gradio.update(value=None if is_text else look, visible=look is not None and not is_text),
        ]
    return updates


def _nothing(message: str, modalities: int) -> list[Any]:
    hidden = gradio.update(value=None, visible=False)
    return [gradio.update(value=message, visible=True), *[hidden] * (3 + 2 * modalities)]


def _failed(message: str, modalities: int) -> list[Any]:
    return _nothing(f"<div class='error'>{html.escape(message)}</div>", modalities)


def _bars(shares: Mapping[str, float]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td><div class='bar' style='width:{100 * share:.1f}%'></div></td>"
        f"<td>{100 * share:.0f}%</td></tr>"
        for name, share in sorted(shares.items(), key=lambda pair: -pair[1])
    )
    return f"<b>What each modality contributed</b><table class='bars'>{rows}</table>"


def _summary(modalities: Mapping[str, Mapping[str, Any]], target: Mapping[str, Any]) -> str:
    kinds = {name: str(modality.get("kind")) for name, modality in sorted(modalities.items())}
    inputs = ", ".join(name if name == kind else f"{name} ({kind})" for name, kind in kinds.items())
    return f"<p class='note'>Inputs: {html.escape(inputs)}. Predicts {html.escape(str(target.get('kind')))}.</p>"
