"""Drawings of samples of one modality and of attention on them: an object for each kind of input.

`drawing_of` returns the drawing for the kind in the spec, or `GridDrawing`, which can draw anything. Figures accept other
drawings by the name of the modality.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor, nn

from perceiver.modalities.kinds import kind_of
from perceiver.modalities.spec import ModalitySpec

HEAT = "inferno"


@runtime_checkable
class Drawing(Protocol):
    """Drawing of samples of one modality.

    Attributes:
        size: width and height of its axes in inches.
        projection: projection for `Figure.add_subplot`; None, or "3d".

    Optional are `pair(axes, original, reconstruction)`, which draws two samples for comparison (default: their values as
    lines), and `blank`, the value shown where a sample is masked (default 0).
    """

    size: tuple[float, float]
    projection: str | None

    def sample(self, axes: Axes, x: Any, mask: Tensor | None) -> None:
        """Draw a sample.

        Args:
            axes: axes to draw on.
            x: input of the adapter, without the batch axis, in the units before normalisation.
            mask: `(*raw grid)`, True is valid; None: all valid.
        """
        ...

    def attention(self, axes: Axes, x: Any, mask: Tensor | None, weights: Tensor) -> None:
        """Draw a sample and its attention weights.

        Args:
            axes, x, mask: see `sample`.
            weights: nonnegative weights on the grid of the adapter's tokens, `(*grid)`.
        """
        ...


class ImageDrawing:
    """Images `(C, H, W)` in [0, 1]; attention as colours over a grey image.

    Args:
        stride: pixels between tokens; None: tokens divide the image evenly.
    """

    projection: str | None = None
    blank = 0.5

    def __init__(self, *, stride: int | None = None) -> None:
        self.stride = stride
        self.size = (1.7, 1.7)

    @classmethod
    def of(cls, spec: ModalitySpec, adapter: nn.Module | None) -> ImageDrawing:
        """Make the drawing for the adapter's images."""
        return cls(stride=getattr(adapter, "patch", None))

    def sample(self, axes: Axes, x: Any, mask: Tensor | None) -> None:
        """Draw three channels in colour, otherwise their mean in grey."""
        pixels = _array(x).clip(0.0, 1.0)
        colours = np.moveaxis(pixels, 0, -1) if len(pixels) == 3 else pixels.mean(axis=0)
        axes.imshow(colours, cmap="gray", vmin=0.0, vmax=1.0)
        _bare(axes)

    def attention(self, axes: Axes, x: Any, mask: Tensor | None, weights: Tensor) -> None:
        """Draw attention as brightness over a grey image, so that colour shows attention only."""
        if weights.ndim != 2:
            self.sample(axes, x, mask)
            return
        grey = _array(x).clip(0.0, 1.0).mean(axis=0)
        height, width = grey.shape
        rows, columns = weights.shape
        bottom, right = (rows * self.stride, columns * self.stride) if self.stride else (height, width)
        axes.imshow(grey, cmap="gray", vmin=0.0, vmax=1.0)
        axes.imshow(
            _array(weights), cmap=HEAT, vmin=0.0, alpha=0.7, extent=(-0.5, right - 0.5, bottom - 0.5, -0.5), zorder=2
        )
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        _bare(axes)

    def pair(self, axes: Axes, original: Tensor, reconstruction: Tensor) -> None:
        """Draw the original above the reconstruction."""
        VideoDrawing().pair(axes, original[:, None], reconstruction[:, None])


