"""Synthetic semantic segmentation: textured digits in front of a textured background, and the class of every pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from perceiver.data.loading.source import Source
from perceiver.data.synthetic.drawn import Composition, DrawnSource, Glyphs, stacked
from perceiver.data.synthetic.scenes import draw
from perceiver.modalities import channel_statistics
from perceiver.samples.batch import Sample
from perceiver.targets.pixels import segmentation_target

BACKGROUND = "background"


@dataclass(frozen=True, kw_only=True)
class PlacedScene:
    """Draw an image and the classes of its pixels. Arguments as in `PlacedDigits`, and the class of the background."""

    composition: Composition
    background: int

    def __call__(self, glyphs: Glyphs, generator: torch.Generator, *, name: str) -> Sample:
        """Draw an image `(3, H, W)` in [0, 1] and class numbers `(H, W)`."""
        layers = self.composition.layers(glyphs, generator)
        picture = draw(layers, **self.composition.size)
        classes = torch.tensor([self.background, *(layer.label for layer in layers[1:])])[picture.top]
        return Sample(inputs={"image": picture.pixels}, target=classes, id=name)


class PlacedDigits(DrawnSource):
    """Images `(B, 3, H, W)` as `inputs["image"]`, and class numbers `(B, H, W)`: the classes of the digits, then background.

    Args:
        source: source of the digits, see `DrawnSource`.
        size: [height, width] of the images.
        digits: [minimum, maximum] number of digits in a scene; later digits may cover earlier digits.
        diameter: [minimum, maximum] side of a digit in pixels.
        training_scenes, redraw, validation_scenes, test_scenes, scene_seed: see `DrawnSource`.

    Raises:
        ValueError: for an impossible scene.
    """

    def __init__(
        self,
        *,
        source: Source,
        size: Sequence[int] = (32, 32),
        digits: Sequence[int] = (1, 3),
        diameter: Sequence[float] = (12.0, 20.0),
        training_scenes: int = 2048,
        redraw: bool = True,
        validation_scenes: int = 256,
        test_scenes: int = 512,
        scene_seed: int = 0,
    ) -> None:
        composition = Composition.of(size=size, digits=digits, diameter=diameter)
        scene = PlacedScene(composition=composition, background=len(source.named_classes()))
        super().__init__(
            source=source,
            scene=scene,
            name="placed_digits",
            modality="image",
            spec={"kind": "image", "shape": [3, composition.height, composition.width], "range": [0, 255]},
            training_scenes=training_scenes,
            redraw=redraw,
            validation_scenes=validation_scenes,
            test_scenes=test_scenes,
            scene_seed=scene_seed,
        )

    def describe(self, scenes: list[Sample]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return mean and standard deviation of the colours, and the number of pixels per class."""
        images, classes, _ = stacked(scenes, modality=self.modality)
        names = self._names()
        counts = classes.flatten().bincount(minlength=len(names)).tolist()
        target = segmentation_target(names=names, counts=counts, modality=self.modality)
        return channel_statistics(images, channel_axis=0), target

    def known(self) -> dict[str, Any]:
        """Return the entries of the images, and of the classes: digits and background."""
        target = {"kind": "segmentation", "names": self._names(), "modality": self.modality}
        return {"modalities": self.specs, "target": target}

    def _names(self) -> list[str]:
        return [*self.source.named_classes(), BACKGROUND]
