"""Values of table cells: missing values, classes and categories as text, numbers and dates. Without torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from perceiver.modalities.cells.written_numbers import date_of, is_missing_number, number_of
from perceiver.modalities.spec import ModalitySpec


def is_missing(value: Any) -> bool:
    """Return whether a value of a table is missing: None, NaN, or blank text."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))


def value_text(value: Any) -> str:
    """Return a class or category as text, independent of how files and libraries write it.

    The same text for 1, 1.0, "1" and "1.0", and for True, "true" and "True".
    """
    text = plain_text(value)
    if text.lower() in ("true", "false"):
        return text.capitalize()
    return re.sub(r"^-?(0|[1-9]\d*)\.0+$", lambda whole: whole[0].partition(".")[0], text)


def plain_text(value: Any) -> str:
    """Return a value as text; text is returned unchanged."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


@lru_cache(maxsize=256)
def numbered(names: tuple[str, ...]) -> dict[str, int]:
    """Return the positions of classes or categories by name, and by the `value_text` of the name.

    Version 0.1 unified fewer forms: names may contain "1.0" besides "1".
    """
    return {value_text(name): number for number, name in reversed([*enumerate(names)])} | {
        name: number for number, name in enumerate(names)
    }


class _Listed:
    """Names as a key of a cache, compared by identity, since hashing many names costs more than reading a cell."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.count = names, len(names)

    def __hash__(self) -> int:
        return id(self.names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Listed) and self.names is other.names and self.count == other.count


@lru_cache(maxsize=256)
def _numbered(listed: _Listed) -> dict[str, int]:
    return numbered(tuple(listed.names))


def number_of_name(value: Any, names: Sequence[str]) -> int | None:
    """Return the position of the class or category of a value; None: unknown.

    The names of a list are numbered once, so their order must not change.
    """
    numbers, text = _numbered(_Listed(names)), plain_text(value)
    return numbers.get(text, numbers.get(value_text(text)))


def number_in_column(value: Any, column: str, spec: ModalitySpec, *, name: str) -> float | None:
    """Return the number or date in a cell; None if missing. For arguments and errors see `TableModality.preprocess`."""
    if is_missing(value) or is_missing_number(value):
        return None
    date = (spec.get("dates") or {}).get(column)
    try:
        if date is not None:
            return date_of(value, date)
        return number_of(value, (spec.get("written") or {}).get(column))
    except (TypeError, ValueError):
        what = "a date" if date is not None else "a finite number" if _is_infinite(value) else "a number"
        raise ValueError(f"{name}: expected {what}, got {value!r}.") from None


def values_of_row(raw: Any, spec: ModalitySpec, *, name: str) -> tuple[list[float], list[int], list[bool]]:
    """Return numbers, NaN if missing, numbers of categories from 1, 0 if missing or unknown, and the presence of all cells.

    For arguments and errors see `TableModality.preprocess`.
    """
    if not isinstance(raw, Mapping):
        raise TypeError(f"{name}: expected a dict from column to value, got {type(raw).__name__}.")
    numbers, categories = list(spec.get("numbers") or ()), dict(spec.get("categories") or {})
    if unknown := set(raw) - set(numbers) - set(categories):
        raise ValueError(
            f"{name}: expected columns among {[*numbers, *categories]}, got also {sorted(str(one) for one in unknown)}."
        )
    values = [number_in_column(raw.get(column), column, spec, name=f"{name}, column {column!r}") for column in numbers]
    chosen = [
        None if is_missing(raw.get(column)) else number_of_name(raw[column], known) for column, known in categories.items()
    ]
    present = [one is not None for one in values] + [not is_missing(raw.get(column)) for column in categories]
    return (
        [math.nan if one is None else one for one in values],
        [0 if number is None else number + 1 for number in chosen],
        present,
    )


def _is_infinite(value: Any) -> bool:
    try:
        return math.isinf(float(value))
    except OverflowError:  # a whole number of more than 308 digits
        return True
    except (TypeError, ValueError):
        return False
