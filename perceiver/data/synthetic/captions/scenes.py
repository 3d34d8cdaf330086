"""Captions of drawn scenes: MNIST digits of two sizes and their relations, optionally with the digits spoken."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from perceiver.data.datasets.spoken_digits import SpokenDigits
from perceiver.data.datasets.torchvision_images import MNIST
from perceiver.data.loading.images import image_spec, measured_normalisation
from perceiver.data.loading.missing import present_modalities
from perceiver.data.loading.samples import BatchedSamples
from perceiver.data.synthetic.captions.glyphs import LARGE, SMALL, Glyphs
from perceiver.data.synthetic.captions.language import LONGEST, DrawnDigit, describe, digit_words
from perceiver.data.synthetic.captions.layouts import Layouts, draw_layouts
from perceiver.data.synthetic.captions.source import CaptionedSource
from perceiver.data.synthetic.captions.speech import Speech, Utterance, pauses_of
from perceiver.runtime.random_streams import stream_seed
from perceiver.samples.batch import Batch
from perceiver.samples.grounding import Phrase

CANVAS = 48
"""Height and width of a scene in pixels."""

AVAILABLE = ("image", "audio")
_DESCRIBED = 2048  # training scenes for the statistics and the tokenizer
_VALIDATION, _TEST, _DESCRIPTION, _OVERFITTING = range(4)


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """B random scenes, before they are rendered.

    Args:
        layouts: places and sizes of the digits.
        numbers: `(B, 3)`, number of the glyph of each digit.
        utterances: the digits spoken from left to right; None without sound.
    """

    layouts: Layouts
    numbers: Tensor
    utterances: Sequence[Utterance] | None

    def rows(self, index: Tensor) -> Scenes:
        """Return the scenes at these positions."""
        layouts = Layouts(**{field.name: getattr(self.layouts, field.name)[index] for field in fields(Layouts)})
        utterances = None if self.utterances is None else [self.utterances[number] for number in index.tolist()]
        return Scenes(layouts=layouts, numbers=self.numbers[index], utterances=utterances)


@dataclass(frozen=True, kw_only=True)
class Studio:
    """Draws scenes with the digits and recordings of a split.

    Args:
        glyphs: digits to draw.
        speech: recordings of spoken digits; None: no sound.
    """

    glyphs: Glyphs
    speech: Speech | None

    def draw(self, count: int, *, generator: torch.Generator | None) -> Scenes:
        """Draw scenes at random; None takes torch's own random state."""
        layouts = draw_layouts(count, canvas=CANVAS, sides=(SMALL, LARGE), generator=generator)
        numbers = torch.randint(len(self.glyphs.labels), layouts.large.shape, generator=generator)
        utterances = None
        if self.speech is not None:
            labels, sizes = self.glyphs.labels[numbers].tolist(), layouts.present.sum(dim=1).tolist()
            utterances = [self.speech.draw(row[:size], generator=generator) for row, size in zip(labels, sizes, strict=True)]
        return Scenes(layouts=layouts, numbers=numbers, utterances=utterances)

    def images(self, scenes: Scenes) -> Float[Tensor, "batch 1 height width"]:
        """Return the scenes in [0, 1]: light digits on black."""
        layouts = scenes.layouts
        pixels = self.glyphs.drawn(
            scenes.numbers,
            large=layouts.large,
            top=layouts.top,
            left=layouts.left,
            present=layouts.present,
            canvas=CANVAS,
        )
        return pixels[:, None] / 255

    def drawn(self, scenes: Scenes) -> list[list[DrawnDigit]]:
        """Return the digits of each scene from left to right, with the boxes of their ink."""
        layouts, labels = scenes.layouts, self.glyphs.labels[scenes.numbers]
        corner = torch.stack([layouts.top, layouts.top, layouts.left, layouts.left], dim=-1)
        boxes = corner + self.glyphs.boxes[scenes.numbers, layouts.large.long()]
        found = []
        for row, size in enumerate(layouts.present.sum(dim=1).tolist()):
            digits = zip(
                labels[row, :size].tolist(), layouts.large[row, :size].tolist(), boxes[row, :size].tolist(), strict=True
            )
            found.append(
                [
                    DrawnDigit(digit=digit, large=large, box=((top, bottom), (left, right)))
                    for digit, large, (top, bottom, left, right) in digits
                ]
            )
        return found


