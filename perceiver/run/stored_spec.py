"""The spec of a checkpoint and the data that it is tested or used on: what was learned in training holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningDataModule


def use_stored_spec(
    data: LightningDataModule, spec: Mapping[str, Any] | None, *, trained_on: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Give the data module the facts that a checkpoint was trained with: they hold, not what new data would suggest.

    Args:
        data: before it is set up.
        spec: of the checkpoint.
        trained_on: the configuration of its data, for the message.

    Raises:
        ValueError: there is no spec, or the data is of another kind.
    """
    if spec is None:
        raise ValueError("ckpt_path: the checkpoint holds no spec (modalities, class names); its data cannot be prepared.")
    try:
        setattr(data, "spec", spec)  # noqa: B010  (Lightning's base class knows no spec)
    except ValueError as error:
        source = (trained_on or {}).get("_target_")
        hint = f" It was trained with {source}: choose it with data=NAME or experiment=NAME." if source else ""
        raise ValueError(f"ckpt_path: this data does not fit the checkpoint. {error}{hint}") from error
    return dict(spec)
