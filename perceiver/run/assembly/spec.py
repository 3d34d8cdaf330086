"""The spec of the data, as a data module declares it and as a checkpoint stores it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from perceiver.checkpoints.spec import check_spec


def spec_of(data: LightningDataModule) -> dict[str, Any]:
    """Return the modalities and the target that the data declares after its setup; ValueError without such a spec."""
    spec = getattr(data, "spec", None)
    if not isinstance(spec, Mapping) or "modalities" not in spec:
        raise ValueError(
            f"data: {type(data).__name__}.spec: expected a dict with 'modalities' and 'target' after setup('fit'), "
            f"got {spec!r}."
        )
    return dict(spec)


def class_names(spec: Mapping[str, Any]) -> list[str]:
    """Return the names of the target's classes; an empty list for a target without classes."""
    return [str(name) for name in spec.get("target", {}).get("names", [])]


def use_stored_spec(
    data: LightningDataModule,
    spec: Mapping[str, Any] | None,
    *,
    file: Path,
    trained_on: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Give the data module the spec that a checkpoint was trained with; it overrides that of the new data.

    Args:
        data: data module, before its setup.
        spec: spec of the checkpoint.
        file: path of the checkpoint, for the message.
        trained_on: data configuration of the checkpoint, for the message.

    Raises:
        ValueError: the spec is missing or invalid, or the data is of another kind.
    """
    if spec is None:
        raise ValueError(
            "ckpt_path: the checkpoint has no spec (modalities, class names), so data for it cannot be prepared."
        )
    try:
        check_spec(spec)
        if not spec.get("modalities"):
            raise ValueError("spec.modalities: expected one modality or more, got none")
    except ValueError as error:
        raise ValueError(f"ckpt_path: {file}: {error}") from error
    try:
        setattr(data, "spec", spec)  # noqa: B010  (Lightning's base class has no spec)
    except ValueError as error:
        source = (trained_on or {}).get("_target_")
        hint = f" It was trained with {source}: select that with data=NAME or experiment=NAME." if source else ""
        raise ValueError(f"ckpt_path: this data does not fit the checkpoint. {error}{hint}") from error
    return dict(spec)
