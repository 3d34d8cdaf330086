"""The spec of a modality: what the data determines and preprocessing, adapter and figures must know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ModalitySpec = Mapping[str, Any]
"""The entry of one modality in the spec, plain data. It is a mapping, not a TypedDict, because kinds of other packages add
keys of their own. Every entry has `kind`; the rest depends on it:

- `shape` of a sample, None for free sizes, and `channel_axis` if it differs from the kind's default;
- `mean` and `std` of each channel, `range` of integer values, `crop_fraction`, `sample_rate`, `max_seconds`,
  `vocabulary_size`, `max_length`, `truncate`, `num_values`, `step_seconds`, `duration_seconds`, `numbers`, `categories`, …:
  how raw samples are converted and normalised;
- `column`, or `columns`: its columns in a manifest; `files`, `time`, `names`: how its cells are read;
- the settings of a kind from another package.
"""