class VideoDrawing:
    """Videos `(C, T, H, W)` in [0, 1], as several frames side by side; attention as colours over grey frames.

    Args:
        max_frames: maximum number of frames, evenly spaced.
    """

    projection: str | None = None
    blank = 0.5

    def __init__(self, *, max_frames: int = 8) -> None:
        self.max_frames = max_frames
        self.size = (4.2, 1.0)

    @classmethod
    def of(cls, spec: ModalitySpec, adapter: nn.Module | None) -> VideoDrawing:
        """Make the drawing for any video."""
        return cls()

    def sample(self, axes: Axes, x: Any, mask: Tensor | None) -> None:
        """Draw three channels in colour, otherwise their mean in grey."""
        axes.imshow(film_strip(x, max_frames=self.max_frames), cmap="gray", vmin=0.0, vmax=1.0)
        _bare(axes)

    def attention(self, axes: Axes, x: Any, mask: Tensor | None, weights: Tensor) -> None:
        """Draw attention as brightness, each token at the size of its patch."""
        frames = _array(x).clip(0.0, 1.0).mean(axis=0, keepdims=True)
        axes.imshow(film_strip(frames, max_frames=self.max_frames), cmap="gray", vmin=0.0, vmax=1.0)
        if weights.ndim == 3:
            heat = nn.functional.interpolate(torch.as_tensor(_array(weights))[None, None], size=frames.shape[1:])[0]
            strip = film_strip(heat, max_frames=self.max_frames, limit=False)
            axes.imshow(strip, cmap=HEAT, vmin=0.0, alpha=0.7)
        _bare(axes)

    def pair(self, axes: Axes, original: Tensor, reconstruction: Tensor) -> None:
        """Draw frames side by side, the originals above."""
        strips = [film_strip(one) for one in (original, reconstruction)]
        gap = np.ones((max(1, strips[0].shape[0] // 12), *strips[0].shape[1:]))
        axes.imshow(np.concatenate([strips[0], gap, strips[1]]), cmap="gray", vmin=0.0, vmax=1.0)
        _bare(axes)


def film_strip(x: Any, *, max_frames: int = 8, limit: bool = True) -> NDArray[Any]:
    """Join evenly spaced frames of a video `(C, T, H, W)` side by side: `(H, frames * W)` or, in colour, `(…, 3)`.

    Args:
        x: video.
        max_frames: maximum number of frames.
        limit: clip values to [0, 1].
    """
    frames = _array(x)
    frames = frames.clip(0.0, 1.0) if limit else frames
    count = min(max_frames, frames.shape[1])
    frames = frames[:, np.linspace(0, frames.shape[1] - 1, count).round().astype(int)]
    strip = np.moveaxis(frames, 1, 2).reshape(frames.shape[0], frames.shape[2], -1)
    return np.moveaxis(strip, 0, -1) if len(strip) == 3 else strip.mean(axis=0)


class AudioDrawing:
    """Sound `(channels, samples)` over seconds, as a waveform or as the adapter's log-mel spectrum.

    Args:
        sample_rate: sample rate in hertz.
        hop: samples between tokens; None: tokens divide the recording evenly.
        spectrum: `(channels, samples) -> (channels, mels, T)`; None: draw the waveform.
    """

    projection: str | None = None

    def __init__(self, *, sample_rate: int, hop: int | None = None, spectrum: nn.Module | None = None) -> None:
        self.sample_rate = sample_rate
        self.hop = hop
        self.spectrum = spectrum
        self.size = (2.8, 1.6)

    @classmethod
    def of(cls, spec: ModalitySpec, adapter: nn.Module | None) -> AudioDrawing:
        """Make the drawing for the adapter's sound."""
        spectrum = getattr(adapter, "log_mel", None)
        hop = getattr(spectrum, "hop", getattr(adapter, "frame", None))
        return cls(sample_rate=int(spec.get("sample_rate", 1)), hop=hop, spectrum=spectrum)

    def sample(self, axes: Axes, x: Any, mask: Tensor | None) -> None:
        """Draw the first channel."""
        self._draw(axes, x, cmap="magma", colour="tab:blue")

    def attention(self, axes: Axes, x: Any, mask: Tensor | None, weights: Tensor) -> None:
        """Draw attention as a curve over time, or as colours over the spectrum if tokens are also bands."""
        seconds = self._draw(axes, x, cmap="gray", colour="0.6")
        hop = self.hop / self.sample_rate if self.hop else seconds / weights.shape[0]
        if weights.ndim == 1:
            times = (np.arange(len(weights)) + 0.5) * hop
            over = axes.twinx()
            over.fill_between(times, _array(weights), color="tab:orange", alpha=0.4, linewidth=0)
            over.plot(times, _array(weights), color="tab:orange", linewidth=1)
            over.set(ylim=(0.0, None), yticks=[])
        elif weights.ndim == 2:
            extent = (0.0, weights.shape[0] * hop, 0.0, float(weights.shape[1]))
            axes.imshow(
                _array(weights).T, cmap=HEAT, vmin=0.0, alpha=0.6, origin="lower", aspect="auto", extent=extent, zorder=2
            )
        axes.set_xlim(0.0, seconds)

    def pair(self, axes: Axes, original: Tensor, reconstruction: Tensor) -> None:
        """Draw waveforms of the first channel, the original over the reconstruction."""
        for waveform, colour, width in ((reconstruction, "tab:orange", 1.0), (original, "tab:blue", 0.5)):
            axes.plot(np.arange(waveform.shape[-1]) / self.sample_rate, waveform[0].numpy(), color=colour, linewidth=width)
        axes.set(yticks=[], xlim=(0.0, original.shape[-1] / self.sample_rate))
        axes.tick_params(labelsize=6)

    def _draw(self, axes: Axes, x: Any, *, cmap: str, colour: str) -> float:
        """Draw the sound and return its duration in seconds."""
        waveform = torch.as_tensor(_array(x))[:1]
        seconds = waveform.shape[-1] / self.sample_rate
        if self.spectrum is None:
            axes.plot(np.arange(waveform.shape[-1]) / self.sample_rate, waveform[0].numpy(), color=colour, linewidth=0.5)
        else:
            device = next(iter(self.spectrum.buffers()), waveform).device
            with torch.no_grad():
                bands = self.spectrum(waveform.to(device))[0]
            hop = self.hop / self.sample_rate if self.hop else seconds / bands.shape[1]
            extent = (0.0, bands.shape[1] * hop, 0.0, float(bands.shape[0]))
            axes.imshow(_array(bands), cmap=cmap, origin="lower", aspect="auto", extent=extent)
        axes.set(xlim=(0.0, seconds), yticks=[])
        axes.set_xlabel("seconds", fontsize=7)
        axes.tick_params(labelsize=7)
        return seconds


class PointDrawing:
    """Point sets `(P, coordinates + features)` as dots, coloured by attention.

    Args:
        num_coordinates: 2 or 3; of more, the first three are drawn.
        y_down: whether the second of two coordinates points down, as in images.
    """

    def __init__(self, *, num_coordinates: int = 3, y_down: bool = True) -> None:
        self.num_coordinates = min(num_coordinates, 3)
        self.y_down = y_down
        self.projection: str | None = "3d" if self.num_coordinates == 3 else None
        self.size = (2.2, 2.2) if self.projection else (1.7, 1.7)

    @classmethod
    def of(cls, spec: ModalitySpec, adapter: nn.Module | None) -> PointDrawing:
        """Make the drawing for the adapter's point sets."""
        return cls(num_coordinates=int(getattr(adapter, "num_coordinates", 3)))

    def sample(self, axes: Axes, x: Any, mask: Tensor | None) -> None:
        """Draw all valid points in the same colour."""
        self._scatter(axes, x, mask, None)

    def attention(self, axes: Axes, x: Any, mask: Tensor | None, weights: Tensor) -> None:
        """Draw points with more attention brighter and larger."""
        self._scatter(axes, x, mask, weights if weights.ndim == 1 and len(weights) == len(x) else None)

    def _scatter(self, axes: Axes, x: Any, mask: Tensor | None, weights: Tensor | None) -> None:
        valid = slice(None) if mask is None else _array(mask).astype(bool)
        points = _array(x)[valid]
        axis = [points[:, n] if n < points.shape[1] else np.zeros(len(points)) for n in range(3)]
        axis = axis[: max(self.num_coordinates, 2)]
        size = np.clip(600 / max(len(points), 1), 1.5, 8)
        scatter: Any = axes.scatter  # takes three coordinates in a 3d projection
        if weights is None:
            scatter(*axis, s=size, color="tab:blue")
        else:
            heat = _array(weights)[valid]
            heat = heat / max(heat.max(initial=0.0), np.finfo(np.float32).tiny)
            axes.set_facecolor("black")
            scatter(*axis, s=size * (0.6 + 3 * heat), c=heat, cmap=HEAT, vmin=-0.4, vmax=1.0, linewidth=0)
        if self.projection == "3d":
            axes.set(xticks=[], yticks=[], zticks=[])
            axes.set_aspect("equal")
            for pane in ("xaxis", "yaxis", "zaxis"):
                getattr(axes, pane).set_pane_color("white" if weights is None else "black")
        else:
            axes.set_aspect("equal", adjustable="datalim")
            _bare(axes)
            if self.y_down:
                axes.invert_yaxis()


class GridDrawing:
    """Anything on a grid, for kinds without a drawing: lines or colours over the grid."""

    projection: str | None = None

    def __init__(self) -> None:
        self.size = (2.4, 1.6)

    def sample(self, axes: Axes, x: Any, mask: Tensor | None) -> None:
        """Draw the first tensor if there are several."""
        self._draw(axes, next(iter(x.values())) if isinstance(x, Mapping) else x)

    def attention(self, axes: Axes, x: Any, mask: Tensor | None, weights: Tensor) -> None:
        """Draw only the weights, over the grid of the tokens."""
        self._draw(axes, weights, heat=True)

    def _draw(self, axes: Axes, x: Any, *, heat: bool = False) -> None:
        values = _array(x)
        axes.tick_params(labelsize=7)
        if values.size == 0:
            return
        values = values.reshape(1, -1) if values.ndim < 2 else values.reshape(values.shape[0], -1)
        if min(values.shape) == 1 and heat:
            axes.stairs(values.ravel(), np.arange(values.size + 1) - 0.5, color="tab:orange", fill=True)
        elif min(values.shape) == 1:
            axes.plot(values.ravel(), color="tab:blue", linewidth=1, marker="." if values.size < 50 else None)
        else:
            axes.imshow(values, cmap=HEAT if heat else "viridis", aspect="auto", vmin=0.0 if heat else None)


KINDS: dict[str, Callable[[ModalitySpec, nn.Module | None], Drawing]] = {
    "image": ImageDrawing.of,
    "video": VideoDrawing.of,
    "audio": AudioDrawing.of,
    "points": PointDrawing.of,
}
"""Makes a drawing from a modality's spec and adapter, by built-in kind."""


def drawing_of(spec: ModalitySpec, adapter: nn.Module | None) -> Drawing:
    """Return the drawing for the kind of a modality; `GridDrawing` if it has no drawing."""
    drawing: Drawing | None
    if (made := KINDS.get(str(spec.get("kind")))) is not None:
        return made(spec, adapter)
    drawing = kind_of(spec).drawing(spec, adapter)
    return GridDrawing() if drawing is None else drawing


def _array(x: Any) -> NDArray[Any]:
    """Return finite float32 numbers."""
    tensor = x if isinstance(x, Tensor) else torch.as_tensor(x)
    return np.asarray(np.nan_to_num(tensor.detach().cpu().to(torch.float32).numpy()))


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
