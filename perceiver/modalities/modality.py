"""A kind of modality: everything that the package must know of images, sound, … or of a kind from another package."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from perceiver.modalities.arrays import as_tensor, check_shape

Axis = int | None
"""Where the channels of one tensor of a sample are, 0 or -1; None: there are none. The other axes are the grid."""

ModalitySpec = Mapping[str, Any]
"""The entry of one modality in the spec, plain data. Every entry has `kind`; the rest depends on it:

- `shape` of a sample, None for free sizes, and `channel_axis` where it differs from that of the kind;
- `mean` and `std` of each channel, `range` of integer values, `crop_fraction`, `sample_rate`, `max_seconds`,
  `vocabulary_size`, `max_length`, `num_values`, `step_seconds`, `duration_seconds`, `numbers`, `categories`, …: how raw
  samples are converted and normalised;
- `column`, or `columns`: where a manifest has it; `files`, `time`, `names`: how its cells are read;
- the settings of a kind from another package.
"""


class Modality(ABC):
    """A kind of modality. Derive from it, give the class what differs from the defaults, and name it as `kind`:
    `data.modalities={readings: {kind: my_package.Thermometer}}`.

    Instances have no state: they are made without arguments, and everything that is known of a modality is in its spec.

    Attributes:
        channel_axis: where the channels of a sample are: 0 (channels first), -1 (channels last) or None (no channels); for
            samples of several tensors, by the name of each. The other axes are the grid: lengths may differ along them.
        settings: what `data.modalities` may set beside `kind` and `column`, and the defaults.
        adapter: the name of the default adapter's YAML, `adapter/<name>.yaml`; None: the name of the kind.
        cells: what a manifest's cells hold. "numbers": lists, their JSON text, or the path of a file with numbers. "files":
            paths; `read` gets an object with `read_bytes()` and `suffix`. "values": anything, passed to `read` as it is.
        several_columns: a sample takes several columns of a manifest, `columns` among the settings; `read` gets a dict.
        peak: the largest value before normalisation, for PSNR; None: unbounded.

    Examples:
        >>> from perceiver import Modality
        >>> class Readings(Modality):
        ...     channel_axis = 0
        ...     settings = {"step_seconds": 60.0}
        ...     def tensor(self, raw, spec, name):
        ...         return super().tensor(raw, spec, name)[None]
        >>> kind = Readings()
        >>> kind.preprocess([20.5, 21.0, 21.5], kind.facts(kind.settings), "sample 1").shape
        torch.Size([1, 3])
    """

    channel_axis: ClassVar[Axis | Mapping[str, Axis]]
    settings: ClassVar[Mapping[str, Any]] = {}
    adapter: ClassVar[str | None] = None
    cells: ClassVar[Literal["numbers", "files", "values"]] = "numbers"
    several_columns: ClassVar[bool] = False
    peak: ClassVar[float | None] = None

    def facts(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What the spec holds before the data was seen: by default the settings.

        Args:
            settings: of the user, with the defaults for the others.

        Raises:
            ValueError: an invalid setting; the message begins with its name.
        """
        return dict(settings)

    def read(self, cell: Any, spec: ModalitySpec) -> Any:
        """The raw sample in a manifest's cell; see `cells`. OSError or ValueError where it holds none."""
        return cell

    def tensor(self, raw: Any, spec: ModalitySpec, name: str) -> Tensor:
        """A raw sample as a float32 tensor in the model's layout, not normalised; errors call it `name`."""
        return as_tensor(raw, name).to(torch.float32)

    def preprocess(self, raw: Any, spec: ModalitySpec, name: str) -> Tensor | dict[str, Tensor]:
        """A raw sample -> what the adapter takes, without the batch axis: `tensor`, checked and normalised.

        Deterministic: training, evaluation and prediction call it alike. Override it where samples are several tensors.

        Raises:
            ValueError, TypeError: it does not fit the spec; the message begins with `name`.
        """
        x = self.tensor(raw, spec, name)
        check_shape(x, spec, name)
        return self.normalise(x, spec)

    @final
    def normalise(self, x: Tensor, spec: ModalitySpec) -> Tensor:
        """Subtract the spec's `mean` and divide by its `std`, per channel; any leading batch dimensions."""
        if "mean" not in spec:
            return x
        axis = spec.get("channel_axis", self.channel_axis)
        trailing = 0 if axis == -1 or isinstance(axis, Mapping) else len(spec["shape"]) - 1
        dtype = torch.promote_types(x.dtype, torch.float32)
        mean, std = (torch.tensor(spec[key], dtype=dtype).reshape(-1, *[1] * trailing) for key in ("mean", "std"))
        normalised: Tensor = (x - mean.to(x.device)) / std.to(x.device)
        return normalised

    def statistics(self, samples: Iterable[Any], spec: ModalitySpec) -> dict[str, Any]:
        """What the spec learns from training samples, preprocessed without it: by default nothing.

        `perceiver.modalities.statistics.channel_statistics` gives `mean` and `std`.

        Raises:
            ValueError: there are no samples, or they never vary.
        """
        return {}

    def drawing(self, spec: ModalitySpec, adapter: Any) -> Any:
        """A `perceiver.plots.drawings.Drawing`; None: numbers on a grid. Built-in kinds have theirs there."""
        return None
