"""Kinds of modality as another package would have them: one of values, one of files, one of several columns."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from perceiver.modalities import Modality, ModalitySpec, channel_statistics


class Bases(Modality):
    """DNA as text; `(L, 4)`, one channel for each base."""

    channel_axis = -1
    cells = "values"
    adapter = "vector"

    def tensor(self, raw: Any, spec: ModalitySpec, name: str) -> Tensor:
        if not isinstance(raw, str) or set(raw) - set("ACGT"):
            raise ValueError(f"{name}: expected a text of A, C, G and T, got {raw!r}.")
        return torch.tensor([[float(base == one) for one in "ACGT"] for base in raw])


class Counts(Modality):
    """Files of bytes, one count each: `(1, T)`, times `gain`."""

    channel_axis = 0
    cells = "files"
    settings: ClassVar = {"gain": 1.0}

    def spec(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        if settings["gain"] == 0:
            raise ValueError("gain: expected another number than 0.")
        return {"shape": [1, None], "gain": settings["gain"]}

    def read(self, cell: Any, spec: ModalitySpec) -> Any:
        return np.frombuffer(cell.read_bytes(), dtype=np.uint8)[None] * spec["gain"]

    def statistics(self, samples: Iterable[Any], spec: ModalitySpec) -> dict[str, Any]:
        return channel_statistics(samples, channel_axis=0)


class Wind(Modality):
    """Speed and direction from two columns: `(2,)`."""

    channel_axis = 0
    cells = "values"
    several_columns = True
    settings: ClassVar = {"columns": ["speed", "direction"]}

    def tensor(self, raw: Any, spec: ModalitySpec, name: str) -> Tensor:
        speed, direction = (float(raw.get(column, "nan")) for column in spec["columns"])
        angle = torch.tensor(direction).deg2rad()
        return speed * torch.stack([angle.cos(), angle.sin()])


class NeedsArguments(Modality):
    """Not made without arguments."""

    channel_axis = None

    def __init__(self, size: int) -> None:
        self.size = size
