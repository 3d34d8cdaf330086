"""Training objectives: one LightningModule each, with the model as an argument, and what they share."""

from perceiver.tasks.classification import ClassificationTask
from perceiver.tasks.dense_regression import DenseRegressionTask
from perceiver.tasks.masked_autoencoding import MaskedAutoencodingTask
from perceiver.tasks.masked_tokens import MaskedTokensTask
from perceiver.tasks.multilabel import MultilabelTask
from perceiver.tasks.multimodal_autoencoding import MultimodalAutoencodingTask
from perceiver.tasks.regression import RegressionTask
from perceiver.tasks.segmentation import SegmentationTask

__all__ = [
    "ClassificationTask",
    "DenseRegressionTask",
    "MaskedAutoencodingTask",
    "MaskedTokensTask",
    "MultilabelTask",
    "MultimodalAutoencodingTask",
    "RegressionTask",
    "SegmentationTask",
]
