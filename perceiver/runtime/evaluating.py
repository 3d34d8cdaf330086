"""Evaluation mode without gradients, restored afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode and disable gradients; afterwards every part of it has its former mode again."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        # Part by part: a frozen encoder stays in evaluation mode while the rest of the model trains.
        for part, training in modes:
            part.training = training
