"""Ctrl+C while Lightning's Trainer runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer


def until_interrupted(trainer: Trainer, act: Callable[[], Any]) -> None:
    """Call `act`, which runs the trainer. Lightning turns Ctrl+C into exit status 1; turn it back into KeyboardInterrupt."""
    try:
        act()
    except SystemExit as error:
        if trainer.interrupted:
            raise KeyboardInterrupt from error
        raise
