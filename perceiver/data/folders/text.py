"""Your own plain text: a file, a folder or a pattern of UTF-8 files. Each file is a document."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from perceiver.data.readers.folder_files import files_below, report_left_out
from perceiver.data.readers.texts.source import TextSource
from perceiver.data.readers.texts.windows import Document
from perceiver.runtime.progress import progress


class TextFiles(TextSource):
    """Windows of text files, for masked language modelling; see `TextSource` for splits and batches.

    Args:
        files: a file; a folder, with all files below it that end in `suffix`; a pattern such as `texts/**/*.md`; or a list
            of these.
        suffix: suffix of the files in folders.
        max_length, cut_at, split_by, validation_fraction, test_fraction, split_seed: see `TextSource`.

    Raises:
        FileNotFoundError: a file or folder does not exist, nothing matches the pattern, or a folder has no such files.
        ValueError: a file is not UTF-8, or all files are empty; the message names the file.
    """

    def __init__(
        self,
        *,
        files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        suffix: str = ".txt",
        max_length: int = 256,
        cut_at: Literal["word", "line"] = "word",
        split_by: Literal["auto", "document", "stretch"] = "auto",
        validation_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        super().__init__(
            max_length=max_length,
            cut_at=cut_at,
            split_by=split_by,
            validation_fraction=validation_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
        )
        given = [files] if isinstance(files, str | os.PathLike) else list(files)
        if not given:
            raise ValueError("data.files: expected a file, a folder, a pattern, or a list of these; got an empty list.")
        self.files = [os.path.expanduser(os.fspath(one)) for one in given]
        self.suffix = suffix

    def prepare(self) -> None:
        """Check that there are files."""
        self._paths()

    def documents(self) -> list[Document]:
        """Return the files that are not empty, sorted by path."""
        paths = self._paths()
        root = os.path.commonpath([path.parent for path in paths])
        read = (
            Document(name=path.relative_to(root).as_posix(), text=read_text(path))
            for path in progress(paths, total=len(paths), title="Reading text files")
        )
        found = [one for one in read if one.text.strip()]
        if not found:
            raise ValueError(f"data.files: {len(paths)} files in {root} contain no text other than white space.")
        return found

    def _paths(self) -> list[Path]:
        found = {path.absolute() for one in self.files for path in self._found(one)}
        return sorted(found)

    def _found(self, one: str) -> Iterator[Path]:
        path = Path(one)
        if path.is_file():
            yield path
            return
        if path.is_dir():
            paths = list(files_below(path))
            below = [path / file for file in paths if file.lower().endswith(self.suffix.lower())]
            others = [file for file in paths if not file.lower().endswith(self.suffix.lower())]
            report_left_out(others, folder=path, kind=f"files that end in {self.suffix}")
            what = f"files that end in {self.suffix!r} in the folder {path.resolve()}"
        else:
            below = [Path(file) for file in glob.glob(one, recursive=True) if os.path.isfile(file)]
            what = f"a file, a folder, or files that match the pattern {one!r} from {Path.cwd()}"
        if not below:
            raise FileNotFoundError(
                f"data.files: expected {what}, found none. Set data.files=PATH, or set data.suffix for other file endings."
            )
        yield from below


def read_text(path: Path) -> str:
    """Read a UTF-8 file, without a byte order mark.

    Raises:
        ValueError: the file is not UTF-8; the message names the first invalid byte.
    """
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}: is not UTF-8: byte {error.start} (line {line}) is {raw[error.start]:#04x}. Save it as UTF-8, or "
            "exclude it."
        ) from None
