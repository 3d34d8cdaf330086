"""Labelled images with prompts: "the digit seven" for an image of a seven."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from perceiver.data.loading.images import LabelledImages
from perceiver.data.loading.samples import BatchedSamples
from perceiver.data.synthetic.prompts.texts import text_batch
from perceiver.modalities.arrays import scale
from perceiver.samples.batch import Batch


@runtime_checkable
class Wordings(Protocol):
    """Prompts of a class. Separate from the data set, since loader processes may have to pickle it."""

    def __call__(self, label: int, *, held_out: bool = False) -> Sequence[str]:
        """Return the prompts of a class that training uses, or those that it never uses; the latter may be none."""
        ...


@dataclass(frozen=True, kw_only=True)
class PromptedImages(BatchedSamples):
    """A split of images, each with a prompt.

    Args:
        images: the images and their classes.
        wordings: prompts of each class.
        texts: prompt of each image; None: draw one at every access, from torch's global random state.
    """

    images: LabelledImages
    wordings: Wordings
    texts: Sequence[str] | None = None

    @property
    def labels(self) -> Tensor:
        """Class of each image."""
        return self.images.labels

    def take(self, index: Tensor) -> PromptedImages:
        """Return the samples at these positions."""
        texts = None if self.texts is None else [self.texts[number] for number in index.tolist()]
        return replace(self, images=self.images.take(index), texts=texts)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a batch of samples."""
        index = torch.as_tensor(indices)
        labels = self.images.labels[index]
        if self.texts is None:
            texts = [drawn(self.wordings(label), generator=None) for label in labels.tolist()]
        else:
            texts = [self.texts[number] for number in index.tolist()]
        ids, mask = text_batch(texts)
        image = scale(self.images.read(index), {"range": self.images.value_range})
        masks = {} if mask is None else {"text": mask}
        return Batch(inputs={"image": image, "text": ids}, masks=masks, target=labels, ids=self.images.names(index))


def fixed_prompts(
    images: LabelledImages, wordings: Wordings, *, size: int, held_out_share: float, seed: int
) -> PromptedImages:
    """Return some images with prompts that are the same at every access.

    Args:
        images: images to choose from.
        wordings: prompts of each class.
        size: number of samples; all images if there are fewer.
        held_out_share: share of prompts that training never uses, of the classes that have such prompts.
        seed: seed of the choice and of the prompts.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = images.take(torch.randperm(len(images), generator=generator)[:size].sort().values)
    asked = (torch.rand(len(chosen), generator=generator) < held_out_share).tolist()
    texts = []
    for label, held_out in zip(chosen.labels.tolist(), asked, strict=True):
        choices = (wordings(label, held_out=True) if held_out else ()) or wordings(label)
        texts.append(drawn(choices, generator=generator))
    return PromptedImages(images=chosen, wordings=wordings, texts=texts)


def drawn(choices: Sequence[str], *, generator: torch.Generator | None) -> str:
    """Return one of several texts, each equally likely; None takes torch's own random state."""
    return choices[int(torch.randint(len(choices), (), generator=generator))]
