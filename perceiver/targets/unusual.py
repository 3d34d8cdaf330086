"""What raw values have that training did not: they are used, with a warning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perceiver.modalities.table import UnknownCategories
from perceiver.modalities.text import is_cut
from perceiver.modalities.texts.cut_texts import CutTexts


class Unusual:
    """Counts categories of tables that training did not have, and texts that are cut.

    Args:
        modalities: spec of each modality.
        asker: name of the function that got the values, for messages.
    """

    def __init__(self, modalities: Mapping[str, Mapping[str, Any]], *, asker: str) -> None:
        self._asker = asker
        self._columns = {
            name: {column: UnknownCategories(known) for column, known in (modality.get("categories") or {}).items()}
            for name, modality in modalities.items()
            if modality.get("kind") == "table"
        }
        self._texts = {
            name: (modality, CutTexts(modality.get("max_length")))
            for name, modality in modalities.items()
            if modality.get("kind") == "text"
        }

    def add(self, name: str, value: Any) -> None:
        """Count the cells of a row, or a text."""
        if name in self._texts:
            modality, texts = self._texts[name]
            texts.add(is_cut(value, modality))
        for column, unknown in self._columns.get(name, {}).items():
            unknown.add(value.get(column) if isinstance(value, Mapping) else None)

    def warn(self) -> None:
        """Log what was found."""
        for name, columns in self._columns.items():
            for column, unknown in columns.items():
                unknown.warn(f"{self._asker}, modality {name!r}, column {column!r}")
        for name, (_, texts) in self._texts.items():
            texts.warn(f"{self._asker}, modality {name!r}")
