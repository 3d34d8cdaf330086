"""Kinds of modality that a stored spec spells as classes: held to the same rules as the classes of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perceiver.checkpoints.trusted_classes import check_allowed, check_trust, resolve_trusted
from perceiver.modalities.kinds import is_class
from perceiver.modalities.modality import Modality


def import_kinds(spec: Mapping[str, Any] | None, *, trust: Sequence[str]) -> None:
    """Import the packages of the kinds that a spec spells as classes, so that `kind_of` finds them.

    Args:
        spec: of a checkpoint or of a folder of shards, which may come from a stranger.
        trust: packages that it may name, besides this one.

    Raises:
        TargetError: a class outside the trusted packages, or not a `Modality` by its own spelling; nothing was imported from
            outside the trusted packages, and nothing called.
    """
    modalities = (spec or {}).get("modalities")
    entries = modalities.items() if isinstance(modalities, Mapping) else ()
    classes = [(name, entry["kind"]) for name, entry in entries if isinstance(entry, Mapping) and is_class(entry)]
    named = {f"spec.modalities.{name}.kind": kind for name, kind in classes}
    packages = check_trust(trust)
    for path, kind in named.items():
        check_allowed(kind, trust=packages, path=path)
    for path, kind in named.items():
        resolve_trusted(kind, trust=packages, path=path, base=Modality)
