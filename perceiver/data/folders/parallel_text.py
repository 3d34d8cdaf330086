"""Your own pairs of texts, such as translations: two files of lines, or two columns of a table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from perceiver.data.loading.splits import random_split
from perceiver.data.manifest.splits import split_of
from perceiver.data.manifest.table import SPLIT, read_table
from perceiver.data.readers.bounded.gzip_files import read_gzip
from perceiver.data.readers.texts.pairs import TextPair, TextPairSource
from perceiver.modalities.cells.values import plain_text
from perceiver.runtime.user_paths import expanded

Files = str | os.PathLike[str]
_SPLITS = ("train", "val", "test")


class ParallelText(TextPairSource):
    """Pairs of texts: the input is the modality `text`, the target a text.

    Two UTF-8 files whose lines are pairs (`.gz` is decompressed), or two columns of a table (CSV, Parquet, JSON). Lines that
    are empty on both sides are left out.

    Args:
        source: file of the input texts, a line each; with `table`, their column.
        target: file of the target texts, with as many lines; with `table`, their column.
        val_source, val_target, test_source, test_target: files for validation and test. None: shares of the training pairs.
        table: path of a table with a row per pair. None: `source` and `target` are files.
        split: column of the table with train, val or test. "auto": the column `split`, if it exists. None: shares.
        validation_fraction: share of the pairs that are not for test; used if validation is not given.
        test_fraction: share of the pairs; used if neither files nor a column give the test. 0: no test.
        split_seed: seed of the shares; not the training seed.
        needs_test: whether `prepare` requires test pairs.
        tokenizer, vocabulary_size, max_length, truncate: see `TextPairSource`.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: files differ in their number of lines, a file is not UTF-8, a column or a text is missing, or a split has
            no pairs.
    """

    def __init__(
        self,
        *,
        source: Files,
        target: Files,
        val_source: Files | None = None,
        val_target: Files | None = None,
        test_source: Files | None = None,
        test_target: Files | None = None,
        table: Files | None = None,
        split: str | None = "auto",
        validation_fraction: float = 0.05,
        test_fraction: float = 0.05,
        split_seed: int = 0,
        needs_test: bool = True,
        tokenizer: Literal["pairs", "bytes"] = "pairs",
        vocabulary_size: int = 4000,
        max_length: int = 96,
        truncate: bool = False,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer,
            vocabulary_size=vocabulary_size,
            max_length=max_length,
            truncate=truncate,
            split_seed=split_seed,
        )
        if not 0 < validation_fraction < 1:
            raise ValueError(f"data.validation_fraction: expected a share between 0 and 1, got {validation_fraction}.")
        if not 0 <= test_fraction < 1:
            raise ValueError(f"data.test_fraction: expected a share from 0 to below 1, got {test_fraction}.")
        extra = {"val": (val_source, val_target), "test": (test_source, test_target)}
        for name, (one, other) in extra.items():
            if (one is None) != (other is None):
                raise ValueError(f"data.{name}_source, data.{name}_target: expected two files, or none; got one.")
            if one is not None and table is not None:
                raise ValueError(f"data.{name}_source: expected null with data.table; mark its rows in a column of splits.")
        self.files: dict[str, tuple[Files, Files]] = {"train": (source, target)}
        self.files |= {name: (one, other) for name, (one, other) in extra.items() if one is not None and other is not None}
        self.table = None if table is None else expanded(table, setting="data.table")
        self.split = split
        self.validation_fraction = validation_fraction
        self.test_fraction = test_fraction
        self.needs_test = needs_test
        self._pairs: dict[str, list[TextPair]] | None = None

    def prepare(self) -> None:
        """Read and check all pairs."""
        self.read_pairs("train")
        self.read_pairs("val")
        if self.needs_test:
            self.read_pairs("test")

    def read_pairs(self, split: str) -> list[TextPair]:
        """Return the pairs of "train", "val" or "test"."""
        if self._pairs is None:
            self._pairs = self._divided()
        pairs = self._pairs.get(split, [])
        if not pairs:
            counts = {name: len(self._pairs.get(name, [])) for name in _SPLITS}
            hint = " Set test=false, or give test pairs." if split == "test" else ""
            raise ValueError(f"data: expected pairs of texts for {split}, got none ({counts}).{hint}")
        return pairs

    def _divided(self) -> dict[str, list[TextPair]]:
        """Return the pairs by split, and take out those of splits that are not given."""
        pairs = self._of_table() if self.table is not None else {name: self._of_files(name) for name in self.files}
        for name, share in (("test", self.test_fraction), ("val", self.validation_fraction)):
            # A column of splits without test rows means that there are none.
            if name in pairs or share == 0 or (name == "test" and "val" in pairs):
                continue
            where = self.table or self.files["train"][0]
            stay, taken = random_split(len(pairs["train"]), fraction=share, seed=self.split_seed, where=where)
            pairs[name] = [pairs["train"][number] for number in taken]
            pairs["train"] = [pairs["train"][number] for number in stay]
        return pairs

    def _of_files(self, split: str) -> list[TextPair]:
        prefix = "" if split == "train" else f"{split}_"
        settings = (f"data.{prefix}source", f"data.{prefix}target")
        paths = [expanded(file, setting=setting) for file, setting in zip(self.files[split], settings, strict=True)]
        lines = [_lines(path, setting=setting) for path, setting in zip(paths, settings, strict=True)]
        if len(lines[0]) != len(lines[1]):
            raise ValueError(
                f"{settings[0]}, {settings[1]}: expected as many lines in both files, got {len(lines[0]):,} in {paths[0]} "
                f"and {len(lines[1]):,} in {paths[1]}."
            )
        numbered = enumerate(zip(*lines, strict=True), start=1)
        return [
            TextPair(source=one.strip(), target=other.strip(), id=f"{paths[0].name}:{number}")
            for number, (one, other) in numbered
            if one.strip() or other.strip()
        ]

    def _of_table(self) -> dict[str, list[TextPair]]:
        assert self.table is not None
        table = read_table([self.table])
        columns = [os.fspath(name) for name in self.files["train"]]
        named = {"data.source": columns[0], "data.target": columns[1]}
        split = (SPLIT if SPLIT in table.columns else None) if self.split == "auto" else self.split
        for setting, column in {**named, "data.split": split}.items():
            if column is not None and column not in table.columns:
                raise ValueError(f"{setting}: {self.table} has no column {column!r}, only {', '.join(table.columns)}.")
        pairs: dict[str, list[TextPair]] = {} if split else {"train": []}
        for row in range(len(table)):
            if row in table.problems:
                raise ValueError(f"{table.where(row)}{table.problems[row]}.")
            texts = [table.cell(row, column) for column in columns]
            if all(text is None for text in texts):
                continue
            source, target = ("" if text is None else plain_text(text).strip() for text in texts)
            name = split_of(table, row, split) if split else "train"
            if name not in _SPLITS:
                raise ValueError(f"{table.where(row, split)}: expected train, val or test, got {name!r}.")
            pairs.setdefault(name, []).append(TextPair(source=source, target=target, id=table.where(row)))
        pairs.setdefault("train", [])
        return pairs


def _lines(path: Path, *, setting: str) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{setting}: expected a file of texts, a line each, got {path.absolute()}: no such file.")
    raw = read_gzip(path) if path.suffix.lower() == ".gz" else path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}: is not UTF-8: byte {error.start} (line {line}) is {raw[error.start]:#04x}. Save it as UTF-8."
        ) from None
    # Not splitlines: other separators may occur within a text.
    return text.removesuffix("\n").replace("\r\n", "\n").split("\n")
