"""Evaluation mode without gradients; the previous modes are restored afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Set evaluation mode and disable gradients; restore the mode of every submodule on exit."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        # For each submodule: a frozen encoder stays in evaluation mode while the rest of the model trains.
        for part, training in modes:
            part.training = training
