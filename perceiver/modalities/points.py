"""Point sets: centring and scaling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from perceiver.modalities.arrays import as_tensor, check_shape
from perceiver.modalities.cells.written_numbers import given_separators
from perceiver.modalities.modality import Modality
from perceiver.modalities.spec import ModalitySpec


@final
class PointsModality(Modality):
    """Point sets `(P, coordinates + features)`, centred and scaled if the spec has `unit_sphere`.

    From PLY and PCD files, the setting `features` selects columns besides the coordinates: names, or "normals" or "colors".
    `decimal` and `thousands` are the separators of numbers in files of text, if files do not show them.
    """

    channel_axis = -1
    settings: ClassVar = {"unit_sphere": True, "features": (), "decimal": None, "thousands": None}

    def spec(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return whether point sets are centred and scaled, and the columns that are features."""
        features = settings["features"]
        if isinstance(features, str) or not all(isinstance(name, str) for name in features):
            raise ValueError(f"features: expected a list of names, such as [normals, colors], got {features!r}.")
        facts: dict[str, Any] = {"unit_sphere": bool(settings["unit_sphere"]), **given_separators(settings)}
        return {**facts, "features": list(features)} if features else facts

    def tensor(self, raw: Any, spec: ModalitySpec, name: str) -> Tensor:
        """Convert one point set."""
        return _in_unit_sphere(raw, spec, name)

    def statistics(self, samples: Iterable[Any], spec: ModalitySpec) -> dict[str, Any]:
        """Return the shape: any number of points, with the coordinates and features of the first set."""
        first = next(iter(samples), None)
        if first is None:
            raise ValueError("no training point set can be read.")
        if first.ndim != 2:
            raise ValueError(f"expected point sets (points, coordinates), got shape {tuple(first.shape)}.")
        return {"shape": [None, first.shape[1]]}


@final
class ArrayModality(Modality):
    """Arrays and tensors of a kind without a class: `shape` and `channel_axis` come from the spec."""

    channel_axis = None

    def tensor(self, raw: Any, spec: ModalitySpec, name: str) -> Tensor:
        """Convert one array."""
        return _in_unit_sphere(raw, spec, name)


def _in_unit_sphere(raw: Any, spec: ModalitySpec, name: str) -> Tensor:
    x = as_tensor(raw, name)
    if not spec.get("unit_sphere"):
        return x.to(torch.float32)
    check_shape(x, spec, name)
    # Map coordinates have more digits than float32, so they are centred first.
    return to_unit_sphere(x if x.dtype == torch.float32 else x.to(torch.float64)).to(torch.float32)


def to_unit_sphere(points: Tensor, *, num_coordinates: int = 3) -> Tensor:
    """Centre a point set `(P, coordinates + features)` on its mean and scale it to radius 1.

    A set of identical points becomes 0.
    """
    coordinates = points[:, :num_coordinates]
    coordinates = coordinates - coordinates.mean(dim=0)
    radius = torch.linalg.vector_norm(coordinates, dim=1).amax()
    scaled = coordinates / torch.where(radius > 0, radius, torch.ones_like(radius))
    return torch.cat([scaled, points[:, num_coordinates:]], dim=1)
