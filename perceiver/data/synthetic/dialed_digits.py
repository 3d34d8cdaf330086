"""Labelled clips of a handwritten digit that moves while a telephone dials it. No files needed.

The handwriting is scikit-learn's digits (`perceiver.data.datasets.digits`). Motion and sound are synthetic:
`dialed_clips.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from perceiver.data.datasets.digits import Digits
from perceiver.data.loading.images import LabelledImages
from perceiver.data.loading.missing import present_modalities
from perceiver.data.loading.samples import BatchedSamples, Subset
from perceiver.data.loading.source import Source
from perceiver.data.synthetic.dialed_clips import COLUMNS, Clip
from perceiver.samples.batch import Batch

MODALITIES = ("audio", "video")


class DialedDigits(Source):
    """Clips of moving digits with the tones of their telephone keys, labelled by the digit.

    Splits are disjoint in handwriting. Training clips are new at every access; validation and test clips are made once.
    Batches hold `inputs["video"]` `(B, 1, T, H, W)` and `inputs["audio"]` `(B, 1, samples)`; if some samples lack one of
    them, also its mask `(B,)`.

    Args:
        num_frames, canvas, frames_per_second, sample_rate, max_speed, noise: see `dialed_clips.Clip`.
        validation_size, test_size: number of the 1,797 digits for validation and test.
        split_seed: seed of this split; not the training seed.
        clips_per_digit: number of clips per digit in a training epoch, and in validation and test.
        clip_seed: seed of the validation and test clips, and of missing modalities; not the training seed.
        missing: by modality, the share of training samples that lack it, the same samples in every epoch; see
            `perceiver.data.loading.missing.present_modalities`. None: no missing modalities.

    Raises:
        ValueError: for invalid sizes, a sample rate too low for the tones, or shares of other modalities.
    """

    def __init__(
        self,
        *,
        num_frames: int = 8,
        canvas: Sequence[int] = (16, 16),
        frames_per_second: float = 25.0,
        sample_rate: int = 4000,
        max_speed: float = 1.5,
        noise: float = 0.01,
        validation_size: int = 180,
        test_size: int = 360,
        split_seed: int = 0,
        clips_per_digit: int = 4,
        clip_seed: int = 0,
        missing: Mapping[str, float] | None = None,
    ) -> None:
        for name, value in {"num_frames": num_frames, "clips_per_digit": clips_per_digit}.items():
            if value < 1:
                raise ValueError(f"data.{name}: expected 1 or more, got {value}.")
        if len(canvas) != 2 or min(canvas) < 8:
            raise ValueError(f"data.canvas: expected at least 8 rows and columns, the size of a digit, got {list(canvas)}.")
        if sample_rate <= 2 * max(COLUMNS):
            raise ValueError(
                f"data.sample_rate: expected more than {2 * max(COLUMNS):g} hertz, twice the highest tone, got "
                f"{sample_rate}."
            )
        if frames_per_second <= 0 or max_speed < 0 or noise < 0:
            raise ValueError(
                "data: expected frames_per_second above 0, max_speed and noise of at least 0, got "
                f"{frames_per_second}, {max_speed} and {noise}."
            )
        present_modalities(missing or {}, modalities=MODALITIES, num_samples=0, seed=0)  # for its checks
        self.clip = Clip(
            num_frames=num_frames,
            canvas=(int(canvas[0]), int(canvas[1])),
            frames_per_second=frames_per_second,
            sample_rate=sample_rate,
            max_speed=max_speed,
            noise=noise,
        )
        self.clips_per_digit = clips_per_digit
        self.clip_seed = clip_seed
        self.missing = dict(missing or {})
        self._digits = Digits(validation_size=validation_size, test_size=test_size, split_seed=split_seed)
        super().__init__(
            specs={
                "audio": {"kind": "audio", "shape": [1, self.clip.num_samples], "sample_rate": sample_rate},
                "video": {"kind": "video", "shape": [1, num_frames, *map(int, canvas)], "range": [0, 255]},
            },
            class_names=self._digits.class_names,
            split_seed=split_seed,
        )

    def read_training(self) -> tuple["Clips", "Clips"]:
        """Return training clips that are new at every access, and validation clips."""
        training, validation = self._digits.read_training()
        present = None
        if self.missing:
            present = present_modalities(
                self.missing,
                modalities=MODALITIES,
                num_samples=self.clips_per_digit * len(training.labels),
                seed=self.clip_seed,
            )
        return self._clips(training, seed=None, present=present), self._clips(validation, seed=self.clip_seed)

    def read_test(self) -> "Clips":
        """Return clips of the test split."""
        return self._clips(self._digits.read_test(), seed=self.clip_seed + 1)

    def unaltered(self, training: "Clips") -> "Clips":
        """Return training clips that are always the same."""
        return self._clips(training.images, seed=self.clip_seed, present=training.present)

    def learn(self, training: "Clips | Subset") -> dict[str, Any]:
        """See `Source.learn`; classes are counted once per digit, of chosen clips by those that they show."""
        if not isinstance(training, Subset):
            return super().learn(training.images)
        images = training.samples.images
        return super().learn(images.take((torch.tensor(training.index) % len(images.labels)).unique()))

    def statistics(self, training: LabelledImages) -> dict[str, dict[str, Any]]:
        """Return mean and standard deviation of pixels and sound over 1,024 training clips."""
        clips = self._clips(training, seed=self.clip_seed)
        batch = clips.__getitems__(list(range(min(1024, len(clips)))))
        video, audio = batch.inputs["video"], batch.inputs["audio"]
        assert isinstance(video, Tensor)
        assert isinstance(audio, Tensor)
        return {
            "audio": {"mean": [0.0], "std": [float(audio.double().square().mean().sqrt())]},
            "video": {"mean": [float(video.double().mean())], "std": [float(video.double().std())]},
        }

    def _clips(self, images: LabelledImages, *, seed: int | None, present: Tensor | None = None) -> "Clips":
        return Clips(images=images, clip=self.clip, clips_per_digit=self.clips_per_digit, seed=seed, present=present)


class Clips(BatchedSamples):
    """Clips of digits, as samples or whole batches: the first clip of each digit, then the second, and so on.

    Args:
        images: images of the digits, values 0 to 16.
        clip: parameters of clips.
        clips_per_digit: number of clips per digit.
        seed: seed of the clips, combined with their number; None: new clips from torch's global generator at every access.
        present: `(clips, modalities)`, presence of the `MODALITIES`; None: all present.
    """

    def __init__(
        self,
        *,
        images: LabelledImages,
        clip: Clip,
        clips_per_digit: int,
        seed: int | None,
        present: Tensor | None,
    ) -> None:
        self.images = images
        self.clip = clip
        self.clips_per_digit = clips_per_digit
        self.present = present
        self._drawn: tuple[Tensor, Tensor] | None = None
        if seed is not None:
            self._drawn = self._draw(len(self), torch.Generator().manual_seed(seed))

    @property
    def labels(self) -> Tensor:
        """Return the digit of each clip."""
        return self.images.labels.repeat(self.clips_per_digit)

    def __len__(self) -> int:
        return self.clips_per_digit * len(self.images.labels)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Return a batch of clips: pixels in [0, 1], sound of full scale 1; omit modalities absent from all clips."""
        clips = torch.as_tensor(indices)
        draws, noise = self._draw(len(clips)) if self._drawn is None else (one[clips] for one in self._drawn)
        numbers = clips % len(self.images.labels)
        labels = self.images.labels[numbers]
        digits = self.images.read(numbers)[:, 0].to(torch.float32) / 16
        inputs: dict[str, Any] = {
            "audio": self.clip.sound(labels, draws, noise),
            "video": self.clip.video(digits, draws),
        }
        masks: dict[str, Tensor] = {}
        if self.present is not None:
            present = dict(zip(MODALITIES, self.present[clips].unbind(dim=1), strict=True))
            for name, x in inputs.items():
                x[~present[name]] = 0
            inputs = {name: x for name, x in inputs.items() if bool(present[name].any())}
            masks = {name: present[name] for name in inputs if not bool(present[name].all())}
        ids = [
            f"{name}/clip/{clip // len(self.images.labels)}"
            for name, clip in zip(self.images.names(numbers), clips.tolist(), strict=True)
        ]
        return Batch(inputs=inputs, masks=masks, target=labels, ids=ids)

    def _draw(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw random numbers for clips: uniform `(count, NUM_DRAWS)`, normal `(count, samples)`."""
        draws = torch.rand(count, Clip.NUM_DRAWS, generator=generator)
        return draws, torch.randn(count, self.clip.num_samples, generator=generator)
