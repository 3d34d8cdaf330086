"""mode=generate: samples of a trained model for conditions on the command line, as files, with a sheet and a table."""

from __future__ import annotations

import csv
import io
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile
from omegaconf import DictConfig
from torch import Tensor

from perceiver import checkpoints
from perceiver.inference.sampling import GeneratedSamples, generate_samples
from perceiver.plots.generative.generated import sheet_of
from perceiver.plots.rendering import png_of
from perceiver.run.modes.inference import find_checkpoint
from perceiver.runtime.arguments import ArgumentError
from perceiver.runtime.files import atomic_write, staged

SAMPLES = "samples"
TABLE = "samples.csv"
SHEET = "sheet.png"


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Writes `samples/`, `samples.csv` and `sheet.png` into the run directory.

    Images are PNG files, sounds WAV files, all others arrays in NPY files. The table has a row for each sample: its file,
    its seed and its conditions. The sheet has a row for each condition, of many the first ones; it is drawn
    last, and without it the samples are complete.

    Args:
        ckpt_path: the checkpoint, or its run directory.
        conditions: raw conditions by modality: `{text: "the digit seven"}`, or a file for an image or a sound; lists for
            several conditions. None: none.
        num_samples: number of samples of each condition.
        guidance, guidance_until, steps, solver, start: see `perceiver.generation.flow.generate`.
        seed: seed of the noise.
        init: file to start from, of the generated modality, with `keep` or `start`.
        keep: an image whose light pixels stay as they are in `init`.
        shape: shape of a sample for models of any size.
        batch_size: number of samples at a time.
    """

    ckpt_path: str | None
    conditions: Mapping[str, Any] | None = None
    num_samples: int = 16
    guidance: float = 3.0
    steps: int = 12
    guidance_until: float = 1.0
    solver: str = "euler"
    seed: int = 0
    init: str | None = None
    keep: str | None = None
    start: float = 0.0
    shape: list[int] | None = None
    batch_size: int = 64

    def run(self, config: DictConfig) -> None:
        """Generate the samples; ValueError if the checkpoint's model generates none, or a setting does not fit it."""
        file = find_checkpoint(self.ckpt_path, mode="generate")
        model = checkpoints.load(file, trust=list(config.trust))
        try:
            made = generate_samples(
                model,
                self.conditions,
                num_samples=self.num_samples,
                guidance=self.guidance,
                steps=self.steps,
                guidance_until=self.guidance_until,
                solver=self.solver,
                seed=self.seed,
                init=self.init,
                keep=self.keep,
                start=self.start,
                shape=self.shape,
                batch_size=self.batch_size,
            )
        except ArgumentError as error:
            raise ArgumentError(f"generate.{error.argument.replace('shape_of', 'shape')}", error.problem) from error
        except ValueError as error:
            raise ArgumentError("ckpt_path", str(error)) from error
        directory = Path(config.run_dir)
        with staged(directory) as folder:
            write_samples(made, folder, seed=self.seed)
            (directory / SHEET).unlink(missing_ok=True)  # that of earlier samples
        written = [directory / SAMPLES]
        if _draw_sheet(made, directory / SHEET):
            written.append(directory / SHEET)
        sys.stdout.write(f"{len(made.values):,} samples of {file}: {', '.join(map(str, written))}\n")


def write_samples(made: GeneratedSamples, folder: Path, *, seed: int) -> None:
    """Write the files of the samples and their table.

    Args:
        made: the samples.
        folder: existing folder.
        seed: seed for the table.
    """
    suffix = _suffix(made)
    images = made.images() if suffix == ".png" else None
    names = list(made.conditions[0]) if made.conditions else []
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "seed", *(f"condition_{name}" for name in names)])
    for number, value in enumerate(made.values):
        place = f"{SAMPLES}/{number:06d}{suffix}"
        with atomic_write(folder / place) as stream:
            if images is not None:
                images[number].save(stream, "png")
            else:
                _write(value, made, stream)
        condition = made.condition(number)
        table.writerow([place, seed, *(str(condition.get(name, "")) for name in names)])
    with atomic_write(folder / TABLE) as stream:
        stream.write(text.getvalue().encode())


def _draw_sheet(made: GeneratedSamples, path: Path) -> bool:
    """Draw the sheet, and return whether it was drawn: an error is only a warning."""
    try:
        with atomic_write(path) as stream:
            stream.write(png_of(sheet_of(made)))
    except Exception as error:
        warnings.warn(f"{path.name} is left out: {type(error).__name__}: {error}")
        return False
    return True


def _suffix(made: GeneratedSamples) -> str:
    kind = made.spec.get("kind")
    sound = kind == "audio" and made.spec.get("sample_rate") is not None
    return ".png" if kind == "image" else ".wav" if sound else ".npy"


def _write(value: Tensor, made: GeneratedSamples, stream: BinaryIO) -> None:
    if _suffix(made) == ".wav":
        soundfile.write(stream, value.clamp(-1, 1).T.numpy(), int(made.spec["sample_rate"]), format="WAV", subtype="PCM_16")
    else:
        np.save(stream, value.numpy(), allow_pickle=False)
