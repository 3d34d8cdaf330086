"""A Perceiver-style multimodal encoder: latents that cross-attend to any inputs, kept as tokens whose parts broadcast."""

from perceiver.attention import CrossAttention
from perceiver.batch import Batch, Collate, Sample
from perceiver.checkpoints import load, save
from perceiver.decoders import (
    ClassificationDecoder,
    InputQueries,
    LearnedQueries,
    MultimodalDecoder,
    PositionalQueries,
    QueryDecoder,
    TiedLogits,
)
from perceiver.dense_predictions import FieldPrediction, SegmentationPrediction
from perceiver.encoder import Encoder
from perceiver.filling import FilledIn, fill_in
from perceiver.fusion import Fusion
from perceiver.heads import PooledHead
from perceiver.modality_dropout import ModalityDropout
from perceiver.model import Perceiver
from perceiver.positions import Fourier, LearnedTable, Projected
from perceiver.predictions import LabelsPrediction, Prediction, ValuesPrediction
from perceiver.tiles import flow_in_tiles
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
