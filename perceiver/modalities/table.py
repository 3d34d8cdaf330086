"""Table rows: numbers, categories, and which cells are present."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from perceiver.modalities.modality import Modality, ModalitySpec


@final
class TableModality(Modality):
    """Rows of a table -> `numbers` (n,) float32, `categories` (k,) int64 and `present` (n + k,).

    Numbers are normalised by the spec's `mean` and `std`; missing ones are 0. Categories are numbered from 1 in the order of
    the spec; one that it does not know, or that is missing, is 0.
    """

    channel_axis: ClassVar = {"numbers": -1, "categories": -1, "present": -1}
    settings: ClassVar = {"columns": None, "numbers": None, "categories": None}
    several_columns = True

    def facts(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All columns, and those that shall be numbers or categories whatever they hold."""
        lists = {key: [str(column) for column in settings.get(key) or ()] for key in self.settings}
        columns = list(dict.fromkeys([*lists["columns"], *lists["numbers"], *lists["categories"]]))
        if not columns or set(lists["numbers"]) & set(lists["categories"]):
            own = {key: value for key, value in settings.items() if value is not None}
            raise ValueError(
                f"expected columns, or numbers and categories, each a list of different columns, e.g. "
                f"{{kind: table, columns: [age, sex]}}; got {own}."
            )
        return {"columns": columns, "asked_numbers": lists["numbers"], "asked_categories": lists["categories"]}

    def preprocess(self, raw: Any, spec: ModalitySpec, name: str) -> dict[str, Tensor]:
        """One row.

        Args:
            raw: from column to value; None, NaN, an empty text or no entry at all where it is missing.
            spec: `numbers`, a list of names; `categories`, from name to a list of the known values; maybe `mean` and `std`.
            name: what error messages call it.

        Raises:
            ValueError: a column that the spec does not have, or no number where it has one.
            TypeError: no mapping.
        """
        if not isinstance(raw, Mapping):
            raise TypeError(f"{name}: expected a dict from column to value, got {type(raw).__name__}.")
        numbers, categories = list(spec.get("numbers") or ()), dict(spec.get("categories") or {})
        if unknown := set(raw) - set(numbers) - set(categories):
            raise ValueError(
                f"{name}: expected columns among {[*numbers, *categories]}, got also {sorted(str(one) for one in unknown)}."
            )
        values = [_number(raw.get(column), f"{name}, column {column!r}") for column in numbers]
        texts = [None if is_missing(raw.get(column)) else value_text(raw[column]) for column in categories]
        known = [list(one) for one in categories.values()]
        x = torch.tensor([math.nan if one is None else one for one in values], dtype=torch.float64)
        x = self.normalise(x, spec) if numbers else x
        return {
            "numbers": torch.where(x.isnan(), x.new_zeros(()), x).to(torch.float32),
            "categories": torch.tensor(
                [of.index(text) + 1 if text in of else 0 for text, of in zip(texts, known, strict=True)], dtype=torch.int64
            ),
            "present": torch.tensor([one is not None for one in (*values, *texts)], dtype=torch.bool),
        }


def is_missing(value: Any) -> bool:
    """Whether a value of a table is none: None, NaN, or text of nothing but spaces."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))


def value_text(value: Any) -> str:
    """A class or category as text, the same for 1, 1.0 and "1": files and libraries differ in how they write it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def _number(value: Any, name: str) -> float | None:
    """None where it is missing."""
    if is_missing(value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected a number, got {value!r}.") from None
    if math.isnan(number):
        return None
    if math.isinf(number):
        raise ValueError(f"{name}: expected a finite number, got {value!r}.")
    return number
