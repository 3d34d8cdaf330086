"""What the columns of a data set become, by their types: modalities, the target, or nothing, with the reason."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from perceiver.data.manifest.targets import AUTO

TARGET_NAMES = ("label", "labels", "target", "class")
"""Names of the target column, in this order, if several columns or none are of classes."""

_INDEX_NAMES = ("id", "idx", "index")
_TASKS = {"classes": "", "labels": "; needs task=multilabel", "values": "; needs task=regression"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Use of the columns.

    Args:
        modalities: modalities by name, as in `data.modalities`.
        target: column or columns of the target.
        target_kind: kind of target, "auto" for several columns.
        lines: a line per column: what it becomes, or why it is ignored.
    """

    modalities: dict[str, Any]
    target: str | list[str]
    target_kind: str
    lines: list[str]


def flattened(features: Mapping[str, Any]) -> dict[str, Any]:
    """Return the features of columns, in which the languages of a translation are columns of text: `translation.de`."""
    columns: dict[str, Any] = {}
    for name, feature in features.items():
        if languages := languages_of(feature):
            columns |= {f"{name}.{language}": _TEXT for language in languages}
        else:
            columns[name] = feature
    return columns


def planned(
    features: Mapping[str, Any],
    *,
    modalities: Mapping[str, Sequence[str]] | None = None,
    target: str | Sequence[str] | None = None,
    target_kind: str = AUTO,
    ignored: Mapping[str, str] | None = None,
) -> Plan:
    """Return the use of the columns of a data set.

    Args:
        features: feature of each column, as `datasets` describes it.
        modalities: columns of each modality that the user names. None: columns become modalities by their types.
        target: column or columns that the user names. None: the column of classes, or see `TARGET_NAMES`.
        target_kind: kind of target that the user names. "auto": by the type.
        ignored: columns with another use, and what it is: ids, splits.

    Raises:
        ValueError: the target is not obvious, is unknown, or no column is left for the input.
    """
    columns = flattened(features)
    languages = _translation(features)
    if target is None:
        target = languages[1] if languages and not _classes(columns) else _target(columns)
    several = [target] if isinstance(target, str) else list(target)
    if unknown := [name for name in several if name not in columns]:
        raise ValueError(f"data.target: the data set has no column {unknown[0]!r}, only {', '.join(columns)}.")
    if target_kind == AUTO and len(several) == 1:
        target_kind = "text" if several[0] in languages else _target_kind(columns[several[0]])
    task = _TASKS.get(target_kind, "; needs task=text_generation" if target_kind == "text" else "")
    lines = dict.fromkeys(several, f"target ({target_kind}{task})") | dict(ignored or {})
    found: dict[str, Any] = {}
    numbers: list[str] = []
    if modalities is None:
        for name, feature in columns.items():
            if name in lines:
                continue
            if problem := _no_input(name, feature):
                lines[name] = f"ignored: {problem}"
            elif _is_number(feature):
                numbers.append(name)
            else:
                own, kind = _modality_name(name, found), _kind(feature)
                found[own] = {"kind": kind, "column": name}
                lines[name] = f"{kind}" + ("" if own == name else f", as modality {own!r}")
        if numbers:
            own = _modality_name("table", found)
            found[own] = {"kind": "table", "columns": numbers}
            lines |= dict.fromkeys(numbers, f"a number of modality {own!r}")
        if not found:
            raise ValueError(f"data.modalities: no column can be an input by its type. {_listed(columns, lines)}")
    else:
        users = {column: name for name, own in modalities.items() for column in own}
        lines |= {
            name: f"input of modality {users[name]!r}" if name in users else "ignored: not in data.modalities"
            for name in columns
            if name not in lines
        }
    shown = [f"column {name!r} ({described(feature)}): {lines[name]}" for name, feature in columns.items()]
    target = target if isinstance(target, str) else several
    return Plan(modalities=found, target=target, target_kind=target_kind, lines=shown)


def described(feature: Any) -> str:
    """Return the type of a column in words."""
    name = _name(feature)
    if name == "Value":
        return str(feature.dtype)
    if name == "ClassLabel":
        return f"{len(feature.names)} classes"
    inner = _inner(feature)
    return name.lower() if inner is None else f"list of {described(inner)}"


def languages_of(feature: Any) -> list[str]:
    """Return the languages of a column of translations, the source first; an empty list for another column."""
    return [str(language) for language in feature.languages] if _name(feature) == "Translation" else []


def class_names(feature: Any) -> list[str] | None:
    """Return the class names of a column of classes; None for another column."""
    return [str(name) for name in feature.names] if _name(feature) == "ClassLabel" and feature.names else None


