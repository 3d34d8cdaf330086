"""What a judge of generated images is, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from perceiver.samples.batch import Batch


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The judgement of B images.

    Args:
        features: features of the judge, for the Fréchet distance.
        right: for each measure, whether the images are right. The first measure is `prompt_accuracy`.
        asked: for each measure, whether the prompts ask for it; measures that all prompts ask for may be left out.
    """

    features: Float[Tensor, "batch features"]
    right: Mapping[str, Bool[Tensor, "batch"]]
    asked: Mapping[str, Bool[Tensor, "batch"]]


@runtime_checkable
class ImageJudge(Protocol):
    """Judges images by what their batch asks for. Independent of the model: it is never trained on generated images.

    Attributes:
        channels: number of features.
        measures: names of the measures.
    """

    channels: int
    measures: Sequence[str]

    def __call__(self, images: Float[Tensor, "batch channels height width"], batch: Batch) -> Judgement:
        """Judge images in [0, 1], one for each sample of the batch, by the target of the batch."""
        ...

    def training_images(self) -> Tensor:
        """Return images like those that a model trains on, in [0, 1], to find the nearest to a generated image."""
        ...


@runtime_checkable
class PromptGroups(Protocol):
    """Groups of prompts whose accuracy is reported apart.

    Attributes:
        names: names of the groups.
        held_out: name of the group of prompts that training never uses; they do not count in other results.
    """

    names: Sequence[str]
    held_out: str

    def __call__(self, prompt: str) -> str | None:
        """Return the name of a prompt's group; None if it has none."""
        ...
