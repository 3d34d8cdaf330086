"""A judge of generated emoji: which of all emoji are most similar to a picture?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from perceiver import checkpoints
from perceiver.data.datasets.emoji import HANDS, read_emoji
from perceiver.data.datasets.emoji_prompts import EmojiPrompts
from perceiver.modalities.preprocess import normalise
from perceiver.model import Perceiver
from perceiver.objectives.judges.judgement import Judgement
from perceiver.runtime.user_paths import expanded
from perceiver.samples.batch import Batch

PIXELS = 16
"""Height and width of the pictures that are compared without a model."""


class EmojiJudge:
    """Judges whether a picture finds its emoji among all; an `ImageJudge`.

    With the checkpoint of a retrieval model (`experiment=emoji_retrieval`), the picture is searched among those of the other
    hand, in the model's embeddings. Without, it is searched among those of its own hand by 16 x 16 pixels, for a quick look.

    Measures: `prompt_accuracy`, the emoji is the most similar; `recall_at_5`, it is among the five most similar.

    Args:
        root: folder with the emoji; see `perceiver.data.Emoji`.
        hand, size, split_seed: see `perceiver.data.EmojiPrompts`: what the model was trained on.
        ckpt_path: the retrieval model, as a checkpoint or a run directory; None: pixels.
        trust: packages whose classes the checkpoint may name; see `perceiver.load`.

    Raises:
        ValueError: for an unknown hand, or a checkpoint of a model that does not embed the pictures of both hands.
    """

    measures: Sequence[str] = ("prompt_accuracy", "recall_at_5")

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        hand: str = "noto",
        size: int = 32,
        split_seed: int = 0,
        ckpt_path: str | None = None,
        trust: Sequence[str] = (),
    ) -> None:
        if hand not in HANDS:
            raise ValueError(f"judge.hand: expected one of {', '.join(HANDS)}, got {hand!r}.")
        self.root = root
        self.hand = hand
        self.source = EmojiPrompts(root=root, hand=hand, size=size, split_seed=split_seed)
        self.model: Perceiver | None = None
        self.channels = 3 * PIXELS * PIXELS
        if ckpt_path is not None:
            file = checkpoints.find(expanded(ckpt_path, setting="judge.ckpt_path"))
            self.model = checkpoints.load(file, trust=list(trust)).eval().requires_grad_(False)
            if missing := sorted(set(HANDS) - set(self.model.adapters)):
                raise ValueError(f"judge.ckpt_path: expected a model of {', '.join(HANDS)}, but {file} lacks {missing}.")
            self.channels = int(getattr(self.model.head, "output_channels", 0))

    def __call__(self, images: Tensor, batch: Batch) -> Judgement:
        """See `ImageJudge`."""
        target = batch.target
        if target is None or target.ndim != 1:
            raise ValueError("judge: expected the number of an emoji as the target of each sample.")
        features = self._embedded(images, self.hand)
        similarities = F.normalize(features, dim=1) @ F.normalize(self._gallery.to(features.device), dim=1).T
        own = similarities.gather(1, target.to(images.device)[:, None])
        # Blank pictures are as similar to each emoji, and NaN to none: neither finds its own.
        rank = (~(similarities < own)).sum(dim=1)
        return Judgement(features=features, right={"prompt_accuracy": rank <= 1, "recall_at_5": rank <= 5}, asked={})

    def training_images(self) -> Tensor:
        """Return the pictures of the hand that are not held out."""
        training, _ = self.source.read_training()
        return training.pictures[list(training.numbers)] / 255

    @cached_property
    def _pictures(self) -> dict[str, Tensor]:
        return read_emoji(self.root).pictures

    @cached_property
    def _gallery(self) -> Tensor:
        hand = self.hand if self.model is None else next(one for one in HANDS if one != self.hand)
        parts = (self._pictures[hand] / 255).split(256)
        return torch.cat([self._embedded(part, hand) for part in parts])

    def _embedded(self, images: Tensor, hand: str) -> Tensor:
        """Return features of pictures in [0, 1]."""
        if self.model is None:
            pixels = F.interpolate(images, size=(PIXELS, PIXELS), mode="area")
            return (pixels - pixels.mean(dim=(1, 2, 3), keepdim=True)).flatten(1)
        spec = (self.model.spec or {})["modalities"][hand]
        resized = F.interpolate(images, size=tuple(spec["shape"][1:]), mode="area")
        features: Tensor = self.model.to(images.device)({hand: normalise(resized, spec)})
        return features
