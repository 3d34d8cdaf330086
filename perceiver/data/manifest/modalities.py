"""The modalities of a manifest: which kind each is, in which columns it stands, and the settings of its kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from perceiver.checkpoints.trusted_classes import resolve, spelling
from perceiver.modalities.kinds import KINDS, kind_of
from perceiver.modalities.modality import Modality


@dataclass(frozen=True, kw_only=True)
class ManifestModality:
    """One modality of a manifest.

    Args:
        name: the key in `Batch.inputs`.
        kind: as the spec has it: a word, or the class of a kind of another package.
        columns: of the manifest; one, but for tables.
        facts: what its spec holds before the data was seen, settings of its kind included.
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def behaviour(self) -> Modality:
        """The kind itself."""
        return kind_of(self.facts)

    @property
    def several_columns(self) -> bool:
        """Whether a sample is a dict from column to value."""
        return self.behaviour.several_columns


def parse_modalities(settings: Mapping[str, Any], *, defaults: Mapping[str, Any]) -> list[ManifestModality]:
    """From what the user wrote, `{photo: image, patient: {kind: table, columns: [age, sex]}}`, to modalities.

    Args:
        settings: by name, a kind or a mapping with `kind`, maybe `column` (the name where there is none) and settings. A
            kind is a word, or a class derived from `perceiver.modalities.Modality` or its dotted name.
        defaults: settings for all modalities of a kind that do not set it: `size`, `sample_rate`, `channels` …, by kind.

    Raises:
        ValueError: an unknown setting, or an invalid one; names it.
    """
    if not settings:
        raise ValueError("data.modalities: expected one modality or more, e.g. {photo: image, sound: audio}, got none.")
    return [_modality(str(name), given, defaults) for name, given in settings.items()]


def stored_modality(name: str, facts: Mapping[str, Any]) -> ManifestModality:
    """The modality that an entry of a stored spec describes."""
    columns = facts.get("columns") or [facts.get("column", name)]
    return ManifestModality(name=name, kind=str(facts["kind"]), columns=tuple(map(str, columns)), facts=dict(facts))


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
        return ManifestModality(name=name, kind=kind, columns=(column,), facts={"kind": kind, **own, "column": column})
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
        facts = {"kind": kind, **behaviour.facts({**behaviour.settings, **defaults.get(kind, {}), **own})}
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if several:
        return ManifestModality(name=name, kind=kind, columns=tuple(facts["columns"]), facts=facts)
    return ManifestModality(name=name, kind=kind, columns=(column,), facts={**facts, "column": column})


def _plug_in(kind: str, *, where: str) -> Modality:
    """The kind that the user's own settings name, from any installed package."""
    cls = resolve(kind, path=where, base=Modality)
    try:
        made: Modality = cls()
    except TypeError as error:
        raise ValueError(f"{where}: {kind} cannot be made without arguments: {error}.") from error
    return made
