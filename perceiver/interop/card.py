"""Model cards in the Hub's format: `README.md` with YAML metadata, from a model, its spec and its metrics (extra `hf`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from perceiver.model import Perceiver

LIBRARY = "perceiver-multimodal"

_TASKS = {
    ("image", "classes"): "image-classification",
    ("audio", "classes"): "audio-classification",
    ("video", "classes"): "video-classification",
    ("text", "classes"): "text-classification",
    ("table", "classes"): "tabular-classification",
    ("table", "values"): "tabular-regression",
    ("image", "segmentation"): "image-segmentation",
}
"""The Hub's name of a task, by the kind of the only modality and the kind of target."""

_MOST_NAMES = 100


def model_card(model: Perceiver, *, name: str, metrics: Mapping[str, Any] | None = None, data: str | None = None) -> str:
    """Return the text of a model card.

    Args:
        model: a model with a spec.
        name: name of the model.
        metrics: metrics by name, `test/accuracy`, …; those of the test split become results of the card's metadata.
        data: name of the data that the metrics were measured on.
    """
    name = " ".join(name.split())
    spec = model.spec or {}
    modalities: Mapping[str, Mapping[str, Any]] = spec.get("modalities") or {}
    target: Mapping[str, Any] = spec.get("target") or {}
    kinds = [str(entry.get("kind")) for entry in modalities.values()]
    task = _TASKS.get((kinds[0], str(target.get("kind")))) if len(kinds) == 1 else None
    tested = {key.removeprefix("test/"): float(value) for key, value in (metrics or {}).items() if key.startswith("test/")}
    results = [
        EvalResult(
            task_type=task or "other",
            dataset_type=data or "unknown",
            dataset_name=data or "unknown",
            dataset_split="test",
            metric_type=metric,
            metric_value=value,
        )
        for metric, value in sorted(tested.items())
    ]
    facts = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag=task,
        tags=sorted({"perceiver", *("multimodal" for _ in kinds[1:]), *(kind for kind in kinds if "." not in kind)}),
        model_name=name,
        eval_results=results or None,
    )
    count = sum(parameter.numel() for parameter in model.parameters())
    lines = [f"# {_plain(name)}", "", f"A Perceiver-style encoder with {count:,} parameters, made with `{LIBRARY}`.", ""]
    lines += ["## Inputs", "", *_table(["modality", "kind", "shape of a sample"], _inputs(modalities)), ""]
    if target:
        lines += ["## Output", "", f"Target: {_plain(target.get('kind'))}.", ""]
        names = [_plain(one) for one in target.get("names") or []]
        more = f" … and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        lines += [", ".join(names[:_MOST_NAMES]) + more, ""]
    if tested:
        rows = [[_plain(metric), f"{value:.4g}"] for metric, value in sorted(tested.items())]
        split = f"Test split of {_plain(data)}." if data else "Test split."
        lines += ["## Results", "", split, "", *_table(["metric", "value"], rows), ""]
    source = repr(name) if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else '"FOLDER"'
    lines += [
        *("## Use", "", "```python", "from perceiver.interop.hub import HubPerceiver", ""),
        f"model = HubPerceiver.from_pretrained({source}).model",
        *("model.predict(samples)", "```", ""),
    ]
    return f"---\n{facts.to_yaml()}\n---\n\n" + "\n".join(lines)


def _inputs(modalities: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows = []
    for name, entry in sorted(modalities.items()):
        shape = entry.get("shape")
        shown = "–" if shape is None else " × ".join("any" if size is None else str(size) for size in shape)
        rows.append([_plain(name), _plain(entry.get("kind")), shown])
    return rows


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def _plain(value: object) -> str:
    """Return text from data as Markdown shows it unchanged, in one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(value).split()))
