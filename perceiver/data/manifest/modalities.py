"""The modalities of a manifest: kinds, columns, and settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from perceiver.checkpoints.trusted_classes import resolve, spelling
from perceiver.modalities.kinds import KINDS, kind_of
from perceiver.modalities.modality import Modality
from perceiver.modalities.spec import ModalitySpec


@dataclass(frozen=True, kw_only=True)
class ManifestModality:
    """A modality of a manifest.

    Args:
        name: key in `Batch.inputs`.
        kind: kind as in the spec: a word, or the class of a kind of another package.
        columns: columns of the manifest; a single column except for tables.
        spec: spec before the data is read, including settings of the kind.
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    spec: dict[str, Any] = field(default_factory=dict)

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
    if not settings:
        raise ValueError("data.modalities: expected one modality or more, e.g. {photo: image, sound: audio}, got none.")
    return [_modality(str(name), given, defaults) for name, given in settings.items()]


def stored_modality(name: str, spec: ModalitySpec) -> ManifestModality:
    """Return the modality described by an entry of a stored spec."""
    columns = spec.get("columns") or [spec.get("column", name)]
    return ManifestModality(name=name, kind=str(spec["kind"]), columns=tuple(map(str, columns)), spec=dict(spec))


def _modality(name: str, given: Any, defaults: Mapping[str, Any]) -> ManifestModality:
    where = f"data.modalities.{name}"
    if not name or "." in name or hasattr(nn.ModuleDict(), name):
        raise ValueError(f"{where}: torch has no module of that name; rename it and give its column: {{column: {name}}}.")
    own = {"kind": given} if isinstance(given, str | type) else dict(given) if isinstance(given, Mapping) else {}
    kind = own.pop("kind", None)
    if isinstance(kind, type) and issubclass(kind, Modality):
        kind = spelling(kind)
    if not isinstance(kind, str):
        raise ValueError(f"{where}: expected a kind, one of {', '.join(KINDS)}, or {{kind: …, …}}, got {given!r}.")
    if kind not in KINDS and isinstance(own.get("shape"), Sequence) and ("." not in kind or "channel_axis" in own):
        column = str(own.pop("column", name))
        return ManifestModality(name=name, kind=kind, columns=(column,), spec={"kind": kind, **own, "column": column})
    if kind not in KINDS and "." not in kind:
        raise ValueError(
            f"{where}: kind {kind!r} is none of {', '.join(KINDS)}. Name the class of a kind of your own, e.g. "
            f"my_package.{kind.title()}, or say the shape of its samples, e.g. {{kind: {kind}, shape: [null, 3], "
            "channel_axis: -1}."
        )
    behaviour = KINDS[kind] if kind in KINDS else _plug_in(kind, where=f"{where}.kind")
    several = behaviour.several_columns
    column = str(name if several else own.pop("column", name))
    if unknown := sorted(str(setting) for setting in set(own) - set(behaviour.settings)):
        known = ", ".join([*(() if several else ("column",)), *behaviour.settings])
        raise ValueError(f"{where}: {kind} has no setting {', '.join(unknown)}; it has {known}.")
    kind = kind if kind in KINDS else spelling(type(behaviour))
    try:
        spec = {"kind": kind, **behaviour.spec({**behaviour.settings, **defaults.get(kind, {}), **own})}
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if several:
        return ManifestModality(name=name, kind=kind, columns=tuple(spec["columns"]), spec=spec)
    return ManifestModality(name=name, kind=kind, columns=(column,), spec={**spec, "column": column})


def _plug_in(kind: str, *, where: str) -> Modality:
    """Return the kind that the user's settings name, from any installed package."""
    cls = resolve(kind, path=where, base=Modality)
    try:
        made: Modality = cls()
    except TypeError as error:
        raise ValueError(f"{where}: {kind} cannot be made without arguments: {error}.") from error
    return made
