"""Labelled images whose prompts are the names of their classes: Fashion-MNIST, CIFAR-10, CIFAR-100, digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perceiver.data.loading.images import image_statistics
from perceiver.data.loading.source import Source
from perceiver.data.synthetic.prompts.images import PromptedImages, fixed_prompts
from perceiver.data.synthetic.prompts.texts import TEXT_SPEC
from perceiver.runtime.random_streams import stream_seed
from perceiver.targets.classes import classes_target

TEMPLATES = ("{name}", "a picture of {name}", "an image of {name}")

_VALIDATION, _TEST, _OVERFITTING = range(3)


@dataclass(frozen=True)
class ClassWordings:
    """Prompts of a class: its name in templates; a `Wordings`.

    Args:
        names: name of each class.
        templates: texts with `{name}` where the name belongs.
    """

    names: Sequence[str]
    templates: Sequence[str] = TEMPLATES

    def __call__(self, label: int, *, held_out: bool = False) -> Sequence[str]:
        """Return the prompts of a class; none is held out."""
        # Not str.format: names come from files.
        return () if held_out else [one.replace("{name}", self.names[label]) for one in self.templates]


class ClassPrompts(Source):
    """Images of another source, and the names of their classes as prompts: "a picture of sandal".

    Batches hold `inputs["image"]` `(B, C, H, W)`, normalised to [-1, 1], `inputs["text"]`, UTF-8 bytes `(B, L)`, and the
    class as the target. Training prompts are drawn anew at every access.

    Args:
        source: labelled images in memory, such as `perceiver.data.FashionMNIST` or `perceiver.data.CIFAR10`.
        templates: prompts, with `{name}` where the name of the class belongs.
        validation_prompts, test_prompts: number of samples; all images if there are fewer.
        prompt_seed: seed of the prompts of validation and test; not the training seed.

    Raises:
        ValueError: for templates without `{name}`, or numbers below 1; otherwise as the source.

    Examples:
        >>> from perceiver.data import ClassPrompts, DataModule, Digits
        >>> data = DataModule(ClassPrompts(source=Digits(), templates=["the digit {name}"]), batch_size=4)
        >>> batch = next(iter(data.val_dataloader()))
        >>> batch.inputs["image"].shape, batch.inputs["text"].shape
        (torch.Size([4, 1, 8, 8]), torch.Size([4, 11]))
    """

    def __init__(
        self,
        *,
        source: Source,
        templates: Sequence[str] = TEMPLATES,
        validation_prompts: int = 1000,
        test_prompts: int = 10000,
        prompt_seed: int = 0,
    ) -> None:
        if not templates or not all("{name}" in one for one in templates):
            raise ValueError(f"data.templates: expected texts with {{name}} where the class belongs, got {list(templates)}.")
        for name, size in {"validation_prompts": validation_prompts, "test_prompts": test_prompts}.items():
            if size < 1:
                raise ValueError(f"data.{name}: expected 1 or more, got {size}.")
        super().__init__(specs={**source.specs, "text": TEXT_SPEC}, split_seed=source.split_seed)
        self.source = source
        self.templates = tuple(templates)
        self.validation_prompts = validation_prompts
        self.test_prompts = test_prompts
        self.prompt_seed = prompt_seed
        self.corruption_seed = prompt_seed

    def prepare(self) -> None:
        """Download absent files, and check all files."""
        self.source.prepare()

    def read_class_names(self) -> list[str] | None:
        """Return the class names of the source."""
        return self.source.class_names

    def read_training(self) -> tuple[PromptedImages, PromptedImages]:
        """Return training images, with a new prompt at every access, and fixed validation samples."""
        images, validation = self.source.read_training()
        return PromptedImages(images=images, wordings=self._wordings()), self._fixed(
            validation, self.validation_prompts, _VALIDATION
        )

    def read_test(self) -> PromptedImages:
        """Return test samples."""
        return self._fixed(self.source.read_test(), self.test_prompts, _TEST)

    def unaltered(self, training: PromptedImages) -> PromptedImages:
        """Return training samples with prompts that are the same in every epoch."""
        return self._fixed(training.images, len(training), _OVERFITTING)

    def learn(self, training: PromptedImages) -> dict[str, Any]:
        """Return the spec: normalised images, and their classes."""
        names = self.named_classes()
        image = {**self.specs["image"], **image_statistics(training.images)["image"]}
        return {
            "modalities": {**self.specs, "image": image},
            "target": classes_target(names=names, counts=training.labels.bincount(minlength=len(names)).tolist()),
            "num_classes": len(names),
        }

    def _fixed(self, images: Any, size: int, stream: int) -> PromptedImages:
        return fixed_prompts(
            images, self._wordings(), size=size, held_out_share=0.0, seed=stream_seed(self.prompt_seed, stream)
        )

    def _wordings(self) -> ClassWordings:
        return ClassWordings(names=tuple(self.named_classes()), templates=self.templates)
