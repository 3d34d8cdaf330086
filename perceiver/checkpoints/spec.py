"""Check of specs from files: types and ranges of the entries that built-in kinds of modality and target read.

A spec comes with a checkpoint or shards, and may be damaged or malicious. Checked once, where it enters, its entries need no
checks where they are used. Facts of kinds from other packages may be any plain values.
"""

from __future__ import annotations

from perceiver.modalities.facts import check_facts
from perceiver.modalities.kinds import KINDS as MODALITY_KINDS
from perceiver.targets.kinds import KINDS as TARGET_KINDS


def check_spec(spec: object, *, path: str = "spec") -> None:
    """Check a plain tree that is used as a spec.

    Args:
        spec: the tree; see `perceiver.runtime.plain`.
        path: name of the tree in errors.

    Raises:
        PlainError: an entry has a type or value that no spec has, or a key is reserved by Hydra; the message names it.

    Examples:
        >>> check_spec({"modalities": {"image": {"kind": "image", "shape": [3, 32, 32]}}, "target": {"kind": "values"}})
        Traceback (most recent call last):
            ...
        perceiver.runtime.plain.PlainError: spec.target.names: expected a list of strings, got nothing
    """
    check_facts(spec, path=path, modality_kinds=MODALITY_KINDS.keys(), target_kinds=TARGET_KINDS.keys())
