"""Numbers out of range in a config: each builds a model that runs, or ends in an error that names the argument."""

import math
import re
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from hostile_models import MODEL, numbers_of, set_value
from torch import Tensor, nn

from perceiver import (
    ClassificationDecoder,
    Encoder,
    Fourier,
    LearnedQueries,
    LearnedTable,
    PooledHead,
)
from perceiver.adapters import ImageConvStem, ImagePatches, ImagePixels, TextTokens
from perceiver.attention import CrossAttend, SelfAttend
from perceiver.attention.cross import CrossAttention
from perceiver.attention.feed_forward import FeedForward
from perceiver.attention.self_attention import SelfAttention
from perceiver.checkpoints.allocation import limit_allocation
from perceiver.checkpoints.build import ConfigError, build_model, canonical
from perceiver.encoders.fusion import Fusion

Config = dict[str, Any]
FULL_ENCODER: Config = {
    **MODEL["encoder"], "num_cross_attends": 2, "num_blocks": 2, "num_cross_heads": 1, "cross_qk_channels": 8,
    "cross_v_channels": 8, "self_qk_channels": 8, "self_v_channels": 8, "cross_widening": 1, "self_widening": 1,
    "dropout": 0.1, "attention_dropout": 0.1, "latent_std": 0.02,
}  # fmt: skip
PATCHES: Config = {
    "_target_": "perceiver.adapters.ImagePatches",
    "image_channels": 1,
    "patch": 2,
    "embed_channels": 6,
    "position": {
        "_target_": "perceiver.Projected",
        "position": {"_target_": "perceiver.LearnedTable", "grid": [4, 4], "channels": 5, "std": 0.02},
        "channels": 4,
    },
}
CLASSIFIER: Config = {
    "_target_": "perceiver.ClassificationDecoder", "num_classes": 3, "query_channels": 8, "num_heads": 1, "qk_channels": 8,
    "v_channels": 8, "widening": 1, "dropout": 0.1, "attention_dropout": 0.1, "query_std": 0.02,
}  # fmt: skip
QUERIES: Config = {
    "_target_": "perceiver.QueryDecoder",
    "queries": {"_target_": "perceiver.LearnedQueries", "grid": [3, 2], "channels": 8, "std": 0.02},
    "output_channels": 2, "num_heads": 1, "widening": 1, "scale": 1.0, "chunk_size": 4, "dropout": 0.1,
}  # fmt: skip
FUSION: Config = {"_target_": "perceiver.Fusion", "padding": 3, "std": 0.02, "mask_rates": {"image": 0.1}}
MODELS: dict[str, tuple[Config, str]] = {
    "pixels": (MODEL, "adapters"),
    "encoder": ({**MODEL, "encoder": FULL_ENCODER}, "encoder"),
    "patches": ({**MODEL, "adapters": {"image": PATCHES}}, "adapters"),
    "classifier": ({**MODEL, "head": CLASSIFIER}, "head"),
    "queries": ({**MODEL, "head": QUERIES}, "head"),
    "fusion": ({**MODEL, "fusion": FUSION}, "fusion"),
    "pooled": ({**MODEL, "head": {**MODEL["head"], "dropout": 0.1}}, "head"),
}
VALUES = (math.nan, math.inf, -1, 0, 1e30, 2**63, 2**63 - 1, True)


def fourier(*resolution: int) -> Config:
    return {"_target_": "perceiver.Fourier", "num_bands": 2, "resolution": list(resolution)}


