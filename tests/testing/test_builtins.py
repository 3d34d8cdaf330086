"""Everything that the package brings along passes the kits that plug-ins are checked by."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from image_sets import folder_set, idx_set
from torch import Tensor, nn

import perceiver.adapters
import perceiver.decoders.pooled
from perceiver import (
    ClassificationDecoder,
    Fourier,
    LearnedQueries,
    LearnedTable,
    PooledHead,
    Projected,
    QueryDecoder,
)
from perceiver.adapters import (
    Backbone,
    FrameSurroundings,
    ImageConvStages,
    ImageConvStem,
    ImagePatches,
    ImagePixels,
    LogMelBins,
    LogMelConvStages,
    LogMelFrames,
    Points,
    PointValues,
    SpectrumMasking,
    Table,
    TextTokens,
    TimeSeries,
    TimeSeriesConvStages,
    TimeSeriesPatches,
    Vector,
    VideoPatches,
    WaveformFrames,
)
from perceiver.data import (
    MNIST,
    AudioFolder,
    DataModule,
    DigitPoints,
    Digits,
    ImageFolder,
)
from perceiver.decoders import PerClassDecoder
from perceiver.testing import Check, adapter_checks, check_data_module, head_checks
from perceiver.testing.raw_input import GridAxes


@dataclass(frozen=True)
class Case:
    """An adapter and what it is tried on."""

    make: Callable[[], nn.Module]
    input: Callable[[], Tensor | dict[str, Tensor]]
    grid_axes: GridAxes


SPECTRUM: dict[str, Any] = {
    "sample_rate": 1000,
    "num_mels": 4,
    "window_seconds": 0.04,
    "hop_seconds": 0.02,
    "duration_seconds": 1.0,
}


def space() -> Fourier:
    """A new one for each adapter, which changes its mode."""
    return Fourier(num_bands=2, resolution=(4, 6, 6))


PLANE, LINE = Fourier(num_bands=3, resolution=(8, 8)), Fourier(num_bands=3, resolution=(10,))

IMAGES: tuple[Callable[[], Tensor], GridAxes] = (lambda: torch.rand(3, 2, 11, 7), (2, 3))
SOUNDS: tuple[Callable[[], Tensor], GridAxes] = (lambda: torch.rand(3, 2, 130), (2,))
SETS: tuple[Callable[[], Tensor], GridAxes] = (lambda: torch.rand(3, 9, 4), (1,))


def series() -> dict[str, Tensor]:
    """Three series of seven steps of two values, a minute apart at most, long after the epoch."""
    times = 1.7e9 + torch.rand(3, 7, dtype=torch.float64).mul(60).cumsum(dim=1)
    return {"values": torch.randn(3, 7, 2), "times": times}


def cells() -> dict[str, Tensor]:
    """Four rows of three numbers and two categories, some of them missing."""
    return {
        "numbers": torch.randn(4, 3),
        "categories": torch.randint(0, 4, (4, 2)),
        "present": torch.rand(4, 5) < 0.8,
    }


ADAPTERS = {
    "pixels": Case(lambda: ImagePixels(image_channels=2, position=PLANE), *IMAGES),
    "pixels, learned table": Case(
        lambda: ImagePixels(image_channels=2, position=LearnedTable(grid=(9, 8), channels=5)), *IMAGES
    ),
    "patches": Case(lambda: ImagePatches(image_channels=2, patch=3, position=PLANE), *IMAGES),
    "patches, embedded": Case(lambda: ImagePatches(image_channels=2, patch=3, embed_channels=6, position=PLANE), *IMAGES),
    "convolutional stem": Case(lambda: ImageConvStem(image_channels=2, stem_channels=6, position=PLANE), *IMAGES),
    "convolutional stages": Case(
        lambda: ImageConvStages(image_channels=2, stage_channels=(5, 4, 6), strides=(2, 2, 1), position=PLANE), *IMAGES
    ),
    "waveform": Case(
        lambda: WaveformFrames(audio_channels=2, frame=16, sample_rate=1000, duration_seconds=1.0, position=LINE), *SOUNDS
    ),
    "log-mel frames": Case(lambda: LogMelFrames(audio_channels=2, position=LINE, **SPECTRUM), *SOUNDS),
    "log-mel frames, augmented": Case(
        lambda: LogMelFrames(
            audio_channels=2, position=LINE, augment=SpectrumMasking(max_bands=2, max_frames=2), **SPECTRUM
        ),
        *SOUNDS,
    ),
    "log-mel stages": Case(
        lambda: LogMelConvStages(audio_channels=2, position=LINE, stage_channels=(5, 6), strides=(1, 2), **SPECTRUM), *SOUNDS
    ),
    "log-mel bins": Case(lambda: LogMelBins(audio_channels=2, position=PLANE, **SPECTRUM), *SOUNDS),
    "points": Case(lambda: Points(point_channels=4, scale=2.0, position=Fourier(num_bands=3, resolution=(8, 8, 8))), *SETS),
    "points without features": Case(
        lambda: Points(point_channels=4, num_coordinates=4, position=LearnedTable(grid=(3, 3, 3, 3), channels=5)), *SETS
    ),
    "point values": Case(
        lambda: PointValues(point_channels=4, scale=2.0, position=Fourier(num_bands=3, resolution=(8, 8, 8))), *SETS
    ),
}
ADAPTERS |= {
    "video": Case(
        lambda: VideoPatches(video_channels=2, patch=(2, 3, 3), embedding_channels=6, position=space()),
        lambda: torch.rand(3, 2, 5, 7, 8),
        (2, 3, 4),
    ),
    "video, raw patches": Case(
        lambda: VideoPatches(video_channels=2, patch=(2, 3, 3), position=space()),
        lambda: torch.rand(3, 2, 5, 7, 8),
        (2, 3, 4),
    ),
    "text": Case(
        lambda: TextTokens(vocabulary_size=12, embedding_channels=6, position=LINE),
        lambda: torch.randint(0, 12, (3, 9)),
        (1,),
    ),
    "time series": Case(
        lambda: TimeSeries(num_values=2, duration_seconds=600.0, position=LINE), series, {"values": (1,), "times": (1,)}
    ),
    "time series, patches": Case(
        lambda: TimeSeriesPatches(num_values=2, duration_seconds=600.0, patch=4, embedding_channels=6, position=LINE),
        series,
        {"values": (1,), "times": (1,)},
    ),
    "time series, raw patches": Case(
        lambda: TimeSeriesPatches(num_values=2, duration_seconds=600.0, step_seconds=60.0, patch=3, position=LINE),
        lambda: {"values": torch.rand(3, 10, 2)},
        {"values": (1,)},
    ),
    "time series, stages": Case(
        lambda: TimeSeriesConvStages(
            num_values=2, duration_seconds=600.0, stage_channels=[4, 6], strides=[1, 2], kernel_size=5, position=LINE
        ),
        series,
        {"values": (1,), "times": (1,)},
    ),
    "regular time series, stages": Case(
        lambda: TimeSeriesConvStages(
            num_values=2, duration_seconds=600.0, step_seconds=60.0, stage_channels=[4], strides=[2], position=LINE
        ),
        lambda: {"values": torch.rand(3, 9, 2)},
        {"values": (1,)},
    ),
    "frames": Case(
        lambda: FrameSurroundings(video_channels=2, num_frames=2, embedding_channels=6, position=PLANE),
        lambda: torch.rand(3, 2, 2, 7, 8),
        (3, 4),
    ),
    "vector": Case(lambda: Vector(vector_channels=5), lambda: torch.rand(3, 5), ()),
    "text, position added": Case(
        lambda: TextTokens(vocabulary_size=12, embedding_channels=7, position=LINE, add_position=True),
        lambda: torch.randint(0, 12, (3, 9)),
        (1,),
    ),
    "waveform, relative": Case(
        lambda: WaveformFrames(audio_channels=2, frame=16, sample_rate=1000, duration_seconds=None, position=LINE), *SOUNDS
    ),
    "pixels, all sines then all cosines": Case(
        lambda: ImagePixels(image_channels=2, position=Fourier(num_bands=2, resolution=(8, 8), by_coordinate=False)),
        *IMAGES,
    ),
    "patches, projected table": Case(
        lambda: ImagePatches(
            image_channels=2,
            patch=1,
            embed_channels=6,
            position=Projected(position=LearnedTable(grid=(11, 7), channels=5), channels=4),
        ),
        *IMAGES,
    ),
    "table": Case(lambda: Table(num_numbers=3, category_sizes=[4, 5], embedding_channels=6), cells, {}),
}
HEADS = {
    "pooled": lambda: PooledHead(latent_channels=8, num_classes=3),
    "pooled, dropout": lambda: PooledHead(latent_channels=8, num_classes=3, dropout=0.1),
    "decoder": lambda: ClassificationDecoder(latent_channels=8, num_classes=3),
    "decoder, all sizes": lambda: ClassificationDecoder(
        latent_channels=8, num_classes=3, query_channels=6, num_heads=2, qk_channels=4, v_channels=10, dropout=0.1
    ),
    "per class": lambda: PerClassDecoder(latent_channels=8, num_classes=3, query_channels=6, num_heads=2, dropout=0.1),
    "queries": lambda: QueryDecoder(
        latent_channels=8, queries=LearnedQueries(grid=[3], channels=6), output_channels=1, chunk_size=2
    ),
}


@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(name, check, id=f"{name}-{check}")
        for name, case in ADAPTERS.items()
        for check in adapter_checks(case.make, case.input, grid_axes=case.grid_axes)
    ],
)
def test_adapters(name: str, check: Check, unchecked: None) -> None:
    """Without the tests' shape checks: errors are those that users see."""
    check()


