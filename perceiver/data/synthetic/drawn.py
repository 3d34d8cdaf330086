"""Base of data sets of drawn digits: sources of digits, and scenes that are fixed or redrawn."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from perceiver.data.loading.images import Images
from perceiver.data.loading.source import Source
from perceiver.data.synthetic.scenes import Layer, random_background, random_glyph_layer
from perceiver.modalities.spec import ModalitySpec
from perceiver.runtime.random_streams import stream_seed
from perceiver.samples.batch import Sample
from perceiver.samples.collate import Collate

DESCRIBED = 128
"""Number of training scenes for mean and standard deviation."""

_VALIDATION, _TEST, _DESCRIPTION, _TRAINING = range(4)


@dataclass(frozen=True)
class Glyphs:
    """Images of digits to draw, as ink in [0, 1]."""

    images: Images

    def any(self, generator: torch.Generator) -> tuple[Tensor, int]:
        """Choose a random digit; return its ink `(h, w)` and class."""
        number = torch.randint(len(self.images.labels), (1,), generator=generator)
        low, high = self.images.value_range
        ink = (self.images.read(number)[0].float().mean(dim=0) - low) / (high - low)
        return ink, int(self.images.labels[number])


@runtime_checkable
class Scene(Protocol):
    """Draws scenes. Separate from the data set, since loader processes may have to pickle it."""

    def __call__(self, glyphs: Glyphs, generator: torch.Generator, *, name: str) -> Sample:
        """Draw a scene with random digits, with `name` as its id, determined by the generator."""
        ...


@dataclass(frozen=True)
class DrawnScenes:
    """A split of scenes, each drawn from a seed.

    Args:
        scene: draws the scenes.
        glyphs: digits to draw.
        size: number of scenes.
        ids: prefix of the ids, before the number.
        seeds: seeds of the scenes, combined with their number; scenes are drawn once and kept. None: draw a new scene at
            every access.
    """

    scene: Scene
    glyphs: Glyphs
    size: int
    ids: str
    seeds: tuple[int, ...] | None
    _kept: dict[int, Sample] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.size:
            raise IndexError(index)
        if self.seeds is None:
            return self._drawn(int(torch.randint(2**62, ())), index)
        if index not in self._kept:
            self._kept[index] = self._drawn(stream_seed(*self.seeds, index), index)
        return self._kept[index]

    def _drawn(self, seed: int, index: int) -> Sample:
        return self.scene(self.glyphs, torch.Generator().manual_seed(seed), name=f"{self.ids}/{index}")

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(self.size))


class DrawnSource(Source):
    """Scenes with digits. Validation and test scenes are fixed, training scenes differ in every epoch.

    Scenes of a split use the digits of the source's split, so no digit is in two splits.

    Args:
        source: source of the digits: `perceiver.data.Digits` or `MNIST`, or another source of small images, light on dark.
        scene: draws the scenes.
        name: prefix of ids.
        modality: name of the modality, the key in `Batch.inputs`.
        spec: spec entries of the modality that do not depend on the data.
        training_scenes: number of scenes per epoch.
        redraw: draw new training scenes in every epoch. False: draw them once and keep them in memory, which is faster.
        validation_scenes, test_scenes: number of scenes.
        scene_seed: seed of the validation and test scenes; not the training seed.
    """

    def __init__(
        self,
        *,
        source: Source,
        scene: Scene,
        name: str,
        modality: str,
        spec: ModalitySpec,
        training_scenes: int,
        redraw: bool,
        validation_scenes: int,
        test_scenes: int,
        scene_seed: int,
    ) -> None:
        super().__init__(specs={modality: spec})
        sizes = {"training_scenes": training_scenes, "validation_scenes": validation_scenes, "test_scenes": test_scenes}
        for key, value in sizes.items():
            if value < 1:
                raise ValueError(f"data.{key}: expected 1 or more, got {value}.")
        if scene_seed < 0:
            raise ValueError(f"data.scene_seed: expected 0 or more, got {scene_seed}.")
        self.modality = modality
        self.source = source
        self.scene = scene
        self.name = name
        self.training_scenes = training_scenes
        self.redraw = redraw
        self.validation_scenes = validation_scenes
        self.test_scenes = test_scenes
        self.scene_seed = scene_seed

    @abstractmethod
    def describe(self, scenes: list[Sample]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the spec entries of the modality besides `spec`, and of the target, from training scenes."""

    def prepare(self) -> None:
        """Download or check the digits."""
        self.source.prepare()

    def read_training(self) -> tuple[DrawnScenes, DrawnScenes]:
        """Return training and validation scenes."""
        seeds = None if self.redraw else (self.scene_seed, _TRAINING)
        training, validation = (Glyphs(images) for images in self.source.read_training())
        return (
            DrawnScenes(self.scene, training, self.training_scenes, f"{self.name}/train", seeds),
            DrawnScenes(self.scene, validation, self.validation_scenes, f"{self.name}/val", (self.scene_seed, _VALIDATION)),
        )

    def read_test(self) -> DrawnScenes:
        """Return test scenes."""
        images = Glyphs(self.source.read_test())
        return DrawnScenes(self.scene, images, self.test_scenes, f"{self.name}/test", (self.scene_seed, _TEST))

    def unaltered(self, training: DrawnScenes) -> DrawnScenes:
        """Return training scenes that are the same in every epoch."""
        return self._fixed(training, self.training_scenes)

    def learn(self, training: DrawnScenes) -> dict[str, Any]:
        """Return the spec, from 128 scenes with training digits."""
        statistics, target = self.describe(list(self._fixed(training, DESCRIBED)))
        counted = "num_classes" if target["kind"] == "segmentation" else "num_outputs"
        return {
            "modalities": {self.modality: {**self.specs[self.modality], **statistics}},
            "target": target,
            counted: len(target["names"]),
        }

    def _fixed(self, training: DrawnScenes, size: int) -> DrawnScenes:
        return DrawnScenes(self.scene, training.glyphs, size, training.ids, (self.scene_seed, _DESCRIPTION))