def sampling_rate(feature: Any) -> int | None:
    """Return the sample rate of a column of sound, if the data set states it."""
    rate = getattr(feature, "sampling_rate", None) if _name(feature) == "Audio" else None
    return rate if isinstance(rate, int) and 1 <= rate <= 10**6 else None


@dataclass(frozen=True)
class _Text:
    dtype: str = "string"


_TEXT = _Text()


def _name(feature: Any) -> str:
    if isinstance(feature, _Text):
        return "Value"
    if isinstance(feature, Mapping):
        return "struct"
    return "List" if isinstance(feature, list) else type(feature).__name__


def _inner(feature: Any) -> Any:
    """Return the feature of the elements of a list; None for another feature."""
    if isinstance(feature, list):
        return feature[0] if len(feature) == 1 else None
    return feature.feature if _name(feature) in ("List", "LargeList", "Sequence") else None


def _is_number(feature: Any) -> bool:
    return _name(feature) == "Value" and re.fullmatch(r"u?int\d+|float\d+|double|bool", str(feature.dtype)) is not None


def _is_text(feature: Any) -> bool:
    return _name(feature) == "Value" and str(feature.dtype) in ("string", "large_string")


def _kind(feature: Any) -> str:
    """Return the kind of modality of a column that `_no_input` accepts and that is no number."""
    if _is_text(feature):
        return "text"
    inner = _inner(feature)
    if inner is not None:
        return "video" if _name(inner) == "Image" else "timeseries"
    return {"Image": "image", "Audio": "audio", "Video": "video"}[_name(feature)]


def _no_input(name: str, feature: Any) -> str:
    """Return why a column is no input by its type; empty if it is one."""
    kind, inner = _name(feature), _inner(feature)
    if re.fullmatch(r"__index_level_\d+__", name) or (
        (_is_number(feature) or _is_text(feature)) and (name.lower() in _INDEX_NAMES or name.lower().endswith("_id"))
    ):
        return "by its name it identifies rows"
    if _is_number(feature) or _is_text(feature) or kind in ("Image", "Audio", "Video"):
        return ""
    if kind == "ClassLabel" or _name(inner) == "ClassLabel":
        return "classes may give the target away; name it in data.modalities as a table to use it"
    if inner is not None:
        inmost = inner if _inner(inner) is None else _inner(inner)
        if _is_number(inmost) or _name(inner) == "Image":
            return ""
        return "lists of this type have no kind of modality"
    if kind.startswith("Array"):
        return f"give its kind and shape in data.modalities, such as {{{name}: {{kind: grid, shape: […], channel_axis: 0}}}}"
    return "its type has no kind of modality"


def _classes(columns: Mapping[str, Any]) -> list[str]:
    found = [name for name, feature in columns.items() if _name(feature) == "ClassLabel"]
    return found or [name for name, feature in columns.items() if _name(_inner(feature)) == "ClassLabel"]


def _target(columns: Mapping[str, Any]) -> str:
    candidates = _classes(columns)
    if len(candidates) == 1:
        return candidates[0]
    usual = [name for name in TARGET_NAMES if name in (candidates or columns)]
    if usual:
        return usual[0]
    if candidates:
        raise ValueError(f"data.target: the columns {', '.join(candidates)} are of classes; name one: data.target=NAME.")
    raise ValueError(
        f"data.target: no column is of classes or named {' or '.join(TARGET_NAMES)}; name one with data.target=NAME. "
        f"{_listed(columns, {})}"
    )


def _target_kind(feature: Any) -> str:
    inner = _inner(feature)
    if inner is not None and (_is_text(inner) or _name(inner) == "ClassLabel" or _is_number(inner)):
        return "labels"
    return "values" if _name(feature) == "Value" and str(feature.dtype).startswith(("float", "double")) else "classes"


def _translation(features: Mapping[str, Any]) -> list[str]:
    """Return the columns of the languages of the only translation, the source first; an empty list without one."""
    found = {name: languages for name, feature in features.items() if (languages := languages_of(feature))}
    if len(found) != 1 or any(len(languages) != 2 for languages in found.values()):
        return []
    return [f"{name}.{language}" for name, languages in found.items() for language in languages]


def _modality_name(column: str, taken: Mapping[str, Any]) -> str:
    """Return a name for a modality that torch allows: that of the column if possible."""
    name = re.sub(r"\W", "_", column.rpartition(".")[2]) or "column"
    while name in taken or hasattr(nn.ModuleDict(), name):
        name += "_"
    return name


def _listed(columns: Mapping[str, Any], lines: Mapping[str, str]) -> str:
    uses = {name: f", {line}" for name, line in lines.items()}
    each = (f"{name} ({described(feature)}{uses.get(name, '')})" for name, feature in columns.items())
    return f"The columns: {'; '.join(each)}."
