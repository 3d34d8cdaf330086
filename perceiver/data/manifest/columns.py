"""The columns of a table: which hold numbers and which categories, and what training rows say of each."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from perceiver.data.manifest.series import MISSING_NUMBERS
from perceiver.modalities.modality import ModalitySpec
from perceiver.modalities.statistics import spread
from perceiver.modalities.table import is_missing, value_text

Report = Callable[[int, str | None, object], None]
"""Takes a row that cannot be used, the column at fault if there is a single one, and what is wrong."""


def table_facts(
    cells: Iterable[tuple[int, Mapping[str, Any]]], *, facts: ModalitySpec, folder: Path | None, report: Report
) -> dict[str, Any]:
    """Columns of numbers, each with mean and standard deviation, and of categories, each with its values."""
    asked = {name: kind for kind in ("numbers", "categories") for name in facts[f"asked_{kind}"]}
    rows = dict(cells)
    columns = {name: [values.get(name) for values in rows.values()] for name in facts["columns"]}
    numbers = [name for name, values in columns.items() if asked.get(name) == "numbers" or _mostly_numbers(values)]
    numbers = [name for name in numbers if asked.get(name) != "categories"]
    means, stds = [], []
    for name in numbers:
        for row, value in zip(rows, columns[name], strict=True):
            if not is_number(value):
                report(
                    row,
                    name,
                    f"expected a number, as in other rows, got {value!r}. If the column is meant so, name it under "
                    "categories.",
                )
        filled = [value for value in columns[name] if value is not None and is_number(value)]
        present = [float(value) for value in filled if not _is_missing_number(value)]
        x = torch.tensor(present or [0.0], dtype=torch.float64)
        means.append(float(x.mean()))
        stds.append(spread(float(x.std(correction=0)), float(x.abs().max())))
    known = {
        name: sorted({value_text(value) for value in values if value is not None}, key=natural)
        for name, values in columns.items()
        if name not in numbers
    }
    return {
        **{key: value for key, value in facts.items() if not key.startswith("asked_")},
        "numbers": numbers,
        "mean": means,
        "std": stds,
        "categories": known,
        "category_sizes": [len(values) + 1 for values in known.values()],
    }


def is_number(value: Any) -> bool:
    """Whether a cell of a table is a number, or one that is missing."""
    if _is_missing_number(value):
        return True
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _mostly_numbers(values: Sequence[Any]) -> bool:
    """Nine in ten of those that are there: the others are slips rather than categories."""
    there = [value for value in values if not _is_missing_number(value)]
    return sum(is_number(value) for value in there) >= 0.9 * len(there)


def _is_missing_number(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in MISSING_NUMBERS
    return value is None or is_missing(value)


def natural(text: str) -> tuple[bool, float, str]:
    """Sorts numbers by value and before words."""
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text