SPECTRUM: Config = {
    "audio_channels": 1, "sample_rate": 1000, "num_mels": 4, "window_seconds": 0.04, "hop_seconds": 0.02,
    "duration_seconds": 0.2, "min_hertz": 10.0, "max_hertz": 400.0, "epsilon": 1e-6, "mean": 0.5, "std": 2.0,
}  # fmt: skip
MASKING: Config = {
    "_target_": "perceiver.adapters.SpectrumMasking", "max_bands": 2, "max_frames": 2, "num_band_masks": 1,
    "num_frame_masks": 1,
}  # fmt: skip
TEXT: Config = {"vocabulary_size": 9, "embedding_channels": 4, "reference_length": 8, "std": 0.02}
ADAPTERS: dict[str, tuple[Config, Any]] = {
    "WaveformFrames": (
        {"audio_channels": 1, "frame": 10, "sample_rate": 1000, "duration_seconds": 0.2, "position": fourier(20)},
        torch.rand(2, 1, 200),
    ),
    "LogMelFrames": ({**SPECTRUM, "position": fourier(10), "augment": MASKING}, torch.rand(2, 1, 200)),
    "LogMelBins": ({**SPECTRUM, "position": fourier(10, 4)}, torch.rand(2, 1, 200)),
    "FrameSurroundings": (
        {"video_channels": 1, "num_frames": 2, "window": 3, "embedding_channels": 4, "position": fourier(6, 6)},
        torch.rand(2, 1, 2, 6, 6),
    ),
    "ImageConvStem": ({"image_channels": 1, "stem_channels": 4, "position": fourier(2, 2)}, torch.rand(2, 1, 8, 8)),
    "ImageConvStages": (
        {"image_channels": 1, "stage_channels": [3, 4], "strides": [2, 1], "position": fourier(4, 4)},
        torch.rand(2, 1, 8, 8),
    ),
    "LogMelConvStages": (
        {**SPECTRUM, "position": fourier(5), "stage_channels": [3, 4], "strides": [2, 1], "augment": MASKING},
        torch.rand(2, 1, 200),
    ),
    "Points": (
        {"point_channels": 3, "num_coordinates": 3, "scale": 1.0, "position": fourier(4, 4, 4)},
        torch.rand(2, 5, 3),
    ),
    "Table": (
        {"num_numbers": 2, "category_sizes": [3, 4], "embedding_channels": 4},
        {"numbers": torch.rand(2, 2), "categories": torch.ones(2, 2, dtype=torch.int64)},
    ),
    "TextTokens": ({**TEXT, "position": fourier(8)}, torch.ones(2, 8, dtype=torch.int64)),
    "TimeSeries": (
        {"num_values": 2, "duration_seconds": 4.0, "step_seconds": 0.5, "position": fourier(8)},
        {"values": torch.rand(2, 8, 2)},
    ),
    "TimeSeriesPatches": (
        {
            "num_values": 2,
            "duration_seconds": 4.0,
            "step_seconds": 0.5,
            "patch": 3,
            "embedding_channels": 4,
            "position": fourier(3),
        },
        {"values": torch.rand(2, 8, 2)},
    ),
    "TimeSeriesConvStages": (
        {
            "num_values": 2,
            "duration_seconds": 4.0,
            "step_seconds": 0.5,
            "stage_channels": [3, 4],
            "strides": [1, 2],
            "kernel_size": 5,
            "position": fourier(4),
        },
        {"values": torch.rand(2, 8, 2)},
    ),
    "Vector": ({"vector_channels": 3}, torch.rand(2, 3)),
    "VideoPatches": (
        {"video_channels": 1, "patch": [1, 2, 2], "embedding_channels": 4, "position": fourier(2, 3, 3)},
        torch.rand(2, 1, 2, 6, 6),
    ),
}
"""Arguments and an input of each adapter that `MODELS` lacks."""


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ADAPTERS)
def test_a_number_out_of_range_of_an_adapter_is_named_or_runs(name: str) -> None:
    config, x = ADAPTERS[name]
    model = {**MODEL, "adapters": {"x": {"_target_": f"perceiver.adapters.{name}", **config}}}
    build_model(canonical(deepcopy(model)), trust=[])({"x": x})
    for path in (path for path in numbers_of(model) if path.startswith("adapters")):
        [argument] = re.findall(r"([a-z_]+)(?:\.\d+)?$", path)
        for value in VALUES:
            tree = canonical(deepcopy(model))
            set_value(tree, path, value)
            started = time.monotonic()
            try:
                with limit_allocation(max_bytes=10**8, max_modules=1000, reason="a test"):
                    built = build_model(tree, trust=[])
            except ValueError as error:
                assert re.search(argument, str(error)), (path, value, str(error))  # noqa: PT017
                continue
            assert math.isfinite(value), f"{path} = {value} was accepted"
            assert value is not True, f"{path} = True was accepted"
            try:
                with torch.no_grad():
                    built({"x": x})
            except ValueError:  # an input of the former size
                pass
            except RuntimeError as error:
                raise AssertionError(f"{path} = {value} was accepted") from error
            assert time.monotonic() - started < 10


def places() -> list[Any]:
    """Each number of each model."""
    return [
        pytest.param(config, path, id=f"{name}-{path}")
        for name, (config, part) in MODELS.items()
        for path in numbers_of(config)
        if path.startswith(part)
    ]


def run(model: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        for training in (True, False):
            model.train(training)({"image": x})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("config", "path"), places())
