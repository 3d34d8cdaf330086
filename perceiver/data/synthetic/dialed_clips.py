"""Clips of a digit that moves over a small canvas while a telephone dials it: synthetic video and sound.

The sound is the dual tone of the digit's key, with the frequencies of ITU-T recommendation Q.23.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS, COLUMNS = (697.0, 770.0, 852.0, 941.0), (1209.0, 1336.0, 1477.0)
"""Frequencies of telephone keys in hertz; 1 2 3 in the first row, 0 in the middle of the last."""
KEYS = ((3, 1), *((digit // 3, digit % 3) for digit in range(9)))
"""Row and column of each digit's key."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Parameters of clips.

    Args:
        num_frames: number of frames T.
        canvas: (H, W) in pixels, not smaller than the digit.
        frames_per_second: frame rate of the video; the sound has the same duration.
        sample_rate: sample rate of the sound in hertz; above 2,954 for the highest tone.
        max_speed: maximum speed of the digit along each axis, in pixels per frame.
        noise: standard deviation of the noise added to the sound, whose tones have amplitudes of 0.1 to 0.4 each.
    """

    num_frames: int
    canvas: tuple[int, int]
    frames_per_second: float
    sample_rate: int
    max_speed: float
    noise: float

    NUM_DRAWS = 10
    """Number of random numbers that determine a clip, besides the noise."""

    @property
    def num_samples(self) -> int:
        """Number of samples of the sound."""
        return round(self.num_frames * self.sample_rate / self.frames_per_second)

    def video(
        self, digits: Float[Tensor, "clips h w"], draws: Float[Tensor, "clips draws"]
    ) -> Float[Tensor, "clips 1 frames height width"]:
        """Draw digits with random position and velocity, reflected by the edges of the canvas.

        Args:
            digits: images in [0, 1].
            draws: random numbers, uniform in [0, 1), `NUM_DRAWS` per digit.
        """
        weights = []
        for axis, (size, canvas) in enumerate(zip(digits.shape[1:], self.canvas, strict=True)):
            start, speed = draws[:, 2 * axis, None], (2 * draws[:, 2 * axis + 1, None] - 1) * self.max_speed
            room = float(canvas - size)
            travelled = start * room + speed * torch.arange(self.num_frames)
            place = room - (travelled.remainder(2 * room) - room).abs() if room else torch.zeros_like(travelled)
            # Linear interpolation between neighbouring pixels along each axis.
            distance = torch.arange(canvas)[:, None] - torch.arange(size) - place[..., None, None]
            weights.append((1 - distance.abs()).clamp(min=0))
        return torch.einsum("nthi,nij,ntwj->nthw", weights[0], digits, weights[1])[:, None]

    def sound(
        self, labels: Int[Tensor, "clips"], draws: Float[Tensor, "clips draws"], noise: Float[Tensor, "clips samples"]
    ) -> Float[Tensor, "clips 1 samples"]:
        """Make the tones of the digits' keys, with random start, duration, volume and phases.

        Args:
            labels: digits.
            draws: as in `video`.
            noise: noise of standard deviation 1.
        """
        times = torch.arange(self.num_samples, dtype=torch.float64) / self.sample_rate
        begin = 0.3 * draws[:, 4] * times[-1]
        length = (0.4 + 0.3 * draws[:, 5]) * times[-1]
        edge = 0.005  # fade-in and fade-out of a tone, in seconds
        since, until = times - begin[:, None], (begin + length)[:, None] - times
        envelope = (torch.minimum(since, until) / edge).clamp(0, 1)
        keys = torch.tensor(KEYS)[labels]
        tones = torch.zeros_like(envelope)
        for axis, frequencies in enumerate((ROWS, COLUMNS)):
            hertz = torch.tensor(frequencies, dtype=torch.float64)[keys[:, axis]]
            phase = 2 * math.pi * (hertz[:, None] * times + draws[:, 6 + 2 * axis, None])
            tones += (0.1 + 0.3 * draws[:, 7 + 2 * axis, None]) * phase.sin()
        return (envelope * tones + self.noise * noise).to(torch.float32)[:, None]
