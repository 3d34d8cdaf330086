"""Speech Commands, version 0.02: 105,829 recordings of 35 words, about a second each, 16 kHz mono.

Source: P. Warden, "Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition" (2018), CC BY 4.0.
"""

import os
import tarfile
from pathlib import Path
from typing import Any

from torchaudio.datasets import SPEECHCOMMANDS

from perceiver.data.loading.samples import Samples
from perceiver.data.loading.source import Source
from perceiver.data.readers.audio import Recordings, audio_spec, loudness

WORDS = (
    "backward", "bed", "bird", "cat", "dog", "down", "eight", "five", "follow", "forward", "four", "go", "happy", "house",
    "learn", "left", "marvin", "nine", "no", "off", "on", "one", "right", "seven", "sheila", "six", "stop", "three", "tree",
    "two", "up", "visual", "wow", "yes", "zero",
)  # fmt: skip
LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
NOISE = "_background_noise_"  # six long recordings without words


class SpeechCommands(Source):
    """All 35 words, with the official validation and test lists: 84,843, 9,981 and 11,005 recordings.

    Recordings are decoded on demand, in the loader processes. Batches hold `inputs["audio"]` `(B, 1, samples)`, and
    `masks["audio"]` `(B, samples)` if lengths differ: one in ten recordings is shorter than a second.

    Args:
        root: folder with `SpeechCommands/speech_commands_v0.02/`, in the layout of `torchaudio.datasets`.
        sample_rate: sample rate in hertz; recordings (16,000 Hz) are resampled if it differs.
        download: download the recordings (2.3 GB, verified) if the folder is absent. False: an absent folder is an error.

    Raises:
        FileNotFoundError: if files are missing and `download` is false or fails, or a list names absent files.
        ValueError: for folders of other words.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        sample_rate: int = 16000,
        download: bool = True,
    ) -> None:
        super().__init__(
            specs={"audio": audio_spec(sample_rate=sample_rate, audio_channels=1)},
            class_names=WORDS,
        )
        self.root = Path(root)
        self.folder = self.root / "SpeechCommands" / "speech_commands_v0.02"
        self.download = download

    def prepare(self) -> None:
        """Download the folder if it is absent, and check words and lists."""
        if not self.folder.is_dir():
            if not self.download:
                raise FileNotFoundError(self._absent("it is missing and data.download is false"))
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                SPEECHCOMMANDS(str(self.root), url="speech_commands_v0.02", download=True)
            except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
                raise FileNotFoundError(self._absent(f"downloading it failed: {error}")) from error
        folders = {path.name for path in self.folder.iterdir() if path.is_dir()} - {NOISE}
        if missing := sorted(set(WORDS) - folders):
            raise FileNotFoundError(self._absent(f"it lacks the words {', '.join(missing)}"))
        if other := sorted(folders - set(WORDS)):
            raise ValueError(f"{self.folder}: expected folders of the 35 words, got also {', '.join(other)}.")
        for split in LISTS:
            self._listed(split)

    def read_training(self) -> tuple[Samples, Samples]:
        """Return the recordings on no list, and those on the validation list."""
        elsewhere = {*self._listed("val"), *self._listed("test")}
        names = [f"{word}/{path.name}" for word in WORDS for path in sorted((self.folder / word).glob("*.wav"))]
        return self._recordings([name for name in names if name not in elsewhere]), self._recordings(self._listed("val"))

    def read_test(self) -> Samples:
        """Return the recordings on the testing list."""
        return self._recordings(self._listed("test"))

    def statistics(self, training: Samples) -> dict[str, dict[str, Any]]:
        """Return unit scale over about 500 training recordings."""
        return {"audio": loudness(training)}

    def _listed(self, split: str) -> list[str]:
        """Return the names on an official list, `word/file.wav`."""
        path = self.folder / LISTS[split]
        if not path.is_file():
            raise FileNotFoundError(self._absent(f"it lacks {path.name}"))
        names = path.read_text().split()
        absent = [name for name in names if not (self.folder / name).is_file()]
        if absent or not names:
            raise FileNotFoundError(
                f"{path}: names {len(names)} recordings, of which {len(absent)} are missing"
                + (f", such as {absent[0]}" if absent else "")
                + f". Delete {self.folder} to download it again (data.download=true)."
            )
        return names

    def _recordings(self, names: list[str]) -> Recordings:
        number = {word: label for label, word in enumerate(WORDS)}
        return Recordings(
            paths=[self.folder / name for name in names],
            labels=[number[name.split("/")[0]] for name in names],
            ids=[f"speech_commands/{name.removesuffix('.wav')}" for name in names],
            spec=self.specs["audio"],
        )

    def _absent(self, reason: str) -> str:
        return (
            f"data.root: expected Speech Commands in {self.folder.resolve()}, but {reason}. Set data.root or the "
            "environment variable PERCEIVER_DATA to the folder that holds SpeechCommands/speech_commands_v0.02, or "
            "delete the files there and run with data.download=true, a network connection and 8 GB of free disk "
            "space."
        )
