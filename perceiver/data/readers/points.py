"""Labelled point sets held in memory or in a file, of one size or of many."""

from collections.abc import Callable, Sequence

from jaxtyping import Float, Int
from torch import Tensor

from perceiver.batch import Sample


class PointSets:
    """Point sets one after another in one tensor, which may be a memory-mapped file: a sample is a slice of it.

    Args:
        points: `(total, channels)`, coordinates first.
        starts, ends: `(sets,)`, the first point of each set and the one after its last.
        labels: their classes, from 0.
        identify: the id of a set from its number.
        modality: its name.

    Raises:
        ValueError: a set without points.
    """

    def __init__(
        self,
        *,
        points: Float[Tensor, "total channels"],
        starts: Int[Tensor, "sets"],
        ends: Int[Tensor, "sets"],
        labels: Sequence[int],
        identify: Callable[[int], str],
        modality: str = "points",
    ) -> None:
        self.points = points
        self.starts = starts
        self.ends = ends
        self.labels = list(labels)
        self.identify = identify
        self.modality = modality
        empty = (self.ends <= self.starts).nonzero()
        if len(empty):
            raise ValueError(f"sample {identify(int(empty[0]))!r}: expected at least one point, got none.")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        """Its tensor is `(P, channels)`, float32."""
        points = self.points[int(self.starts[index]) : int(self.ends[index])]
        return Sample(inputs={self.modality: points}, target=self.labels[index], id=self.identify(index))
