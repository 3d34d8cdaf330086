"""A Perceiver-style multimodal encoder: latents that cross-attend to any inputs, kept as tokens whose parts broadcast."""

from perceiver.attention import CrossAttention
from perceiver.batch import Batch, Sample
from perceiver.checkpoints.file import load, save
from perceiver.collate import Collate
from perceiver.decoders import (
    ClassificationDecoder,
    InputQueries,
    LearnedQueries,
    MultimodalDecoder,
    PositionalQueries,
    QueryDecoder,
    TiedLogits,
)
from perceiver.decoders.pooled import PooledHead
from perceiver.encoder import Encoder
from perceiver.fusion import Fusion
from perceiver.inference.infilling import FilledIn, fill_in
from perceiver.inference.tiling import flow_in_tiles
from perceiver.masking.modality_dropout import ModalityDropout
from perceiver.modalities import Modality
from perceiver.model import Perceiver
from perceiver.positions import Fourier, LearnedTable, Projected
from perceiver.targets.classes import Prediction
from perceiver.targets.labels import LabelsPrediction
from perceiver.targets.pixels import FieldPrediction, SegmentationPrediction
from perceiver.targets.values import ValuesPrediction
from perceiver.tokens import Tokens

__all__ = [
    "Batch",
    "ClassificationDecoder",
    "Collate",
    "CrossAttention",
    "Encoder",
    "FieldPrediction",
    "FilledIn",
    "Fourier",
    "Fusion",
    "InputQueries",
    "LabelsPrediction",
    "LearnedQueries",
    "LearnedTable",
    "Modality",
    "ModalityDropout",
    "MultimodalDecoder",
    "Perceiver",
    "PooledHead",
    "PositionalQueries",
    "Prediction",
    "Projected",
    "QueryDecoder",
    "Sample",
    "SegmentationPrediction",
    "TiedLogits",
    "Tokens",
    "ValuesPrediction",
    "fill_in",
    "flow_in_tiles",
    "load",
    "save",
]
