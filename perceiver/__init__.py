"""A Perceiver-style multimodal encoder: latents that cross-attend to any inputs, kept as tokens whose parts broadcast."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# ruff: noqa: I001  (it would split the imports below, whose aliases make the names public to type checkers)

if TYPE_CHECKING:
    from perceiver.attention import CrossAttention as CrossAttention
    from perceiver.encoders.autoregressive import AutoregressiveEncoder as AutoregressiveEncoder
    from perceiver.samples.batch import Batch as Batch, Sample as Sample
    from perceiver.checkpoints.file import load as load, save as save
    from perceiver.samples.collate import Collate as Collate
    from perceiver.decoders import (
        CausalDecoder as CausalDecoder,
        ClassificationDecoder as ClassificationDecoder,
        EmbeddingHead as EmbeddingHead,
        InputQueries as InputQueries,
        LatentMemory as LatentMemory,
        LearnedQueries as LearnedQueries,
        MultimodalDecoder as MultimodalDecoder,
        NextTokenHead as NextTokenHead,
        PositionalQueries as PositionalQueries,
        QueryDecoder as QueryDecoder,
        TiedLogits as TiedLogits,
        VelocityHead as VelocityHead,
        WrittenMemory as WrittenMemory,
    )
    from perceiver.decoders.decoding import Decoding as Decoding
    from perceiver.decoders.pooled import PooledHead as PooledHead
    from perceiver.encoders.encoder import Encoder as Encoder
    from perceiver.exporting import export as export
    from perceiver.encoders.fusion import Fusion as Fusion
    from perceiver.generation import Generated as Generated, generate as generate
    from perceiver.inference.continuation import continue_text as continue_text
    from perceiver.inference.infilling import FilledIn as FilledIn, fill_in as fill_in
    from perceiver.inference.retrieval import Found as Found, Index as Index
    from perceiver.inference.sampling import GeneratedSamples as GeneratedSamples, generate_samples as generate_samples
    from perceiver.inference.tiling import flow_in_tiles as flow_in_tiles
    from perceiver.inspection import explain as explain, summary as summary
    from perceiver.encoders.interface import Interface as Interface
    from perceiver.masking.modality_dropout import ModalityDropout as ModalityDropout
    from perceiver.modalities import Modality as Modality
    from perceiver.model import Perceiver as Perceiver
    from perceiver.tokens.positions import Fourier as Fourier, LearnedTable as LearnedTable, Projected as Projected
    from perceiver.runtime.regularising import regularising as regularising
    from perceiver.targets.predictions import (
        FieldPrediction as FieldPrediction,
        LabelsPrediction as LabelsPrediction,
        Prediction as Prediction,
        SegmentationPrediction as SegmentationPrediction,
        ValuesPrediction as ValuesPrediction,
    )
    from perceiver.tokens.tokens import Tokens as Tokens

# Names are imported when they are first used: `python train.py --help` and a mistyped override need no torch.
_MODULES = {
    "AutoregressiveEncoder": "encoders.autoregressive",
    "Batch": "samples.batch",
    "CausalDecoder": "decoders",
    "ClassificationDecoder": "decoders",
    "Collate": "samples.collate",
    "CrossAttention": "attention",
    "Decoding": "decoders.decoding",
    "EmbeddingHead": "decoders",
    "Encoder": "encoders.encoder",
    "FieldPrediction": "targets.predictions",
    "FilledIn": "inference.infilling",
    "Found": "inference.retrieval",
    "Fourier": "tokens.positions",
    "Fusion": "encoders.fusion",
    "Generated": "generation",
    "GeneratedSamples": "inference.sampling",
    "Index": "inference.retrieval",
    "InputQueries": "decoders",
    "Interface": "encoders.interface",
    "LabelsPrediction": "targets.predictions",
    "LatentMemory": "decoders",
    "LearnedQueries": "decoders",
    "LearnedTable": "tokens.positions",
    "Modality": "modalities",
    "ModalityDropout": "masking.modality_dropout",
    "MultimodalDecoder": "decoders",
    "NextTokenHead": "decoders",
    "Perceiver": "model",
    "PooledHead": "decoders.pooled",
    "PositionalQueries": "decoders",
    "Prediction": "targets.predictions",
    "Projected": "tokens.positions",
    "QueryDecoder": "decoders",
    "Sample": "samples.batch",
    "SegmentationPrediction": "targets.predictions",
    "TiedLogits": "decoders",
    "Tokens": "tokens.tokens",
    "VelocityHead": "decoders",
    "ValuesPrediction": "targets.predictions",
    "continue_text": "inference.continuation",
    "explain": "inspection",
    "export": "exporting",
    "WrittenMemory": "decoders",
    "fill_in": "inference.infilling",
    "flow_in_tiles": "inference.tiling",
    "generate": "generation",
    "generate_samples": "inference.sampling",
    "load": "checkpoints.file",
    "regularising": "runtime.regularising",
    "save": "checkpoints.file",
    "summary": "inspection",
}

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'perceiver' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"perceiver.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
