"""Files of a folder that cannot be read: an error, or left out, named and counted."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from perceiver.runtime.process_rank import process_rank
from perceiver.runtime.progress import progress

log = logging.getLogger(__name__)

_MOST_NAMED, _LONGEST = 100, 1600  # files, characters


class BadFiles:
    """Handling of samples whose files cannot be read.

    Args:
        on_bad_row: "error": reading such a sample raises an error. "skip": every sample is read once before it is used, and
            such samples are left out.

    Attributes:
        skipped: reasons, by split.

    Raises:
        ValueError: `on_bad_row` has another value.
    """

    def __init__(self, on_bad_row: str) -> None:
        if on_bad_row not in ("error", "skip"):
            raise ValueError(f"data.on_bad_row: expected error or skip, got {on_bad_row!r}.")
        self.skip = on_bad_row == "skip"
        self.skipped: dict[str, list[str]] = {}

    @property
    def reasons(self) -> list[str]:
        """Reasons of all splits."""
        return [reason for problems in self.skipped.values() for reason in problems]

    def usable(self, samples: Any, *, num_workers: int, where: object, part: str = "") -> Int[Tensor, "usable"]:
        """Return the positions of the samples that can be read; without "skip", all positions.

        A split is made before its unusable samples are left out, so that every other sample stays in its split.

        Args:
            samples: a split without random choices.
            num_workers: number of processes that read.
            where: folder of the split, for messages.
            part: name of a split that shares the folder with the training split.

        Raises:
            ValueError: no sample can be read.
        """
        if not self.skip:
            return torch.arange(len(samples))
        if part:
            where = f"{where} ({part})"
        loader: DataLoader[Any] = DataLoader(_Attempts(samples), batch_size=None, num_workers=num_workers)
        attempts = list(progress(loader, total=len(samples), title=f"reading the files of {where}"))
        problems = [str(attempt) for attempt in attempts if attempt]
        self.skipped[str(where)] = problems
        if len(problems) == len(attempts):
            raise ValueError(f"{where}: no files are left, {len(problems)} were skipped: {'; '.join(problems[:3])}")
        if problems and process_rank() == 0:  # all processes skip the same files
            log.warning("%s: skipped %d of %d samples:", where, len(problems), len(attempts))
            for problem in problems[:_MOST_NAMED]:
                log.warning("  %s", problem)
            if len(problems) > _MOST_NAMED:
                log.warning("  … and %d more.", len(problems) - _MOST_NAMED)
        return torch.tensor([index for index, attempt in enumerate(attempts) if not attempt], dtype=torch.int64)


@dataclass(frozen=True)
class _Attempts(Dataset[str]):
    """Reads samples; each entry is the problem of a sample, or an empty string."""

    samples: Any

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> str:
        try:
            self.samples[index]
        except ImportError:
            raise
        except Exception as error:  # a damaged file can raise nearly anything in a decoder
            return (str(error) or type(error).__name__)[:_LONGEST]
        return ""
