"""The modalities of a manifest: which kind each is, in which columns it stands, and the settings of its kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from perceiver.modalities.framing import Frame
from perceiver.modalities.text_bytes import VOCABULARY_SIZE

SETTINGS: dict[str, dict[str, Any]] = {
    "image": {"size": None, "channels": 3, "crop_fraction": 1.0, "deep_range": None},
    "video": {"size": None, "channels": 3, "crop_fraction": 1.0, "deep_range": None, "num_frames": 16},
    "audio": {"sample_rate": None, "channels": 1, "max_seconds": None},
    "points": {"unit_sphere": True},
    "text": {"files": False, "max_length": None, "vocabulary_size": VOCABULARY_SIZE},
    "timeseries": {"time": None, "values": None, "step_seconds": None},
    "table": {"columns": None, "numbers": None, "categories": None, "decimal": None, "thousands": None},
}
"""The settings of each kind and their defaults; None: of the data module, or found in the training split."""


@dataclass(frozen=True, kw_only=True)
class Modality:
    """One modality of a manifest.

    Args:
        name: the key in `Batch.inputs`.
        kind: see `SETTINGS`; of other kinds, cells are arrays of numbers.
        columns: of the manifest; one, but for tables.
        facts: what its spec holds before the data was seen, settings of its kind included.
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)


def parse_modalities(settings: Mapping[str, Any], *, defaults: Mapping[str, Any]) -> list[Modality]:
    """From what the user wrote, `{photo: image, patient: {kind: table, columns: [age, sex]}}`, to modalities.

    Args:
        settings: by name, a kind or a mapping with `kind`, maybe `column` (the name where there is none) and settings.
        defaults: settings for all modalities of a kind that do not say otherwise: `size`, `sample_rate`, `channels` …, by
            kind.

    Raises:
        ValueError: an unknown setting, or one that makes no sense; names it.
    """
    if not settings:
        raise ValueError("data.modalities: expected one modality or more, e.g. {photo: image, sound: audio}, got none.")
    return [_modality(str(name), said, defaults) for name, said in settings.items()]


def stored_modality(name: str, facts: Mapping[str, Any]) -> Modality:
    """The modality that an entry of a stored spec describes."""
    columns = facts.get("columns") or [facts.get("column", name)]
    return Modality(name=name, kind=str(facts["kind"]), columns=tuple(str(column) for column in columns), facts=dict(facts))


def _modality(name: str, said: Any, defaults: Mapping[str, Any]) -> Modality:
    where = f"data.modalities.{name}"
    if not name or "." in name or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"{where}: torch has no module of that name; call it otherwise, and say its column: {{column: {name}}}."
        )
    own = {"kind": said} if isinstance(said, str) else dict(said) if isinstance(said, Mapping) else {}
    kind = own.pop("kind", None)
    if not isinstance(kind, str):
        raise ValueError(f"{where}: expected a kind, one of {', '.join(SETTINGS)}, or {{kind: …, …}}, got {said!r}.")
    if kind == "table":
        return _table(name, own)
    column = str(own.pop("column", name))
    if kind not in SETTINGS:
        if not isinstance(own.get("shape"), Sequence):
            raise ValueError(
                f"{where}: kind {kind!r} is none of {', '.join(SETTINGS)}. For a kind of your own say the shape of its "
                f"samples, e.g. {{kind: {kind}, shape: [null, 3], channel_axis: -1}}."
            )
        return Modality(name=name, kind=kind, columns=(column,), facts={"kind": kind, **own, "column": column})
    if unknown := sorted(str(setting) for setting in set(own) - set(SETTINGS[kind])):
        known = ", ".join(["column", *SETTINGS[kind]])
        raise ValueError(f"{where}: {kind} has no setting {', '.join(unknown)}; it has {known}.")
    merged = {**SETTINGS[kind], **defaults.get(kind, {}), **own}
    try:
        facts = _FACTS[kind](merged)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return Modality(name=name, kind=kind, columns=(column,), facts={"kind": kind, **facts, "column": column})