def stacked(scenes: list[Sample], *, modality: str) -> tuple[Tensor, Tensor, Tensor]:
    """Stack scenes of one size: inputs `(B, C, …)`, targets `(B, …)` and their validity `(B, H, W)`."""
    batch = Collate(modalities={modality: {"kind": "scene", "channel_axis": 0}})(scenes)
    x, target = batch.inputs[modality], batch.target
    assert isinstance(x, Tensor)
    assert target is not None
    grid = (len(target), *target.shape[-2:])
    return x, target, torch.ones(grid, dtype=torch.bool) if batch.target_mask is None else batch.target_mask


@dataclass(frozen=True, kw_only=True)
class Composition:
    """Random composition of a scene: a background, and digits in front of it.

    Args:
        height, width: size of the scene in pixels.
        digits: minimum and maximum number of digits.
        diameter: minimum and maximum side of a digit in pixels.
    """

    height: int
    width: int
    digits: tuple[int, int]
    diameter: tuple[float, float]

    @classmethod
    def of(cls, *, size: Sequence[int], digits: Sequence[int], diameter: Sequence[float]) -> "Composition":
        """Make a composition from the arguments of a data module.

        Raises:
            ValueError: for an impossible scene.
        """
        _check_scene(size=list(size), diameter=list(diameter), digits=list(digits))
        return cls(
            height=int(size[0]),
            width=int(size[1]),
            digits=(int(digits[0]), int(digits[1])),
            diameter=(float(diameter[0]), float(diameter[1])),
        )

    @property
    def size(self) -> dict[str, int]:
        """Height and width, as arguments for drawing."""
        return {"height": self.height, "width": self.width}

    def layers(self, glyphs: Glyphs, generator: torch.Generator) -> list[Layer]:
        """Return the background, then the digits from back to front."""
        found = [random_background(**self.size, generator=generator)]
        fewest, most = self.digits
        for _ in range(int(torch.randint(fewest, most + 1, (), generator=generator))):
            ink, label = glyphs.any(generator)
            found.append(random_glyph_layer(ink, label=label, diameter=self.diameter, **self.size, generator=generator))
        return found


def _check_scene(*, size: list[int], diameter: list[float], digits: list[int]) -> None:
    if len(size) != 2 or min(size) < 4:
        raise ValueError(f"data.size: expected [height, width] in pixels, at least 4 each, got {size}.")
    if len(diameter) != 2 or not 1 <= diameter[0] <= diameter[1]:
        raise ValueError(f"data.diameter: expected [minimum, maximum] side of a digit in pixels, got {diameter}.")
    if len(digits) != 2 or not 0 <= digits[0] <= digits[1]:
        raise ValueError(f"data.digits: expected [minimum, maximum] number of digits per scene, got {digits}.")
