"""Import of the modality classes that a stored spec names, under the same rules as the classes of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perceiver.checkpoints.trusted_classes import check_allowed, check_trust, resolve_trusted
from perceiver.modalities.kinds import is_class
from perceiver.modalities.modality import Modality


def import_kinds(spec: Mapping[str, Any] | None, *, trust: Sequence[str]) -> None:
    """Import the packages of the kinds that a spec names as classes, so that `kind_of` finds them.

    Args:
        spec: spec of a checkpoint or of a folder of shards, possibly untrusted.
        trust: packages that the spec may name, besides this package.

    Raises:
        TargetError: for a class outside the trusted packages, or one that is not a `Modality` under its canonical name.
            Raised before anything is called, or imported from outside the trusted packages.
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
