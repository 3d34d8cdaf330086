"""Handwritten digits with prompts: one digit or two, of several sizes, at places and in relations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from perceiver.data.datasets.torchvision_images import MNIST
from perceiver.data.loading.images import (
    LabelledImages,
    image_spec,
    image_statistics,
    measured_normalisation,
)
from perceiver.data.loading.source import Source
from perceiver.data.synthetic.captions.glyphs import Glyphs
from perceiver.data.synthetic.prompts.images import PromptedImages, fixed_prompts
from perceiver.data.synthetic.prompts.language import Request, wordings_of
from perceiver.data.synthetic.prompts.scenes import SMALLEST_CANVAS, CanvasPainter, CanvasSplit, fixed_canvases
from perceiver.data.synthetic.prompts.texts import TEXT_SPEC
from perceiver.runtime.random_streams import stream_seed
from perceiver.targets.classes import classes_target

DIGIT_SIDE = 28
"""Height and width of MNIST's images."""

_VALIDATION, _TEST, _OVERFITTING, _STATISTICS = range(4)
_MEASURED = 1000
"""Canvases drawn to measure the mean and standard deviation of their pixels."""


@dataclass(frozen=True)
class DigitWordings:
    """Prompts of a single digit; a `Wordings`."""

    def __call__(self, label: int, *, held_out: bool = False) -> Sequence[str]:
        """Return the prompts of a digit."""
        return [Request(digits=(label,), wording=name).text for name in wordings_of(label, held_out=held_out)]


