"""Speech composed of recorded digits: words of one speaker, joined with pauses, and the place of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from perceiver.data.datasets.spoken_digits import recording_of
from perceiver.data.loading.samples import InMemory


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """Recordings that follow one another.

    Args:
        recordings: numbers of the recordings.
        pauses: samples of silence before each recording, and after the last.
    """

    recordings: tuple[int, ...]
    pauses: tuple[int, ...]


class Speech:
    """Composes utterances of the recordings of a split.

    Args:
        recordings: split of `SpokenDigits`.
        pauses: (least, most) samples of silence between recordings.
    """

    def __init__(self, recordings: InMemory, *, pauses: tuple[int, int]) -> None:
        self.sounds: list[Tensor] = []
        self.names: list[str] = []
        self.pauses = pauses
        groups: dict[str, dict[int, list[int]]] = {}
        for number, sample in enumerate(recordings.samples):
            sound, one = sample.inputs["audio"], recording_of(sample.id)
            assert isinstance(sound, Tensor)
            self.sounds.append(sound)
            self.names.append(sample.id)
            groups.setdefault(one.speaker, {}).setdefault(one.digit, []).append(number)
        self._groups = list(groups.values())

    def draw(self, digits: Sequence[int], *, generator: torch.Generator | None) -> Utterance:
        """Draw recordings of these digits by one speaker, and pauses.

        Raises:
            ValueError: if no speaker has a recording of each.
        """
        able = [group for group in self._groups if all(digit in group for digit in digits)]
        if not able:
            raise ValueError(
                f"expected a speaker with recordings of all digits {sorted(set(digits))} in each split. Enlarge "
                "data.validation_recordings."
            )
        draws = torch.rand(2 * len(digits) + 2, generator=generator).tolist()
        group = able[int(draws[0] * len(able))]
        chosen = [group[digit] for digit in digits]
        recordings = tuple(among[int(draw * len(among))] for draw, among in zip(draws[1:], chosen, strict=False))
        least, most = self.pauses
        pauses = tuple(least + int(draw * (most - least + 1)) for draw in draws[1 + len(digits) :])
        return Utterance(recordings=recordings, pauses=pauses)

    def sound(self, utterance: Utterance) -> Tensor:
        """Return the sound, `(channels, samples)`."""
        channels = self.sounds[0].shape[0]
        parts = [self.sounds[0].new_zeros(channels, utterance.pauses[0])]
        for number, pause in zip(utterance.recordings, utterance.pauses[1:], strict=True):
            parts += [self.sounds[number], self.sounds[number].new_zeros(channels, pause)]
        return torch.cat(parts, dim=1)

    def intervals(self, utterance: Utterance) -> list[tuple[int, int]]:
        """Return the first sample of each word, and one past its last."""
        found, place = [], 0
        for number, pause in zip(utterance.recordings, utterance.pauses, strict=False):
            start = place + pause
            place = start + self.sounds[number].shape[1]
            found.append((start, place))
        return found

    def batch(self, utterances: Sequence[Utterance]) -> tuple[Tensor, Tensor | None]:
        """Return sounds `(B, channels, samples)`, padded to the longest, and their validity `(B, samples)` unless equal."""
        sounds = [self.sound(one).T for one in utterances]
        lengths = torch.tensor([len(sound) for sound in sounds])
        stacked = pad_sequence(sounds, batch_first=True).transpose(1, 2).contiguous()
        mask = torch.arange(stacked.shape[2]) < lengths[:, None]
        return stacked, None if bool(mask.all()) else mask


def pauses_of(seconds: Sequence[float], *, sample_rate: int) -> tuple[int, int]:
    """Return pauses in samples.

    Raises:
        ValueError: for pauses that are not (least, most), at least 0.
    """
    if len(seconds) != 2 or not 0 <= seconds[0] <= seconds[1]:
        raise ValueError(f"data.pause_seconds: expected [least, most] silence, at least 0, got {list(seconds)}.")
    return round(seconds[0] * sample_rate), round(seconds[1] * sample_rate)
