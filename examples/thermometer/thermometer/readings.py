"""Thermometer readings as a kind of modality."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from perceiver.modalities import Modality, ModalitySpec, channel_statistics


class Readings(Modality):
    """Readings in °C at equal intervals: a list of numbers, an array, or a tensor `(T,)`; the adapter gets `(1, T)`."""

    channel_axis = 0
    settings: ClassVar = {"step_seconds": 3600.0}
    adapter = "thermometer"

    def spec(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the shape (one channel, any length) and the interval, which the adapter's YAML refers to."""
        if not settings["step_seconds"] > 0:
            raise ValueError(f"step_seconds: expected a number above 0, got {settings['step_seconds']!r}.")
        return {"shape": [1, None], "step_seconds": float(settings["step_seconds"])}

    def tensor(self, raw: Any, spec: ModalitySpec, name: str) -> Tensor:
        """Return readings with a channel axis."""
        x = super().tensor(raw, spec, name)
        return x[None] if x.ndim == 1 else x

    def statistics(self, samples: Iterable[Any], spec: ModalitySpec) -> dict[str, Any]:
        """Return mean and standard deviation of all readings."""
        return channel_statistics(samples, channel_axis=0)