@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(name, check, id=f"{name}-{check}")
        for name, make in HEADS.items()
        for check in head_checks(make, latent_channels=8, output_shape=(3, 1) if name == "queries" else (3,))
    ],
)
def test_heads(name: str, check: Check) -> None:
    check()


def test_no_adapter_and_no_head_is_left_out() -> None:
    """Adapters say by their annotation that they make tokens."""
    public = [getattr(perceiver.adapters, name) for name in perceiver.adapters.__all__]
    public = [one for one in public if hasattr(one, "forward") and one is not Backbone]  # has tests of its own
    adapters = {one for one in public if inspect.signature(one.forward).return_annotation == "Tokens"}
    assert adapters == {type(case.make()) for case in ADAPTERS.values()}
    defined = vars(perceiver.decoders.pooled).values()
    own = {one for one in defined if isinstance(one, type) and one.__module__ == "perceiver.decoders.pooled"}
    # Decoders that make one output of the latents alone; those of several, and their parts, have tests of their own.
    own |= {ClassificationDecoder, PerClassDecoder, QueryDecoder}
    assert own == {type(make()) for make in HEADS.values()}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Small sets in the original formats: MNIST's files, folders of images and of sounds."""
    idx_set(tmp_path / "MNIST" / "raw")
    folder_set(tmp_path / "images")
    for split, count in (("train", 6), ("val", 3), ("test", 3)):
        for name, hertz in (("high", 1500), ("low", 200)):
            folder = tmp_path / "sounds" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                time = np.arange(400 + 80 * number) / 8000
                soundfile.write(folder / f"{number}.wav", 0.5 * np.sin(2 * np.pi * hertz * time), 8000)
    return tmp_path


@pytest.mark.parametrize(
    "make",
    [
        lambda root: DataModule.of(Digits),
        lambda root: DataModule.of(MNIST, root=root, validation_size=10, batch_size=7, download=False),
        lambda root: DataModule.of(ImageFolder, root=root / "images", size=(16, 16), batch_size=7, num_workers=0),
        lambda root: DataModule.of(AudioFolder, root=root / "sounds", sample_rate=8000, batch_size=4),
        lambda root: DataModule.of(DigitPoints, root=root, validation_size=10, batch_size=7, download=False),
    ],
    ids=["digits", "mnist", "image_folder", "audio_folder", "digit_points"],
)
def test_data_modules(make: Callable[[Path], Any], files: Path) -> None:
    check_data_module(lambda: make(files))
