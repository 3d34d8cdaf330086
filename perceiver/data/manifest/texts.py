"""Texts of a manifest that are longer than their modality's maximum."""

from collections.abc import Sequence

from perceiver.data.manifest.table import ManifestTable
from perceiver.modalities.spec import ModalitySpec
from perceiver.modalities.text import is_cut
from perceiver.modalities.texts.cut_texts import CutTexts
from perceiver.runtime.process_rank import process_rank

MOST_TEXTS = 10_000
"""Number of texts of a column that are measured, evenly spaced; measuring a text converts it to ids."""


def warn_of_cut_texts(table: ManifestTable, rows: Sequence[int], *, column: str, spec: ModalitySpec) -> None:
    """Log how many texts of a column are cut to the `max_length` of its spec; texts in files are not opened.

    Args:
        table: the manifest.
        rows: rows of the split.
        column: name of the column.
        spec: spec of the modality.
    """
    if process_rank() != 0 or spec.get("max_length") is None or spec.get("files") or not spec.get("truncate", True):
        return
    texts = CutTexts(spec["max_length"])
    for row in rows[:: 1 + len(rows) // MOST_TEXTS]:
        text = table.cell(row, column)
        if isinstance(text, str):
            texts.add(is_cut(text, spec))
    texts.warn(f"{table.path}, column {column!r}")