class DigitPrompts(Source):
    """Handwritten digits of MNIST and prompts for them: "the digit seven", "a three left of a small seven".

    Batches hold `inputs["image"]` `(B, 1, canvas, canvas)` and `inputs["text"]`, UTF-8 bytes `(B, L)`. The target is what
    the prompt asks for: of MNIST's own images the class `(B,)`, of larger canvases `(B, 6)`, see
    `perceiver.data.synthetic.prompts.scenes.TRUTH`. Training prompts, and canvases, are drawn anew at every access.

    Some prompts are held out of training: wordings that are never used with some digits
    (`perceiver.data.synthetic.prompts.language.HELD_OUT`), and pairs of digits that are never shown together. Only the
    test split has them.

    Args:
        root: folder with `MNIST/raw/`.
        num_digits: 1 or 2.
        canvas: height and width in pixels: 28 for a single digit as MNIST has it, or 40 and more, where digits have two
            sizes and prompts name sizes, places and relations. None: 28 for one digit, 40 for two.
        training_canvases: number of canvases per epoch; without larger canvases, an epoch is all images.
        validation_prompts, test_prompts: number of samples.
        held_out_share: share of the test prompts that are held out of training.
        prompt_seed: seed of the prompts of validation and test; not the training seed.
        validation_images: number of the 60,000 training images used for validation.
        split_seed: seed of this split.
        download: download absent files. False: absent files are an error.

    Raises:
        FileNotFoundError, ValueError: as `perceiver.data.MNIST`.
        ValueError: for a canvas that is too small, or numbers out of range.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        num_digits: int = 1,
        canvas: int | None = None,
        training_canvases: int = 55000,
        validation_prompts: int = 1000,
        test_prompts: int = 10000,
        held_out_share: float = 0.2,
        prompt_seed: int = 0,
        validation_images: int = 5000,
        split_seed: int = 0,
        download: bool = True,
    ) -> None:
        if num_digits not in (1, 2):
            raise ValueError(f"data.num_digits: expected 1 or 2, got {num_digits}.")
        canvas = (DIGIT_SIDE if num_digits == 1 else SMALLEST_CANVAS) if canvas is None else canvas
        if canvas < SMALLEST_CANVAS and (num_digits, canvas) != (1, DIGIT_SIDE):
            alone = f"{DIGIT_SIDE}, or " if num_digits == 1 else ""
            raise ValueError(f"data.canvas: expected {alone}{SMALLEST_CANVAS} or more pixels, got {canvas}.")
        sizes = {
            "training_canvases": training_canvases,
            "validation_prompts": validation_prompts,
            "test_prompts": test_prompts,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"data.{name}: expected 1 or more, got {size}.")
        if not 0 <= held_out_share <= 1:
            raise ValueError(f"data.held_out_share: expected a share from 0 to 1, got {held_out_share}.")
        self._images = MNIST(root=root, validation_size=validation_images, split_seed=split_seed, download=download)
        super().__init__(
            specs={**image_spec((1, canvas, canvas)), "text": TEXT_SPEC},
            class_names=self._images.class_names if canvas == DIGIT_SIDE else None,
            split_seed=split_seed,
        )
        self.num_digits = num_digits
        self.canvas = canvas
        self.training_canvases = training_canvases
        self.validation_prompts = validation_prompts
        self.test_prompts = test_prompts
        self.held_out_share = held_out_share
        self.prompt_seed = prompt_seed
        self.corruption_seed = prompt_seed

    def prepare(self) -> None:
        """Download absent files, and check all files."""
        self._images.prepare()

    def read_training(self) -> tuple[PromptedImages | CanvasSplit, PromptedImages | CanvasSplit]:
        """Return training samples, drawn anew at every access, and fixed validation samples without held-out prompts."""
        images, validation = self._images.read_training()
        fixed = self._fixed(validation, self.validation_prompts, 0.0, _VALIDATION, name="val")
        if self.canvas == DIGIT_SIDE:
            return PromptedImages(images=images, wordings=DigitWordings()), fixed
        return CanvasSplit(self._painter(images), ids="digit_prompts/train", size=self.training_canvases), fixed

    def read_test(self) -> PromptedImages | CanvasSplit:
        """Return test samples, some of them with held-out prompts, of the official test images."""
        return self._fixed(self._images.read_test(), self.test_prompts, self.held_out_share, _TEST, name="test")

    def unaltered(self, training: PromptedImages | CanvasSplit) -> PromptedImages | CanvasSplit:
        """Return training samples that are the same in every epoch."""
        seed = stream_seed(self.prompt_seed, _OVERFITTING)
        if isinstance(training, PromptedImages):
            return fixed_prompts(training.images, training.wordings, size=len(training), held_out_share=0.0, seed=seed)
        return fixed_canvases(training.painter, ids=training.ids, size=training.size, held_out_share=0.0, seed=seed)

    def learn(self, training: PromptedImages | CanvasSplit) -> dict[str, Any]:
        """Return the spec: normalised images and, for MNIST's own images, their classes."""
        modalities = {**self.specs, "image": {**self.specs["image"], **self._statistics(training)}}
        if self.canvas != DIGIT_SIDE:
            return {"modalities": modalities, "target": {}}
        names = self.named_classes()
        counts = training.labels.bincount(minlength=len(names)).tolist()  # type: ignore[union-attr]
        return {
            "modalities": modalities,
            "target": classes_target(names=names, counts=counts),
            "num_classes": len(names),
        }

    def _statistics(self, training: PromptedImages | CanvasSplit) -> dict[str, list[float]]:
        if isinstance(training, PromptedImages):
            return image_statistics(training.images)["image"]
        generator = torch.Generator().manual_seed(stream_seed(self.prompt_seed, _STATISTICS))
        drawn = training.painter.draw(_MEASURED, held_out_share=0.0, generator=generator)
        return measured_normalisation([training.painter.images(drawn)], value_range=(0, 1))

    def _fixed(
        self, images: LabelledImages, size: int, held_out_share: float, stream: int, *, name: str
    ) -> PromptedImages | CanvasSplit:
        seed = stream_seed(self.prompt_seed, stream)
        if self.canvas == DIGIT_SIDE:
            return fixed_prompts(images, DigitWordings(), size=size, held_out_share=held_out_share, seed=seed)
        return fixed_canvases(
            self._painter(images), ids=f"digit_prompts/{name}", size=size, held_out_share=held_out_share, seed=seed
        )

    def _painter(self, images: LabelledImages) -> CanvasPainter:
        return CanvasPainter(glyphs=Glyphs.of(images), canvas=self.canvas, num_digits=self.num_digits)
