"""Training objectives: one LightningModule each, with the model as an argument, and what they share."""

from perceiver.tasks.classification import ClassificationTask

__all__ = ["ClassificationTask"]
