"""Layout of the tensors of each kind of modality."""

from __future__ import annotations

Axis = int | None
"""Where the channels of one tensor of a sample are, 0 or -1; None: it has none. Its other axes are the grid."""


CHANNEL_AXES: dict[str, Axis | dict[str, Axis]] = {
    "image": 0,
    "audio": 0,
    "video": 0,
    "points": -1,
    "text": None,
    "timeseries": {"values": -1, "times": None, "present": -1},
    "table": {"numbers": -1, "categories": -1, "present": -1},
}
"""By kind of modality; for kinds whose samples are several tensors, by the name of each. See `channel_axis` in the spec."""
