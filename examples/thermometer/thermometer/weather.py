"""Days of thermometer readings, told apart by the weather. Generated: put your own reading of files in their place."""

from typing import Any

import torch
from torch import Tensor

from perceiver import Sample
from perceiver.data import Source
from perceiver.data.loading.samples import InMemory, Samples

STEP_SECONDS = 900.0
CLASSES = ("clear", "front", "overcast")


class Weather(Source):
    """Readings `(1, T)` in °C every quarter of an hour from midnight; some days break off before the evening.

    Args:
        days: days to train on; a quarter as many more for validation, and as many for the test.
    """

    def __init__(self, *, days: int = 600) -> None:
        # Readings are padded along every axis but that of the channels.
        facts = {"kind": "thermometer", "shape": [1, None], "channel_axis": 0, "step_seconds": STEP_SECONDS}
        super().__init__(facts={"readings": facts}, class_names=CLASSES)
        self.days = days

    def read_training(self) -> tuple[Samples, Samples]:
        """Days of their own for each split."""
        return self._days("train", self.days), self._days("val", self.days // 4)

    def read_test(self) -> Samples:
        """A quarter as many as for training."""
        return self._days("test", self.days // 4)

    def statistics(self, training: Samples) -> dict[str, dict[str, Any]]:
        """Mean and standard deviation of all readings."""
        values = torch.cat([training[index].inputs["readings"] for index in range(len(training))], dim=1)
        return {"readings": {"mean": [values.mean().item()], "std": [values.std().item()]}}

    def _days(self, split: str, count: int) -> Samples:
        random = torch.Generator().manual_seed({"train": 0, "val": 1, "test": 2}[split])
        days = []
        for number in range(count):
            readings = day(CLASSES[number % 3], random)
            days.append(Sample(inputs={"readings": readings}, target=number % 3, id=f"{split}/{number}"))
        return InMemory(days)


def day(weather: str, random: torch.Generator) -> Tensor:
    """One day's readings `(1, T)`: warm in the afternoon, less so under clouds, with a sudden fall where a front passes."""
    level, swing, hour, fall, length = torch.rand(5, generator=random).tolist()
    hours = torch.arange(int(96 - 24 * length)) * STEP_SECONDS / 3600
    warmth = (1.0 + swing if weather == "overcast" else 4.0 + 4 * swing) * torch.sin((hours - 9) / 24 * 2 * torch.pi)
    front = (5.0 + 4 * fall) * torch.sigmoid(4 * (hours - 8 - 7 * hour)) if weather == "front" else 0.0
    noise = 0.5 * torch.randn(len(hours), generator=random)
    return (5.0 + 20 * level + warmth - front + noise)[None]
