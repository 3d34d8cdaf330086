"""Class names in Parquet files that the library `datasets` wrote: columns hold numbers, the file's metadata their names."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from perceiver.data.readers.bounded.json_files import MAX_BYTES, parse_json

log = logging.getLogger(__name__)

_KEY = b"huggingface"


def class_labels(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the class names of the columns that hold class numbers, or lists of them, by column.

    Args:
        metadata: metadata of a Parquet schema. It comes with the file: what is not a list of strings is ignored.
    """
    content = (metadata or {}).get(_KEY, b"")
    if not content or len(content) > MAX_BYTES:
        return {}
    try:
        features = parse_json(content)["info"]["features"]
        found = {str(column): _names(feature) for column, feature in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("metadata of columns, written by the library datasets, cannot be read: %s.", error)
        return {}
    return {column: names for column, names in found.items() if names}


def _names(feature: Any) -> list[str]:
    """Return the names of a ClassLabel, or of a sequence of them; an empty list for other features."""
    if isinstance(feature, list) and len(feature) == 1:
        feature = feature[0]
    elif isinstance(feature, Mapping) and feature.get("_type") in ("Sequence", "List", "LargeList"):
        feature = feature.get("feature")
    if not isinstance(feature, Mapping) or feature.get("_type") != "ClassLabel":
        return []
    names = feature.get("names")
    valid = isinstance(names, list) and all(isinstance(name, str) and name.strip() for name in names)
    return list(names) if isinstance(names, list) and valid and len(set(names)) == len(names) else []


def with_class_names(column: Any, names: Sequence[str], *, column_name: str, problems: dict[int, str]) -> Any:
    """Return a column of class numbers with their names; None if it holds other values.

    Negative numbers are missing: `datasets` writes -1 for an unknown class.

    Args:
        column: Arrow array of integers, or of lists of integers.
        names: names of the classes 0, 1, …
        column_name: name of the column, for messages.
        problems: gets the rows with numbers that have no name.
    """
    lists = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not pa.types.is_integer(column.type.value_type if lists else column.type):
        return None
    named: list[Any] = []
    for row, value in enumerate(column.to_pylist()):
        numbers = value if lists else [value]
        if unnamed := [number for number in numbers or () if number is not None and number >= len(names)]:
            problems.setdefault(
                row, f", column {column_name!r}: expected a class from 0 to {len(names) - 1}, got {unnamed[0]}"
            )
            numbers = None
        found = None if numbers is None else [names[number] for number in numbers if number is not None and number >= 0]
        named.append(found if lists or not found else found[0])
    if not lists:
        named = [name or None for name in named]
    return pa.array(named, type=pa.large_list(pa.large_string()) if lists else pa.large_string())
