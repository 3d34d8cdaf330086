"""The modalities of a manifest: kinds, columns, and settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from perceiver.checkpoints.trusted_classes import resolve, spelling
from perceiver.data.manifest.paths import PathPattern
from perceiver.modalities.cells.written_numbers import SEPARATORS
from perceiver.modalities.kinds import KINDS, kind_of
from perceiver.modalities.modality import Modality


@dataclass(frozen=True, kw_only=True)
class ManifestModality:
    """A modality of a manifest.

    Args:
        name: key in `Batch.inputs`.
        kind: kind as in the spec: a word, or the class of a kind of another package.
        columns: columns of the manifest; a single column except for tables and patterns.
        spec: spec before the data is read, including settings of the kind.
        pattern: pattern of the paths of files, filled from the columns; None: cells hold paths or values.
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    spec: dict[str, Any] = field(default_factory=dict)
    pattern: PathPattern | None = None

    @property
    def behaviour(self) -> Modality:
        """The `Modality` object of the kind."""
        return kind_of(self.spec)

    @property
    def several_columns(self) -> bool:
        """Whether a sample is a dict by column."""
        return self.behaviour.several_columns


def parse_modalities(settings: Mapping[str, Any], *, defaults: Mapping[str, Any]) -> list[ManifestModality]:
    """Parse the user's modalities, e.g. `{photo: image, patient: {kind: table, columns: [age, sex]}}`.

    Args:
        settings: by name, a kind or a mapping with `kind`, optionally `column` (default: the name), and settings. A kind is
            a word, a class derived from `perceiver.modalities.Modality`, or its dotted name.
        defaults: default settings by kind: `size`, `sample_rate`, `channels` ….

    Raises:
        ValueError: a setting is unknown or invalid; the message names it.
    """
    if not settings or not isinstance(settings, Mapping):
        raise ValueError(
            "data.modalities: expected one or more modalities with their kinds, e.g. {photo: image, sound: audio}, got "
            f"{settings!r}."
        )
    return [_modality(str(name), given, defaults) for name, given in settings.items()]


def stored_modality(name: str, spec: Mapping[str, Any], *, asked: ManifestModality | None = None) -> ManifestModality:
    """Return the modality described by an entry of a stored spec.

    Args:
        name: name of the modality.
        spec: entry of the spec.
        asked: the modality in the user's settings, whose column or pattern replaces the stored one, and so do separators of
            numbers: other files may be written in another way.

    Raises:
        ValueError: the stored pattern of paths is invalid, or leaves the folder of the data.
    """
    kind = str(spec["kind"])
    columns = tuple(map(str, spec.get("columns") or [spec.get("column", name)]))
    if asked is not None and not asked.several_columns:
        asked_here = {key: asked.spec[key] for key in ("column", "path", *SEPARATORS) if key in asked.spec}
        replaced = ("path", *(SEPARATORS if asked_here.keys() & SEPARATORS else ()))
        kept = {key: value for key, value in spec.items() if key not in replaced}
        return ManifestModality(
            name=name, kind=kind, columns=asked.columns, spec={**kept, **asked_here}, pattern=asked.pattern
        )
    pattern = None
    if spec.get("path") is not None and "path" not in kind_of(spec).settings:
        pattern = PathPattern.stored(spec["path"], setting=f"spec.modalities.{name}.path")
        columns = pattern.columns
    return ManifestModality(name=name, kind=kind, columns=columns, spec=dict(spec), pattern=pattern)


def _modality(name: str, given: Any, defaults: Mapping[str, Any]) -> ManifestModality:
    where = f"data.modalities.{name}"
    if not name or "." in name or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"{where}: torch does not allow a module of this name. Rename the modality and give its column: {{column: "
            f"{name}}}."
        )
    own = {"kind": given} if isinstance(given, str | type) else dict(given) if isinstance(given, Mapping) else {}
    kind = own.pop("kind", None)
    if isinstance(kind, type) and issubclass(kind, Modality):
        kind = spelling(kind)
    if not isinstance(kind, str):
        raise ValueError(f"{where}: expected a kind, one of {', '.join(KINDS)}, or {{kind: …, …}}, got {given!r}.")
    if kind not in KINDS and isinstance(own.get("shape"), Sequence) and ("." not in kind or "channel_axis" in own):
        return _placed(name, kind, own, {"kind": kind}, where=where)
    if kind not in KINDS and "." not in kind:
        raise ValueError(
            f"{where}: kind {kind!r} is not one of {', '.join(KINDS)}. Name the class of a custom kind, e.g. "
            f"my_package.{kind.title()}, or give the shape of its samples, e.g. {{kind: {kind}, shape: [null, 3], "
            "channel_axis: -1}."
        )
    behaviour = KINDS[kind] if kind in KINDS else _plug_in(kind, where=f"{where}.kind")
    several = behaviour.several_columns
    places = () if several else tuple(key for key in ("column", "path") if key not in behaviour.settings)
    if unknown := sorted(str(setting) for setting in set(own) - set(behaviour.settings) - set(places)):
        known = ", ".join([*places, *behaviour.settings])
        raise ValueError(f"{where}: kind {kind} has no setting {', '.join(unknown)}; its settings: {known}.")
    kind = kind if kind in KINDS else spelling(type(behaviour))
    try:
        given_settings = {key: value for key, value in own.items() if key not in places}
        spec = {"kind": kind, **behaviour.spec({**behaviour.settings, **defaults.get(kind, {}), **given_settings})}
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if several:
        return ManifestModality(name=name, kind=kind, columns=tuple(spec["columns"]), spec=spec)
    return _placed(name, kind, {key: own[key] for key in places if key in own}, spec, where=where)


def _placed(name: str, kind: str, own: Mapping[str, Any], spec: Mapping[str, Any], *, where: str) -> ManifestModality:
    """Return a modality whose cells are those of a column, or name files by a pattern."""
    column, path = own.get("column"), own.get("path")
    if path is None:
        column = str(name if column is None else column)
        spec = {**spec, **{key: value for key, value in own.items() if key != "path"}, "column": column}
        return ManifestModality(name=name, kind=kind, columns=(column,), spec=spec)
    if column is not None:
        raise ValueError(f"{where}: expected a column or a path, got both, {column!r} and {path!r}.")
    pattern = PathPattern.of(path, setting=f"{where}.path")
    spec = {**spec, **own, "path": pattern.text, "column": pattern.columns[0]}
    if kind == "text":
        spec["files"] = True
    if kind_of(spec).cells == "values":
        raise ValueError(f"{where}.path: {kind} takes values, no files; name its column instead.")
    return ManifestModality(name=name, kind=kind, columns=pattern.columns, spec=spec, pattern=pattern)


def _plug_in(kind: str, *, where: str) -> Modality:
    """Return the kind that the user's settings name, from any installed package."""
    cls = resolve(kind, path=where, base=Modality)
    try:
        made: Modality = cls()
    except TypeError as error:
        raise ValueError(f"{where}: {kind} cannot be made without arguments: {error}.") from error
    return made