def test_a_number_out_of_range_is_named_or_runs(config: Config, path: str) -> None:
    x = torch.rand(2, 1, 8, 8)
    [argument] = re.findall(r"([a-z_]+)(?:\.\d+)?$", path)
    argument = "mask_rates" if path.startswith("fusion.mask_rates") else argument
    for value in VALUES:
        tree = canonical(deepcopy(config))
        set_value(tree, path, value)
        started = time.monotonic()
        try:
            with limit_allocation(max_bytes=10**8, max_modules=1000, reason="a test"):
                model = build_model(tree, trust=[])
        except ValueError as error:
            refused = str(error)
        else:
            refused = ""
        if refused:
            assert argument in refused, (value, refused)
        else:
            assert math.isfinite(value), f"{path} = {value} was accepted"
            assert value is not True, f"{path} = True was accepted"
            run(model, x if argument != "image_channels" else torch.rand(2, int(value), 8, 8))
        assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([8, math.nan], r"model\.adapters\.image\.position\.resolution\[1\]: expected a finite number, got nan"),
        ([8, True], r"model\.adapters\.image\.position\.resolution\[1\]: expected float, got bool 'True'"),
        ([8, "8"], r"model\.adapters\.image\.position\.resolution\[1\]: expected float, got str '8'"),
    ],
)
def test_lists_are_checked_like_numbers(value: list[Any], message: str) -> None:
    tree = deepcopy(MODEL)
    set_value(tree, "adapters.image.position.resolution", value)
    with pytest.raises(ConfigError, match=message):
        build_model(tree)


def test_endless_steps_are_refused_in_a_file_only() -> None:
    tree = canonical(deepcopy(MODEL))
    tree["encoder"]["num_blocks"] = 10**6
    assert build_model(tree).encoder.num_blocks == 10**6
    with pytest.raises(ConfigError, match=r"model\.encoder\.num_blocks: expected at most 4,096 .*got 1000000"):
        build_model(tree, trust=[])


def test_a_width_that_cannot_be_is_traced_to_its_place() -> None:
    tree = canonical(deepcopy(MODEL))
    set_value(tree, "adapters.image.position.num_bands", 10**9)
    with (
        pytest.raises(ConfigError, match=r"encoder.*largest .* model\.adapters\.image\.position\.num_bands = 1000000000"),
        limit_allocation(max_bytes=10**8, max_modules=1000, reason="a test"),
    ):
        build_model(tree, trust=[])


FOURIER = Fourier(num_bands=1, resolution=[8, 8])
ENCODER: Config = {"token_channels": 8, "num_latents": 2, "latent_channels": 8, "num_layers_per_block": 1}
CROSS: Config = {"query_channels": 8, "token_channels": 8}
MAKERS: dict[str, Callable[..., nn.Module]] = {
    "dropout": lambda value: Encoder(**ENCODER, dropout=value),
    "attention_dropout": lambda value: Encoder(**ENCODER, attention_dropout=value),
    "CrossAttend.dropout": lambda value: CrossAttend(**CROSS, dropout=value),
    "CrossAttention.dropout": lambda value: CrossAttention(**CROSS, dropout=value),
    "SelfAttend.attention_dropout": lambda value: SelfAttend(channels=8, attention_dropout=value),
    "SelfAttention.dropout": lambda value: SelfAttention(channels=8, dropout=value),
    "PooledHead.dropout": lambda value: PooledHead(latent_channels=8, num_classes=2, dropout=value),
    "Encoder.latent_std": lambda value: Encoder(**ENCODER, latent_std=value),
    "ClassificationDecoder.query_std": lambda value: ClassificationDecoder(
        latent_channels=8, num_classes=2, query_std=value
    ),
    "LearnedQueries.std": lambda value: LearnedQueries(grid=[2], channels=4, std=value),
    "LearnedTable.std": lambda value: LearnedTable(grid=[2], channels=4, std=value),
    "Fusion.std": lambda value: Fusion(channels={"a": 2, "b": 3}, std=value),
    "TextTokens.std": lambda value: TextTokens(
        vocabulary_size=3, embedding_channels=4, std=value, position=Fourier(num_bands=1, resolution=[8])
    ),
}


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1])
@pytest.mark.parametrize("name", MAKERS)
def test_constructors_refuse_what_no_number_can_be(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{re.escape(name)}: expected a .*, got {value}"):
        MAKERS[name](value)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("ImagePixels.image_channels", lambda: ImagePixels(image_channels=-1, position=FOURIER)),
        ("ImagePatches.image_channels", lambda: ImagePatches(image_channels=0, patch=1, position=FOURIER)),
        (
            "ImagePatches.embed_channels",
            lambda: ImagePatches(image_channels=1, patch=1, embed_channels=-1, position=FOURIER),
        ),
        ("ImageConvStem.stem_channels", lambda: ImageConvStem(image_channels=1, stem_channels=-2, position=FOURIER)),
        ("FeedForward.widening", lambda: FeedForward(channels=4, widening=0)),
        ("CrossAttend.widening", lambda: CrossAttend(**CROSS, widening=-1)),
    ],
)
def test_sizes_below_one_are_refused(name: str, make: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match=rf"{re.escape(name)}: expected at least 1, got"):
        make()
