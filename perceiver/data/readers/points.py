"""Labelled point sets in memory or in a file, of equal or different sizes."""

from collections.abc import Callable, Sequence

from jaxtyping import Float, Int
from torch import Tensor

from perceiver.samples.batch import Sample


class PointSets:
    """Point sets concatenated in a tensor, which may be a memory-mapped file; a sample is a slice of it.

    Args:
        points: `(total, channels)`, coordinates first.
        starts, ends: `(sets,)`, the first point of each set and the one after its last.
        labels: class of each set, from 0.
        identify: returns the id of a set, given its number.
        modality: name of the modality.

    Raises:
        ValueError: a set has no points.
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
        """Return a sample with the tensor `(P, channels)`, float32."""
        points = self.points[int(self.starts[index]) : int(self.ends[index])]
        return Sample(inputs={self.modality: points}, target=self.labels[index], id=self.identify(index))
