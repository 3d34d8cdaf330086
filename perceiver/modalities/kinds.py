"""Table of the built-in kinds of modality, and look-up of the kind of a spec."""

from __future__ import annotations

import re
from collections.abc import Mapping

from perceiver.modalities.audio import AudioModality
from perceiver.modalities.image import ImageModality, VideoModality
from perceiver.modalities.modality import Axis, Modality
from perceiver.modalities.points import ArrayModality, PointsModality
from perceiver.modalities.spec import ModalitySpec
from perceiver.modalities.table import TableModality
from perceiver.modalities.text import TextModality
from perceiver.modalities.timeseries import TimeSeriesModality

KINDS: dict[str, Modality] = {
    "image": ImageModality(),
    "video": VideoModality(),
    "audio": AudioModality(),
    "points": PointsModality(),
    "text": TextModality(),
    "timeseries": TimeSeriesModality(),
    "table": TableModality(),
}
"""Built-in kinds by the word that a spec has as `kind`. Kinds of other packages are named by their class."""


_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


def kind_of(spec: ModalitySpec) -> Modality:
    """Return the kind of a modality; `ArrayModality` for a word that is not in `KINDS`.

    Imports nothing: a class of another package is found after its package is imported. `perceiver.load` imports trusted
    packages, and the data module imports the packages in the user's settings.

    Raises:
        ValueError: if the spec names a class that is not imported.
    """
    kind = spec.get("kind")
    if not is_class(spec):
        return KINDS.get(str(kind), ArrayModality())
    found = [cls for cls in Modality.__subclasses__() if f"{cls.__module__}.{cls.__qualname__}" == kind]
    if not found:
        package = str(kind).partition(".")[0]
        raise ValueError(
            f"spec.modalities: the kind {kind!r} is a class that is not imported. If you trust that package's code, import "
            f"it, or load with trust=[{package!r}]."
        )
    return found[-1]()  # the last definition, if a notebook repeats it


def is_class(spec: ModalitySpec) -> bool:
    """Return whether the kind is the dotted name of a class. With a `channel_axis` in the spec it is always a word."""
    kind = spec.get("kind")
    return isinstance(kind, str) and "channel_axis" not in spec and _CLASS.fullmatch(kind) is not None


def channel_axes(name: str, spec: ModalitySpec) -> Axis | dict[str, Axis]:
    """Return the channel axis of a modality's samples; see `Modality.channel_axis`.

    Raises:
        ValueError: if neither kind nor spec defines it; names the modality.
    """
    axis = spec.get("channel_axis")
    if axis is None:
        kind = kind_of(spec)
        if not isinstance(kind, ArrayModality):
            return dict(kind.channel_axis) if isinstance(kind.channel_axis, Mapping) else kind.channel_axis
    elif isinstance(axis, Mapping):
        if all(one in (0, -1, "none", None) for one in axis.values()):
            return {str(part): None if one in ("none", None) else int(one) for part, one in axis.items()}
    elif axis in (0, -1, "none"):
        return None if axis == "none" else int(axis)
    raise ValueError(
        f"spec.modalities.{name}: kind {spec.get('kind')!r} is not one of {', '.join(KINDS)}. Declare the layout of "
        "its samples with channel_axis: 0 (channels first), -1 (channels last), none (no channels), or a mapping "
        "from tensor names to these."
    )
