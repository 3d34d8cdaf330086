"""Training with Lightning: the LightningModule, its optimizer and schedules, and precision."""

from perceiver.training.task import Task

__all__ = ["Task"]
