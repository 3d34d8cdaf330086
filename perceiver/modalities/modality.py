"""Base class of the kinds of modality: images, sound, … or a kind from another package."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from perceiver.modalities.arrays import as_tensor, check_shape
from perceiver.modalities.spec import ModalitySpec

Axis = int | None
"""Channel axis of one tensor of a sample, 0 or -1; None: no channels. The other axes are the grid."""


class Modality(ABC):
    """A kind of modality. Derive from it, override the defaults as needed, and name the class as `kind`:
    `data.modalities={readings: {kind: my_package.Thermometer}}`.

    Instances have no state: they are made without arguments, and everything known of a modality is in its spec.

    Attributes:
        channel_axis: channel axis of a sample: 0 (channels first), -1 (channels last) or None (no channels); for samples of
            several tensors, a dict by their names. The other axes are the grid: lengths may differ along them.
        settings: settings of `data.modalities` besides `kind` and `column`, with defaults.
        adapter: name of the default adapter's YAML, `adapter/<name>.yaml`; None: the name of the kind.
        cells: content of a manifest's cells. "numbers": lists, their JSON text, or the path of a file with numbers. "files":
            paths; `read` gets an object with `read_bytes()` and `suffix`. "values": anything, passed to `read` unchanged.
        several_columns: a sample takes several columns of a manifest, given by the setting `columns`; `read` gets a dict.
        peak: largest value before normalisation, for PSNR; None: unbounded.

    Examples:
        >>> from perceiver import Modality
        >>> class Readings(Modality):
        ...     channel_axis = 0
        ...     settings = {"step_seconds": 60.0}
        ...     def tensor(self, raw, spec, name):
        ...         return super().tensor(raw, spec, name)[None]
        >>> kind = Readings()
        >>> kind.preprocess([20.5, 21.0, 21.5], kind.spec(kind.settings), "sample 1").shape
        torch.Size([1, 3])
    """

    channel_axis: ClassVar[Axis | Mapping[str, Axis]]
    settings: ClassVar[Mapping[str, Any]] = {}
    adapter: ClassVar[str | None] = None
    cells: ClassVar[Literal["numbers", "files", "values"]] = "numbers"
    several_columns: ClassVar[bool] = False
    peak: ClassVar[float | None] = None

    def spec(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the part of the spec that does not depend on the data: by default the settings.

        Args:
            settings: the user's settings, completed with defaults.

        Raises:
            ValueError: for an invalid setting; the message begins with its name.
        """
        return dict(settings)

    def read(self, cell: Any, spec: ModalitySpec) -> Any:
        """Read the raw sample in a manifest's cell; see `cells`. OSError or ValueError for an invalid cell."""
        return cell

    def tensor(self, raw: Any, spec: ModalitySpec, name: str) -> Tensor:
        """Convert a raw sample to a float32 tensor in the model's layout, not normalised; errors call it `name`."""
        return as_tensor(raw, name).to(torch.float32)

    def preprocess(self, raw: Any, spec: ModalitySpec, name: str) -> Tensor | dict[str, Tensor]:
        """Convert a raw sample to the adapter's input, without the batch axis: `tensor`, checked and normalised.

        Deterministic; used in training, evaluation and prediction. Override it for samples of several tensors.

        Raises:
            ValueError, TypeError: if the sample does not fit the spec; the message begins with `name`.
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
        """Return spec entries measured on training samples, preprocessed without them: by default none.

        `perceiver.modalities.statistics.channel_statistics` gives `mean` and `std`.

        Raises:
            ValueError: without samples, or if they never vary.
        """
        return {}

    def drawing(self, spec: ModalitySpec, adapter: Any) -> Any:
        """Return a `perceiver.plots.drawings.Drawing`; None: numbers on a grid. Drawings of built-in kinds are there."""
        return None