def _table(name: str, own: dict[str, Any]) -> Modality:
    where = f"data.modalities.{name}"
    if unknown := sorted(set(own) - set(SETTINGS["table"])):
        raise ValueError(f"{where}: table has no setting {', '.join(unknown)}; it has {', '.join(SETTINGS['table'])}.")
    lists = {key: [str(column) for column in own.get(key) or ()] for key in ("columns", "numbers", "categories")}
    separators = {key: str(own[key]) for key in ("decimal", "thousands") if own.get(key) is not None}
    for key, separator in separators.items():
        if len(separator) != 1 or separator.isalnum() or separators.get("decimal") == separators.get("thousands"):
            raise ValueError(f"{where}.{key}: expected one character between digits, such as ',', got {separators}.")
    columns = [*lists["columns"], *(column for column in lists["numbers"] + lists["categories"])]
    columns = list(dict.fromkeys(columns))
    if not columns or set(lists["numbers"]) & set(lists["categories"]):
        raise ValueError(
            f"{where}: expected columns, or numbers and categories, each a list of different columns, e.g. "
            f"{{kind: table, columns: [age, sex]}}; got {own}."
        )
    facts = {"kind": "table", "columns": columns, "asked_numbers": lists["numbers"], "asked_categories": lists["categories"]}
    facts |= separators
    return Modality(name=name, kind="table", columns=tuple(columns), facts=facts)


def _positive(settings: Mapping[str, Any], key: str, *, whole: bool = True, optional: bool = True) -> None:
    value = settings[key]
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not value > 0:
        raise ValueError(f"{key}: expected a {'whole ' if whole else ''}number above 0, got {value!r}.")


def _image(settings: Mapping[str, Any]) -> dict[str, Any]:
    if settings["channels"] not in (1, 3):
        raise ValueError(f"channels: expected 3 (colour) or 1 (grey), got {settings['channels']!r}.")
    frame = Frame(size=settings["size"], crop_fraction=settings["crop_fraction"])
    deep = settings["deep_range"]
    if deep is not None and (len(deep) != 2 or not deep[0] < deep[1]):
        raise ValueError(f"deep_range: expected [black, white] of images with more than 8 bits per pixel, got {deep!r}.")
    return {
        **({} if deep is None else {"deep_range": list(deep)}),
        "shape": [settings["channels"], frame.height, frame.width],
        "range": [0, 255],
        "crop_fraction": frame.crop_fraction,
    }


def _video(settings: Mapping[str, Any]) -> dict[str, Any]:
    _positive(settings, "num_frames")
    facts = _image(settings)
    channels, height, width = facts["shape"]
    return {**facts, "shape": [channels, settings["num_frames"], height, width]}


def _audio(settings: Mapping[str, Any]) -> dict[str, Any]:
    _positive(settings, "sample_rate", optional=False)
    _positive(settings, "channels", optional=False)
    _positive(settings, "max_seconds", whole=False)
    return {
        "shape": [settings["channels"], None],
        "sample_rate": settings["sample_rate"],
        "max_seconds": settings["max_seconds"],
        "integer_bits": 16,  # of numbers in lists, which have no type
    }


def _text(settings: Mapping[str, Any]) -> dict[str, Any]:
    _positive(settings, "max_length")
    _positive(settings, "vocabulary_size", optional=False)
    return {"shape": [None], **{key: settings[key] for key in ("vocabulary_size", "max_length", "files")}}


def _timeseries(settings: Mapping[str, Any]) -> dict[str, Any]:
    _positive(settings, "step_seconds", whole=False)
    values = settings["values"]
    names = {} if values is None else {"names": [str(name) for name in values], "num_values": len(values)}
    if values is not None and not values:
        raise ValueError("values: expected the names of one column or more, or null for all, got none.")
    return {"time": settings["time"], "step_seconds": settings["step_seconds"], **names}


_FACTS = {
    "image": _image,
    "video": _video,
    "audio": _audio,
    "points": lambda settings: {"unit_sphere": bool(settings["unit_sphere"])},
    "text": _text,
    "timeseries": _timeseries,
}
