"""Inputs of the page for each modality, and what was filled in as the part of a request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio

from perceiver.serving.request import Field, File

_MOST_CHOICES = 200


@dataclass(frozen=True, kw_only=True)
class ModalityFields:
    """Inputs of one modality.

    Args:
        name: name of the modality.
        columns: columns of a table, one for each component; empty for other kinds.
        components: components of Gradio.
    """

    name: str
    columns: tuple[str, ...]
    components: tuple[Any, ...]

    def part(self, values: Sequence[Any]) -> File | Field | None:
        """Return the part of a request for the values of the components; None if nothing is filled in.

        Args:
            values: value of each component. Those of files are paths of copies that Gradio made.
        """
        if self.columns:
            row = {column: value for column, value in zip(self.columns, values, strict=True) if value not in (None, "")}
            return Field(json.dumps(row)) if row else None
        [value] = values
        if value in (None, "") or (isinstance(value, str) and not value.strip()):
            return None
        return Field(value) if isinstance(self.components[0], gradio.Textbox) else File(Path(value).read_bytes())


def fields_of(name: str, modality: Mapping[str, Any]) -> ModalityFields:
    """Make the inputs of a modality, in the current block of Gradio.

    Args:
        name: name of the modality.
        modality: its spec.
    """
    columns: tuple[str, ...] = ()
    made: tuple[Any, ...]
    match modality.get("kind"):
        case "image":
            # As a path, without conversion: the file is decoded with the limits of the server.
            made = (gradio.Image(label=name, type="filepath", image_mode=None, sources=["upload", "clipboard"], height=230),)
        case "audio":
            made = (gradio.Audio(label=name, type="filepath", sources=["upload", "microphone"], buttons=["download"]),)
        case "text":
            made = (gradio.Textbox(label=name, lines=3, placeholder="Type a text, or leave it empty."),)
        case "table":
            columns = (*modality.get("numbers", ()), *modality.get("categories", {}))
            made = _table(name, modality)
        case _:
            made = (gradio.File(label=name, type="filepath", height=120),)
    return ModalityFields(name=name, columns=columns, components=made)


def _table(name: str, modality: Mapping[str, Any]) -> tuple[Any, ...]:
    categories = modality.get("categories", {})
    with gradio.Group():
        gradio.Markdown(f"**{_plain(name)}** (empty: missing)", container=True)
        numbers = [gradio.Textbox(label=column, placeholder="number") for column in modality.get("numbers", ())]
        choices = [
            gradio.Dropdown(label=column, choices=["", *map(str, known[:_MOST_CHOICES])], value="", allow_custom_value=True)
            for column, known in categories.items()
        ]
    return (*numbers, *choices)


def _plain(text: str) -> str:
    """Return a text without the signs of Markdown and HTML."""
    return "".join(sign for sign in text if sign.isalnum() or sign in " _-.").replace("_", "\\_")
