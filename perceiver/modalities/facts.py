"""Types and ranges of the facts in a spec, for built-in kinds of modality and target. Without torch: exported models check
theirs, too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from math import isfinite, prod
from typing import Any

from perceiver.runtime.plain import PlainError, child_path, refuse_special_keys

_MOST = 2**31 - 1  # sizes and rates
_MOST_AXES = 8
_MOST_VALUES = 2**30  # of a sample

Fits = Callable[[Any], bool]


def check_facts(spec: object, *, path: str, modality_kinds: Collection[str], target_kinds: Collection[str]) -> None:
    """Check a plain tree that is used as a spec; see `perceiver.checkpoints.spec.check_spec`.

    Args:
        spec: the tree; see `perceiver.runtime.plain`.
        path: name of the tree in errors.
        modality_kinds: the built-in kinds of modality; facts of others may be any plain values.
        target_kinds: the built-in kinds of target.

    Raises:
        PlainError: an entry has a type or value that no spec has, or a key is reserved by Hydra; the message names it.
    """
    if not isinstance(spec, Mapping):
        raise PlainError(f"{path}: expected a mapping with modalities and target, got {_shown(spec)}")
    refuse_special_keys(spec, path=path)
    for key in ("num_classes", "num_outputs"):
        if spec.get(key) is not None:
            _require(spec, key, "a whole number, 1 or more", _is_size, path)
    modalities = spec.get("modalities", {})
    if not isinstance(modalities, Mapping):
        raise PlainError(
            f"{child_path(path, 'modalities')}: expected a mapping from names to entries, got {_shown(modalities)}"
        )
    for name, entry in modalities.items():
        _check_modality(entry, child_path(child_path(path, "modalities"), name), modality_kinds)
    if spec.get("target") is not None:
        _check_target(spec["target"], child_path(path, "target"), target_kinds)


def _check_modality(entry: object, path: str, kinds: Collection[str]) -> None:
    if not isinstance(entry, Mapping):
        raise PlainError(f"{path}: expected a mapping with a kind, got {_shown(entry)}")
    kind = entry.get("kind")
    if kind is not None and not isinstance(kind, str):
        raise PlainError(f"{child_path(path, 'kind')}: expected a string, got {_shown(kind)}")
    if kind not in kinds:
        return
    # A table of categories alone has no numbers to normalise.
    unused = ("mean", "std") if kind == "table" and not entry.get("numbers") else ()
    for key, (expected, fits) in _FACTS.items():
        if entry.get(key) is not None and not (key in unused and entry[key] == []):
            _require(entry, key, expected, fits, path)
    axes = _AXES.get(str(kind))
    if axes is not None and entry.get("shape") is not None and len(entry["shape"]) != axes:
        raise PlainError(
            f"{child_path(path, 'shape')}: expected {axes} sizes for kind {kind!r}, got {_shown(entry['shape'])}"
        )
    if (values := prod(size for size in entry.get("shape") or () if size is not None)) > _MOST_VALUES:
        raise PlainError(f"{child_path(path, 'shape')}: expected at most {_MOST_VALUES:,} values per sample, got {values:,}")
    _check_same_length(entry, ("mean", "std"), path)
    for key in _NEVER_NULL:
        if key in entry and entry[key] is None and (key != "shape" or axes is not None):
            raise PlainError(f"{child_path(path, key)}: expected {_FACTS[key][0]}, got nothing")


def _check_target(target: object, path: str, kinds: Collection[str]) -> None:
    if not isinstance(target, Mapping):
        raise PlainError(f"{path}: expected a mapping with a kind, got {_shown(target)}")
    kind = target.get("kind")
    if kind is not None and not isinstance(kind, str):
        raise PlainError(f"{child_path(path, 'kind')}: expected a string, got {_shown(kind)}")
    if kind not in kinds:
        return
    needed = ["tokenizer", "max_length", "vocabulary_size"] if kind == "text" else ["names"]
    needed += ["mean", "std"] if kind in ("values", "field", "flow") else []
    needed += ["modality"] if kind in ("segmentation", "field", "flow") else []
    for key in needed:
        _require(target, key, *_TARGET_FACTS[key], path)
    for key, (expected, fits) in _TARGET_FACTS.items():
        if target.get(key) is not None:
            _require(target, key, expected, fits, path)
    _check_same_length(target, ("names", "mean", "std"), path)


def _check_same_length(entry: Mapping[str, Any], keys: tuple[str, ...], path: str) -> None:
    lengths = {key: len(entry[key]) for key in keys if entry.get(key) is not None}
    if len(set(lengths.values())) > 1 or ("mean" in lengths) != ("std" in lengths):
        raise PlainError(f"{path}: expected as many entries in {', '.join(keys)}, got {_shown(lengths)}")


def _require(entry: Mapping[str, Any], key: str, expected: str, fits: Fits, path: str) -> None:
    value = entry.get(key)
    if not fits(value):
        raise PlainError(f"{child_path(path, key)}: expected {expected}, got {_shown(value)}")


def _is_number(value: object) -> bool:
    # An int of a plain tree has at most 64 bits.
    return type(value) in (int, float) and isfinite(value)  # type: ignore[arg-type]


def _is_positive(value: object) -> bool:
    return _is_number(value) and 0 < value <= _MOST  # type: ignore[operator]


def _is_size(value: object) -> bool:
    return type(value) is int and 1 <= value <= _MOST


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _list_of(fits: Fits, *, least: int = 0, most: int | None = None) -> Fits:
    return lambda value: (
        isinstance(value, list)
        and len(value) >= least
        and (most is None or len(value) <= most)
        and all(fits(one) for one in value)
    )


def _is_range(value: object) -> bool:
    return _list_of(_is_number, least=2, most=2)(value) and value[0] < value[1]  # type: ignore[index]


def _is_tokenizer(value: object) -> bool:
    if not isinstance(value, Mapping) or value.get("kind", "bytes") not in ("bytes", "pairs"):
        return False
    return value.get("kind") != "pairs" or _is_text(value.get("json"))


def _is_input_tokenizer(value: object) -> bool:
    if isinstance(value, Mapping) and value.get("kind") == "library":
        return _is_text(value.get("json")) and _is_size(value.get("max_length"))
    return _is_tokenizer(value)


def _is_dictionary(value: object) -> bool:
    pair = _list_of(_is_text, least=2, most=2)
    return isinstance(value, Mapping) and _is_text(value.get("modality")) and _list_of(pair)(value.get("pairs"))


def _is_size_or_free(value: object) -> bool:
    return value is None or _is_size(value)


def _mapping_of(fits: Fits) -> Fits:
    return lambda value: isinstance(value, Mapping) and all(fits(one) for one in value.values())


_NUMBERS = ("a list of finite numbers", _list_of(_is_number, least=1))
_DEVIATIONS = (
    "a list of finite numbers above 0",
    _list_of(lambda value: _is_number(value) and value > 0, least=1),
)
_TEXTS = ("a list of strings", _list_of(_is_text))
_TEXT = ("a string", _is_text)
_SEPARATOR = ("one character", lambda value: _is_text(value) and len(value) == 1)
_SIZE = ("a whole number, 1 or more", _is_size)
_POSITIVE = ("a finite number above 0", _is_positive)
_FLAG = ("true or false", lambda value: isinstance(value, bool))

_TOKENIZER = ("a tokenizer, kind bytes, or kind pairs with its json", _is_tokenizer)

# The keys of `perceiver.modalities.media.framing.RESAMPLING`, which needs Pillow.
_FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")

_FACTS: dict[str, tuple[str, Fits]] = {
    "shape": ("a list of sizes, 1 or more or null", _list_of(_is_size_or_free, least=1, most=_MOST_AXES)),
    "mean": _NUMBERS,
    "std": _DEVIATIONS,
    "range": ("[lowest, highest]", _is_range),
    "deep_range": ("[black, white]", _is_range),
    "crop_fraction": ("a share above 0, at most 1", lambda value: _is_positive(value) and value <= 1),
    "sample_rate": _POSITIVE,
    "max_seconds": _POSITIVE,
    "vocabulary_size": _SIZE,
    "max_length": _SIZE,
    "truncate": _FLAG,
    "tokenizer": ("a tokenizer, kind bytes, pairs or library with its json", _is_input_tokenizer),
    "interpolation": (f"one of {', '.join(_FILTERS)}", lambda value: isinstance(value, str) and value in _FILTERS),
    "num_values": _SIZE,
    "step_seconds": _POSITIVE,
    "duration_seconds": ("a finite number, 0 or more", lambda value: _is_number(value) and value >= 0),
    "column": _TEXT,
    "columns": _TEXTS,
    "numbers": _TEXTS,
    "categories": ("a mapping from columns to lists of strings", _mapping_of(_list_of(_is_text))),
    "written": (
        "a mapping from columns to decimal, thousands and unit",
        _mapping_of(lambda value: _mapping_of(_is_text)(value) and set(value) in (set(), {"decimal", "thousands", "unit"})),
    ),
    "dates": (
        "a mapping from columns to written and unit",
        _mapping_of(lambda value: _mapping_of(_is_text)(value) and set(value) == {"written", "unit"}),
    ),
    "decimal": _SEPARATOR,
    "thousands": _SEPARATOR,
    "time": _TEXT,
    "names": _TEXTS,
    "files": _FLAG,
    "unit_sphere": _FLAG,
}
"""Facts of the built-in kinds of modality; null is the same as a missing entry, except for `_NEVER_NULL`."""

_NEVER_NULL = ("shape", "mean", "std", "range", "crop_fraction", "sample_rate", "vocabulary_size", "num_values")
"""Facts that a kind uses whenever the entry exists."""

_AXES = {"image": 3, "video": 4, "audio": 2}

_TARGET_FACTS: dict[str, tuple[str, Fits]] = {
    "tokenizer": _TOKENIZER,
    "max_length": _SIZE,
    "vocabulary_size": _SIZE,
    "truncate": _FLAG,
    "dictionary": ("a modality and pairs of words", _is_dictionary),
    "names": _TEXTS,
    "mean": _NUMBERS,
    "std": _DEVIATIONS,
    "modality": _TEXT,
    "mask_values": ("a list of whole numbers, 0 or more", _list_of(_is_count)),
    "counts": ("a list of whole numbers, 0 or more", _list_of(_is_count)),
    "threshold": ("a probability", lambda value: _is_number(value) and 0 <= value <= 1),
    "separator": ("a string of one or more characters", lambda value: _is_text(value) and value != ""),
}


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({type(value).__name__})"
