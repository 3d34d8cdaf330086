"""Multi30k: English, German and French descriptions of the same photographs.

Source: D. Elliott, S. Frank, K. Sima'an, L. Specia, "Multi30K: Multilingual English-German Image Descriptions" (2016), and
Elliott et al. 2017; the raw files of task 1 in github.com/multi30k/dataset. The photographs' licence allows non-commercial
research and educational use.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import urllib.request
from pathlib import Path
from typing import Literal

from perceiver.data.readers.texts.pairs import TextPair, TextPairSource
from perceiver.runtime.files import atomic_write

LANGUAGES = ("en", "de", "fr")
URL = "https://raw.githubusercontent.com/multi30k/dataset/a3d2e0d/data/task1/raw/"
FILES: dict[str, tuple[int, str]] = {
    "test_2016_flickr.de.gz": (22890, "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8"),
    "test_2016_flickr.en.gz": (21077, "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9"),
    "test_2016_flickr.fr.gz": (22310, "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90"),
    "test_2017_flickr.de.gz": (21471, "a2c89666db00c495cd8513b9d708d5a3acc205d7de312ef2bf5fb7ebc1540aee"),
    "test_2017_flickr.en.gz": (19138, "76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074"),
    "test_2017_flickr.fr.gz": (20434, "3ba671ceb2299f3304ffafefea7a833d08632fbaf0ba18546f8a2ec2391af496"),
    "train.de.gz": (637044, "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6"),
    "train.en.gz": (568929, "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f"),
    "train.fr.gz": (604242, "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c"),
    "val.de.gz": (24681, "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a"),
    "val.en.gz": (21650, "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28"),
    "val.fr.gz": (23001, "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9"),
}
"""Bytes and SHA-256 digest of each file."""


class Multi30k(TextPairSource):
    """Translation of image descriptions: 29,000 sentences for training, 1,014 for validation, 1,000 for test.

    Args:
        root: folder of the files `{split}.{language}.gz`.
        source: language of the input: en, de or fr.
        target_language: language of the target.
        test_split: test sentences: test_2016_flickr or test_2017_flickr.
        download: download absent files. False: absent files are an error.
        tokenizer, vocabulary_size, max_length, truncate: see `TextPairSource`.

    Raises:
        FileNotFoundError: if files are absent and `download` is false or fails.
        ValueError: for an unknown language or split, or a damaged file.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        source: Literal["en", "de", "fr"] = "en",
        target_language: Literal["en", "de", "fr"] = "de",
        test_split: Literal["test_2016_flickr", "test_2017_flickr"] = "test_2016_flickr",
        download: bool = True,
        tokenizer: Literal["pairs", "bytes"] = "pairs",
        vocabulary_size: int = 4000,
        max_length: int = 96,
        truncate: bool = False,
    ) -> None:
        super().__init__(tokenizer=tokenizer, vocabulary_size=vocabulary_size, max_length=max_length, truncate=truncate)
        for name, language in (("source", source), ("target_language", target_language)):
            if language not in LANGUAGES:
                raise ValueError(f"data.{name}: expected one of {', '.join(LANGUAGES)}, got {language!r}.")
        if source == target_language:
            raise ValueError(f"data.target_language: expected another language than data.source, got {source!r} for both.")
        if test_split not in ("test_2016_flickr", "test_2017_flickr"):
            raise ValueError(f"data.test_split: expected test_2016_flickr or test_2017_flickr, got {test_split!r}.")
        self.root = Path(root)
        self.languages = (source, target_language)
        self.test_split = test_split
        self.download = download

    def prepare(self) -> None:
        """Download absent files, and check the size and digest of every file."""
        for split in ("train", "val", self.test_split):
            for language in self.languages:
                self._check(f"{split}.{language}.gz")

    def read_pairs(self, split: str) -> list[TextPair]:
        """Return the pairs of "train", "val" or "test"."""
        name = self.test_split if split == "test" else split
        texts = [gzip.decompress((self.root / f"{name}.{language}.gz").read_bytes()).decode() for language in self.languages]
        lines = [text.removesuffix("\n").split("\n") for text in texts]
        pairs = enumerate(zip(*lines, strict=True))
        return [
            TextPair(source=source.strip(), target=target.strip(), id=f"multi30k/{name}/{number}")
            for number, (source, target) in pairs
        ]

    def _check(self, name: str) -> None:
        path, (size, digest) = self.root / name, FILES[name]
        if not path.is_file():
            if not self.download:
                raise FileNotFoundError(self._absent(name, "it is absent and data.download is false"))
            try:
                with urllib.request.urlopen(URL + name, timeout=60) as answer:
                    content = answer.read(size + 1)
            except OSError as error:
                raise FileNotFoundError(self._absent(name, f"downloading it failed ({error})")) from error
            _verify(content, name, size, digest, where=URL + name)
            with atomic_write(path) as file:
                file.write(content)
        _verify(path.read_bytes(), name, size, digest, where=str(path))

    def _absent(self, name: str, reason: str) -> str:
        return (
            f"data.root: expected Multi30k's file {name} in {self.root.resolve()}, but {reason}. Set data.root or the "
            "environment variable PERCEIVER_DATA to the folder that holds multi30k/task1/raw, or run with "
            "data.download=true and a network connection."
        )


def _verify(content: bytes, name: str, size: int, digest: str, *, where: str) -> None:
    if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(
            f"{where}: not the published {name}: expected {size:,} bytes with SHA-256 {digest[:12]}…, got {len(content):,} "
            f"bytes with {hashlib.sha256(content).hexdigest()[:12]}…. Delete the file to download it again."
        )