class SceneSplit(BatchedSamples):
    """A split of scenes: fixed, or newly drawn at every access.

    Args:
        studio: draws the scenes.
        owner: data set whose spec has the tokenizer.
        ids: prefix of the ids, before the number.
        size: number of scenes.
        scenes: fixed scenes; None: draw new ones from torch's global random state.
        present: `(size, modalities)`, presence of the owner's modalities; None: all are.
    """

    def __init__(
        self,
        studio: Studio,
        owner: SceneCaptions,
        *,
        ids: str,
        size: int,
        scenes: Scenes | None = None,
        present: Bool[Tensor, "size modalities"] | None = None,
    ) -> None:
        self.studio = studio
        self.owner = owner
        self.ids = ids
        self.size = size
        self.scenes = scenes
        self.present = present

    @property
    def example(self) -> int:
        """Return the position of a sample with the largest number of modalities."""
        return 0 if self.present is None else int(self.present.sum(dim=1).argmax())

    def __len__(self) -> int:
        return self.size

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a batch of samples."""
        index = torch.as_tensor(indices)
        scenes = self.studio.draw(len(index), generator=None) if self.scenes is None else self.scenes.rows(index)
        drawn = self.studio.drawn(scenes)
        captions = [describe(one) for one in drawn]
        ids = [f"{self.ids}/{number}" for number in index.tolist()]
        target, valid = self.owner.targets(captions, ids)
        batch = Batch(inputs={}, target=target, target_mask=valid, ids=ids)
        present = None if self.present is None else self.present[index]
        for column, name in enumerate(self.owner.modalities):
            x, mask = self._input(name, scenes)
            own = None if present is None else present[:, column]
            if own is not None and not bool(own.all()):
                mask = own if mask is None else mask & own[:, None]
            batch.inputs[name] = x
            if mask is not None:
                batch.masks[name] = mask
        if self.scenes is not None:
            batch.groundings = [grounded(caption, one) for caption, one in zip(captions, drawn, strict=True)]
        return batch

    def _input(self, name: str, scenes: Scenes) -> tuple[Tensor, Tensor | None]:
        if name == "image":
            return self.studio.images(scenes), None
        assert self.studio.speech is not None
        assert scenes.utterances is not None
        return self.studio.speech.batch(scenes.utterances)


class SceneCaptions(CaptionedSource):
    """Describe a scene in words: one to three handwritten digits of two sizes, from left to right, with their relations.

    Batches hold `inputs["image"]` `(B, 1, 48, 48)`, the target, such as the ids of "a large seven left of a small three",
    and in validation and test the place of each digit word. With the modality audio, `inputs["audio"]` `(B, 1, samples)` is
    one voice that names the digits from left to right, but neither sizes nor relations. Digits and recordings of a split
    are those of the split of MNIST and of the Free Spoken Digit Dataset. Training scenes are newly drawn in every epoch.

    Args:
        root: folder with `MNIST/raw/`, and for audio `free-spoken-digit-dataset/recordings/`.
        modalities: some of image, audio. The scenes of validation and test do not depend on it.
        training_scenes: number of scenes per epoch.
        validation_scenes, test_scenes: number of scenes.
        scene_seed: seed of the scenes of validation and test, and of missing modalities; not the training seed.
        pause_seconds: (least, most) silence between spoken digits.
        missing: by modality, the share of training samples that lack it, the same in every epoch; None: none.
        validation_images, validation_recordings: number of training images and recordings used for validation.
        split_seed: seed of these splits.
        tokenizer, vocabulary_size: see `CaptionedSource`.
        download: download absent files. False: absent files are an error.

    Raises:
        FileNotFoundError, ValueError: as `perceiver.data.MNIST` and `perceiver.data.SpokenDigits`.
        ValueError: for unknown or repeated modalities, or numbers out of range.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        modalities: Sequence[str] = ("image",),
        training_scenes: int = 16384,
        validation_scenes: int = 1000,
        test_scenes: int = 2000,
        scene_seed: int = 0,
        pause_seconds: Sequence[float] = (0.05, 0.2),
        missing: Mapping[str, float] | None = None,
        validation_images: int = 5000,
        validation_recordings: int = 300,
        split_seed: int = 0,
        tokenizer: Literal["pairs", "bytes"] = "pairs",
        vocabulary_size: int = 320,
        download: bool = True,
    ) -> None:
        for name, size in (("training", training_scenes), ("validation", validation_scenes), ("test", test_scenes)):
            if size < 1:
                raise ValueError(f"data.{name}_scenes: expected 1 or more, got {size}.")
        chosen = tuple(modalities)
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(AVAILABLE):
            raise ValueError(f"data.modalities: expected some of {', '.join(AVAILABLE)}, each once, got {list(chosen)}.")
        present_modalities(missing or {}, modalities=chosen, num_samples=0, seed=0)  # for its checks
        splits: dict[str, Any] = {"root": root, "split_seed": split_seed, "download": download}
        self._images = MNIST(**splits, validation_size=validation_images)
        self._recordings = SpokenDigits(**splits, validation_size=validation_recordings)
        specs = {**image_spec((1, CANVAS, CANVAS)), **self._recordings.specs}
        super().__init__(
            specs={name: specs[name] for name in chosen},
            tokenizer=tokenizer,
            vocabulary_size=vocabulary_size,
            longest=LONGEST,
            split_seed=split_seed,
        )
        self.modalities = chosen
        self.training_scenes = training_scenes
        self.validation_scenes = validation_scenes
        self.test_scenes = test_scenes
        self.scene_seed = scene_seed
        self.corruption_seed = scene_seed
        self.pauses = pauses_of(pause_seconds, sample_rate=8000)
        self.missing = dict(missing or {})
        self._loudness: dict[str, dict[str, Any]] = {}

    @property
    def available(self) -> tuple[str, ...]:
        """Return all modalities of the data set, used or not."""
        return AVAILABLE

    def prepare(self) -> None:
        """Download absent files, and check all files that are used."""
        self._images.prepare()
        if "audio" in self.modalities:
            self._recordings.prepare()

    def read_training(self) -> tuple[SceneSplit, SceneSplit]:
        """Return training scenes, newly drawn at every access, and fixed validation scenes."""
        images, validation_images = self._images.read_training()
        speech = validation_speech = None
        if "audio" in self.modalities:
            recordings, validation_recordings = self._recordings.read_training()
            self._loudness = self._recordings.statistics(recordings) if self.spec is None else {}
            speech = Speech(recordings, pauses=self.pauses)
            validation_speech = Speech(validation_recordings, pauses=self.pauses)
        training = Studio(glyphs=Glyphs.of(images), speech=speech)
        validation = Studio(glyphs=Glyphs.of(validation_images), speech=validation_speech)
        size, present = self.training_scenes, None
        if self.missing:
            present = present_modalities(self.missing, modalities=self.modalities, num_samples=size, seed=self.scene_seed)
        return (
            SceneSplit(training, self, ids="scene_captions/train", size=size, present=present),
            self._fixed(validation, "val", self.validation_scenes, _VALIDATION),
        )

    def read_test(self) -> SceneSplit:
        """Return test scenes, with the official test splits of digits and recordings."""
        speech = Speech(self._recordings.read_test(), pauses=self.pauses) if "audio" in self.modalities else None
        studio = Studio(glyphs=Glyphs.of(self._images.read_test()), speech=speech)
        return self._fixed(studio, "test", self.test_scenes, _TEST)

    def unaltered(self, training: SceneSplit) -> SceneSplit:
        """Return training scenes that are the same in every epoch."""
        return self._fixed(training.studio, "train", training.size, _OVERFITTING, present=training.present)

    def statistics(self, training: SceneSplit) -> dict[str, dict[str, Any]]:
        """Return mean and standard deviation of the pixels, and unit scale of the sound."""
        scenes = self._described(training)
        pixels = measured_normalisation([training.studio.images(scenes)], value_range=(0, 1))
        return {"image": pixels, **self._loudness}

    def texts(self, training: SceneSplit) -> Sequence[str]:
        """Return captions of training scenes."""
        return [describe(one) for one in training.studio.drawn(self._described(training))]

    def _described(self, training: SceneSplit) -> Scenes:
        generator = torch.Generator().manual_seed(stream_seed(self.scene_seed, _DESCRIPTION))
        # Without sound, whose draws would take time and change nothing.
        return Studio(glyphs=training.studio.glyphs, speech=None).draw(_DESCRIBED, generator=generator)

    def _fixed(self, studio: Studio, name: str, size: int, stream: int, *, present: Tensor | None = None) -> SceneSplit:
        scenes = studio.draw(size, generator=torch.Generator().manual_seed(stream_seed(self.scene_seed, stream)))
        return SceneSplit(studio, self, ids=f"scene_captions/{name}", size=size, scenes=scenes, present=present)


def grounded(caption: str, scene: Sequence[DrawnDigit]) -> tuple[Phrase, ...]:
    """Return each digit word of a caption with the box of its digit."""
    return tuple(
        Phrase(start=start, end=end, modality="image", box=one.box)
        for (_, start, end), one in zip(digit_words(caption), scene, strict=True)
    )
