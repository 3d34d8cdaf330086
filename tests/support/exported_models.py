"""Untrained models around every built-in adapter and every head, and their raw inputs, for tests of exported models."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from perceiver import Encoder, Fourier, Fusion, LearnedQueries, LearnedTable, Perceiver, PooledHead
from perceiver.adapters import (
    FrameSurroundings,
    ImageConvStages,
    ImageConvStem,
    ImagePatches,
    ImagePixels,
    LogMelBins,
    LogMelConvStages,
    LogMelFrames,
    Points,
    Table,
    TextTokens,
    TimeSeries,
    TimeSeriesConvStages,
    TimeSeriesPatches,
    Vector,
    VideoPatches,
    WaveformFrames,
)
from perceiver.decoders import (
    CausalDecoder,
    ClassificationDecoder,
    Decoder,
    InputQueries,
    LatentMemory,
    MultimodalDecoder,
    PerClassDecoder,
    PositionalQueries,
    QueryDecoder,
    ReconstructionDecoder,
    TiedLogits,
    WrittenMemory,
)
from perceiver.targets.text import text_target


def fourier(*resolution: float) -> Fourier:
    """Two bands."""
    return Fourier(num_bands=2, resolution=resolution)


MEL: dict[str, Any] = {
    "sample_rate": 8000, "num_mels": 8, "window_seconds": 0.025, "hop_seconds": 0.01, "duration_seconds": 0.2,
}  # fmt: skip


def adapters() -> dict[str, nn.Module]:
    """Every built-in adapter, by a name of its modality."""
    return {
        "bins": LogMelBins(position=fourier(10, 8), **MEL),
        "frames": FrameSurroundings(video_channels=3, position=fourier(8, 8)),
        "mel_stages": LogMelConvStages(position=fourier(3), stage_channels=[6, 5], strides=[2, 2], **MEL),
        "mel": LogMelFrames(position=fourier(10), **MEL),
        "patches": ImagePatches(image_channels=3, patch=4, position=fourier(4, 4), embed_channels=6),
        "pixels": ImagePixels(image_channels=1, position=fourier(8, 8)),
        "points": Points(point_channels=4, position=fourier(4, 4, 4)),
        "row": Table(num_numbers=2, category_sizes=[3, 2], embedding_channels=5),
        "series": TimeSeries(num_values=2, duration_seconds=10.0, position=fourier(20)),
        "series_patches": TimeSeriesPatches(
            num_values=2, duration_seconds=10.0, patch=3, embedding_channels=5, position=fourier(7)
        ),
        "series_stages": TimeSeriesConvStages(
            num_values=2, duration_seconds=10.0, stage_channels=[4, 5], strides=[1, 2], kernel_size=5, position=fourier(10)
        ),
        "stages": ImageConvStages(image_channels=3, stage_channels=[4, 6, 5], strides=[2, 2, 1], position=fourier(4, 4)),
        "stem": ImageConvStem(image_channels=3, stem_channels=6, position=fourier(4, 4)),
        "table_pixels": ImagePixels(image_channels=1, position=LearnedTable(grid=[5, 6], channels=4)),
        "text": TextTokens(vocabulary_size=262, embedding_channels=6, position=LearnedTable(grid=[16], channels=4)),
        "vector": Vector(vector_channels=3),
        "video": VideoPatches(video_channels=3, patch=(2, 4, 4), position=fourier(4, 4, 4)),
        "wave": WaveformFrames(frame=8, sample_rate=100, duration_seconds=1.0, position=fourier(20)),
    }


MODALITIES: dict[str, dict[str, Any]] = {
    "bins": {"kind": "audio", "shape": [1, None], "sample_rate": 8000, "max_seconds": 0.1},
    "frames": {"kind": "video", "shape": [3, 2, None, None], "range": [0, 255]},
    "mel": {"kind": "audio", "shape": [1, None], "sample_rate": 8000, "max_seconds": 0.1, "mean": [0.0], "std": [0.5]},
    "mel_stages": {"kind": "audio", "shape": [1, None], "sample_rate": 8000, "max_seconds": 0.1},
    "patches": {"kind": "image", "shape": [3, None, None], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]},
    "pixels": {"kind": "image", "shape": [1, None, None], "mean": [0.2], "std": [0.3]},
    "points": {"kind": "points", "shape": [None, 4], "unit_sphere": True},
    "row": {
        "kind": "table", "numbers": ["age", "price"], "categories": {"colour": ["blue", "red"], "open": ["True"]},
        "mean": [40.0, 9.0], "std": [10.0, 3.0], "written": {"price": {"decimal": ",", "thousands": ".", "unit": "€"}},
    },
    "series": {"kind": "timeseries", "num_values": 2, "mean": [1.0, 2.0], "std": [2.0, 3.0]},
    "series_patches": {"kind": "timeseries", "num_values": 2, "mean": [1.0, 2.0], "std": [2.0, 3.0]},
    "series_stages": {"kind": "timeseries", "num_values": 2, "mean": [1.0, 2.0], "std": [2.0, 3.0]},
    "stages": {"kind": "image", "shape": [3, None, 12]},
    "stem": {"kind": "image", "shape": [3, None, 12]},
    "table_pixels": {"kind": "image", "shape": [1, 5, 6], "mean": [0.2], "std": [0.3]},
    "text": {"kind": "text", "shape": [None], "vocabulary_size": 262, "max_length": 16},
    "vector": {"kind": "label", "shape": [3], "channel_axis": 0},
    "video": {"kind": "video", "shape": [3, None, 8, 8]},
    "wave": {"kind": "audio", "shape": [1, None], "sample_rate": 100, "max_seconds": 0.4},
}  # fmt: skip

NAMES = ["cat", "dog", "owl"]


def encoder(channels: int, **settings: Any) -> Encoder:
    """Four latents of eight channels that read twice."""
    shape = {"num_blocks": 2, "num_cross_attends": 2, "num_layers_per_block": 1, "num_self_heads": 2}
    return Encoder(token_channels=channels, num_latents=4, latent_channels=8, **{**shape, **settings})


def classifier(*names: str) -> Perceiver:
    """A small classifier of these modalities."""
    torch.manual_seed(0)
    parts: dict[str, Any] = {name: adapters()[name] for name in names}
    fusion = Fusion(channels={name: part.channels for name, part in parts.items()})
    return Perceiver(
        adapters=parts,
        fusion=fusion,
        encoder=encoder(fusion.channels, num_blocks=1, num_cross_attends=1),
        head=PooledHead(latent_channels=8, num_classes=3),
        spec={
            "modalities": {name: MODALITIES[name] for name in names},
            "target": {"kind": "classes", "names": NAMES},
        },
    ).eval()


class AllHeads(Decoder):
    """Every head with an output of a single tensor, and the two with several, as one decoder."""

    def __init__(self, parts: Mapping[str, Any], channels: int) -> None:
        super().__init__()
        shared: dict[str, Any] = {"latent_channels": 8}
        grid = PositionalQueries(position=fourier(4, 4), grid=[2, 3])
        queries = {"label": LearnedQueries(grid=[1], channels=4), "patches": grid}
        fixed = PositionalQueries(position=fourier(4, 6), grid=[4, 6])
        of_input = InputQueries(modality="pixels")
        self.heads = nn.ModuleDict({
            "classification": ClassificationDecoder(num_classes=3, **shared),
            "fixed": QueryDecoder(queries=fixed, output_channels=2, **shared),
            "input": QueryDecoder(
                queries=of_input, token_channels=channels, output_channels=3, query_residual=True, **shared
            ),
            "multimodal": MultimodalDecoder(
                queries=queries, output_channels={"label": 3, "patches": 48}, hidden_channels=6, **shared
            ),
            "of_tokens": QueryDecoder(
                queries=PositionalQueries(position=fourier(9), modality="mel"), output_channels=2, **shared
            ),
            "per_class": PerClassDecoder(num_classes=4, **shared),
            "reconstruction": ReconstructionDecoder(token_channels=channels, adapters=parts, **shared),
        })  # fmt: skip
        self.output_channels = dict.fromkeys(
            [name for name in self.heads if name not in ("multimodal", "reconstruction")]
            + ["multimodal.label", "multimodal.patches", *(f"reconstruction.{name}" for name in parts)],
            0,
        )

    def forward(
        self, latents: Tensor, *, tokens: Any = None, adapters: Any = None, index: Any = None, mask: Any = None
    ) -> Any:
        """All outputs, in the order of `output_channels`."""
        found: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            made = head(latents, tokens=tokens, adapters=adapters) if isinstance(head, Decoder) else head(latents)
            found |= {f"{name}.{key}": x for key, x in made.items()} if isinstance(made, dict) else {name: made}
        return {name: found[name] for name in self.output_channels}


def model_of_all_heads() -> Perceiver:
    """Images and sound of any size, with every head."""
    torch.manual_seed(0)
    parts: dict[str, Any] = {name: adapters()[name] for name in ("mel", "patches", "pixels")}
    fusion = Fusion(channels={name: part.channels for name, part in parts.items()})
    return Perceiver(
        adapters=parts,
        fusion=fusion,
        encoder=encoder(fusion.channels),
        head=AllHeads(parts, fusion.channels),
        spec={"modalities": {name: MODALITIES[name] for name in parts}},
    ).eval()


def text_generating_model() -> Perceiver:
    """A model that generates texts of bytes."""
    torch.manual_seed(0)
    text = adapters()["text"]
    return Perceiver(
        adapters={"text": text},
        encoder=encoder(text.channels, num_cross_heads=2),  # type: ignore[arg-type]
        head=CausalDecoder(memory=LatentMemory(latent_channels=8), vocabulary_size=262, num_layers=1, num_heads=2),
        spec={
            "modalities": {"text": MODALITIES["text"]},
            "target": text_target(tokenizer={"kind": "bytes"}, max_length=16),
        },
    ).eval()


def captioning_model(tokenizer: Mapping[str, Any]) -> Perceiver:
    """A model that writes texts from images and texts, in two layers, reading the inputs' tokens and the latents."""
    torch.manual_seed(0)
    target = text_target(tokenizer=tokenizer, max_length=12)
    parts: dict[str, Any] = {name: adapters()[name] for name in ("table_pixels", "text")}
    fusion = Fusion(channels={name: part.channels for name, part in parts.items()})
    memory = WrittenMemory(latent_channels=8, token_channels=fusion.channels, num_heads=2, with_latents=True)
    size = target["vocabulary_size"]
    model = Perceiver(
        adapters=parts,
        fusion=fusion,
        encoder=encoder(fusion.channels, num_blocks=1, num_cross_attends=1),
        head=CausalDecoder(memory=memory, vocabulary_size=size, channels=12, num_heads=3, max_length=12, tied_logits=False),
        spec={"modalities": {name: MODALITIES[name] for name in parts}, "target": target},
    ).eval()
    assert isinstance(model.head, CausalDecoder)
    assert model.head.output is not None
    torch.nn.init.normal_(model.head.output.weight, std=0.6)  # otherwise all texts would be alike
    return model


def masked_text_model() -> Perceiver:
    """A masked language model of bytes."""
    torch.manual_seed(0)
    text = adapters()["text"]
    queries = LearnedQueries(grid=[16], channels=6, modality="text")
    tied = TiedLogits(modality="text", vocabulary_size=262)
    return Perceiver(
        adapters={"text": text},
        encoder=encoder(text.channels, num_cross_heads=2),  # type: ignore[arg-type]
        head=QueryDecoder(latent_channels=8, queries=queries, tied_logits=tied, num_heads=2),
        spec={"modalities": {"text": MODALITIES["text"]}},
    ).eval()
