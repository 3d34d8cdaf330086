"""Comparison of the weights of a checkpoint with those of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

PREFIX = "model."
"""Prefix of the names of a model's weights in a checkpoint, where a task holds the model."""

_MOST_LISTED = 3


def without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the model's weights by their names in the model; other entries, such as metrics, are left out."""
    return {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}


def differences(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> list[str]:
    """Summarise the weights that are missing, unexpected or of another shape in a checkpoint; empty if all fit."""
    missing = [name for name in own if name not in stored]
    extra = [name for name in stored if name not in own]
    reshaped = [name for name in own if name in stored and own[name].shape != stored[name].shape]
    return [
        *_summary("differ in shape", reshaped, lambda n: f"checkpoint {_size(stored[n])}, model {_size(own[n])}"),
        *_summary("are not in the checkpoint", missing, lambda n: f"model {_size(own[n])}"),
        *_summary("are only in the checkpoint", extra, lambda n: f"checkpoint {_size(stored[n])}"),
    ]


def _summary(what: str, names: Sequence[str], describe: Callable[[str], str]) -> list[str]:
    if not names:
        return []
    listed = ", ".join(f"{name} ({describe(name)})" for name in names[:_MOST_LISTED])
    more = f", and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return [f"{len(names)} parameters {what}: {listed}{more}"]


def _size(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "scalar"
