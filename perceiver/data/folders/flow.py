"""Frame pairs and flow in folders: `root/{train,val,test}/{first,second,flow}/*`, flow as Middlebury's .flo files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perceiver.batch import Sample
from perceiver.data.loading.images import channel_statistics
from perceiver.data.loading.source import Source
from perceiver.data.loading.splits import random_split
from perceiver.data.readers.folder_files import split_folder
from perceiver.data.readers.images import SUFFIXES, read_image
from perceiver.data.readers.named_files import matching_files
from perceiver.targets.pixels import FLOW_NAMES, flow_target

MAGIC = 202021.25
"""Magic number at the start of a .flo file, as float32."""

UNKNOWN = 1e9
"""Larger flow is unknown."""

# More pairs would not change means, deviations and lengths noticeably.
_DESCRIBED = 256


class FlowFileError(ValueError):
    """A .flo file is damaged or does not match its frames; the message names it."""


class FlowFolder(Source):
    """Your own frame pairs with the optical flow from the first to the second.

    `first/a/b.png` and `second/a/b.png` are frames of equal size. `flow/a/b.flo` is the flow of every pixel of the first
    frame, in pixels to the right and down; it is unknown if NaN or larger than 1e9. Without `root/val`, some of the
    training pairs validate. Batches hold `inputs["frames"]` `(B, 3, 2, *size)`, RGB, and flow `(B, 2, *size)`.

    Args:
        root: folder with `train`, `test` and, optionally, `val`.
        size: (height, width) of the crops: at a random position in training, from the centre in evaluation. Frames are not
            scaled. For whole frames of any size see `perceiver.inference.tiling.flow_in_tiles`.
        validation_fraction: share of the training pairs for validation; used only without `val`.
        split_seed: seed of that split; not the training seed.
        augment: mirror training pairs and their flow at random, horizontally and vertically.
        needs_test: whether `prepare` requires the test split.

    Raises:
        FileNotFoundError: a split or a matching file is missing.
        ValueError: a split has no frames, or settings are invalid.
        FlowFileError, ImageFileError: on reading: a file is damaged, or sizes do not match.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        size: Sequence[int],
        validation_fraction: float = 0.1,
        split_seed: int = 0,
        augment: bool | None = True,
        needs_test: bool = True,
    ) -> None:
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"data.size: expected [height, width] in pixels, at least 1 each, got {list(size)}.")
        if not 0 < validation_fraction < 1:
            raise ValueError(f"data.validation_fraction: expected a share between 0 and 1, got {validation_fraction}.")
        height, width = (int(length) for length in size)
        super().__init__(
            specs={"frames": {"kind": "video", "shape": [3, 2, height, width], "range": [0, 255]}}, split_seed=split_seed
        )
        self.root = Path(root)
        self.size = (height, width)
        self.validation_fraction = validation_fraction
        self.augment = bool(augment)
        self.needs_test = needs_test

    def prepare(self) -> None:
        """List the files of all splits without opening them."""
        if not (self.root / "train").is_dir() and (self.root / "test").is_dir():
            return  # testing a checkpoint needs no training pairs; without a checkpoint, setup raises
        validation = ["val"] if split_folder(self.root, "val").is_dir() else []
        for split in ["train", *validation, *(["test"] if self.needs_test else [])]:
            self._split(split)

    def read_training(self) -> tuple["FramePairs", "FramePairs"]:
        """Return `train`, and `val` or a part split off from `train`."""
        training = self._split("train")
        if split_folder(self.root, "val").is_dir():
            return replace(training, training=True, mirror=self.augment), self._split("val")
        stay, taken = random_split(
            len(training), fraction=self.validation_fraction, seed=self.split_seed, where=training.folder
        )
        kept, left = (tuple(training.files[n] for n in part) for part in (stay, taken))
        return replace(training, files=kept, training=True, mirror=self.augment), replace(training, files=left)

    def read_test(self) -> "FramePairs":
        """Return `test`."""
        return self._split("test")

    def unaltered(self, training: "FramePairs") -> "FramePairs":
        """Return central crops without mirroring."""
        return replace(training, training=False, mirror=False)

    def learn(self, training: "FramePairs") -> dict[str, Any]:
        """Return the spec, with statistics of the centres of at most 256 evenly spaced training pairs."""
        plain = self.unaltered(training)
        frames, flow, seen = [], [], []
        for number in np.unique(np.linspace(0, len(plain) - 1, _DESCRIBED).round().astype(int)).tolist():
            sample = plain[number]
            x, target, mask = sample.inputs["frames"], sample.target, sample.target_mask
            assert isinstance(x, Tensor)
            assert isinstance(target, Tensor)
            assert isinstance(mask, Tensor)
            frames.append(x.movedim(1, 0))
            flow.append(target)
            seen.append(mask)
        mean, std = channel_statistics(frames, value_range=(0.0, 1.0))
        spec = {**self.specs["frames"], "mean": mean, "std": [value or 1.0 for value in std]}
        learned = flow_target(flow=torch.stack(flow), mask=torch.stack(seen), modality="frames")
        return {"modalities": {"frames": spec}, "target": learned, "num_outputs": len(FLOW_NAMES)}

    def known(self) -> dict[str, Any]:
        """Return the spec of the frames, and flow as the target."""
        target = {"kind": "flow", "names": list(FLOW_NAMES), "modality": "frames"}
        return {"modalities": self.specs, "target": target}

    def _split(self, name: str) -> "FramePairs":
        folder = split_folder(self.root, name)
        found = matching_files(folder, {"first": SUFFIXES, "second": SUFFIXES, "flow": (".flo",)})
        files = tuple((one, parts["first"], parts["second"]) for one, parts in found.items())
        return FramePairs(folder=folder, files=files, size=self.size)


@dataclass(frozen=True, kw_only=True)
class FramePairs:
    """Frame pairs of a split.

    Args:
        folder: folder of the split.
        files: for each sample, the path without suffix and the paths of its frames.
        size: (height, width) of the crops.
        training: crop at a random position, not from the centre.
        mirror: mirror at random.
    """

    folder: Path
    files: tuple[tuple[str, str, str], ...]
    size: tuple[int, int]
    training: bool = False
    mirror: bool = False

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        name, *files = self.files[index]
        images = [read_image(self.folder / part / file) for part, file in zip(("first", "second"), files, strict=True)]
        path = self.folder / "flow" / f"{name}.flo"
        flow = torch.from_numpy(read_flow(path))
        sizes = {(image.height, image.width) for image in images} | {tuple(flow.shape[1:])}
        if len(sizes) > 1:
            raise FlowFileError(f"{path}: expected frames and flow of one size, got {sorted(sizes)} (height, width).")
        frames = torch.stack([torch.from_numpy(np.array(image)).movedim(-1, 0) for image in images], dim=1).float() / 255
        if any(own < wanted for own, wanted in zip(frames.shape[-2:], self.size, strict=True)):
            raise FlowFileError(
                f"{path}: expected frames of at least data.size={list(self.size)}, got {list(frames.shape[-2:])}."
            )
        frames, flow = self._cut(frames, flow)
        seen = (flow.abs() < UNKNOWN).all(dim=0)
        flow = torch.where(seen, flow, 0.0)
        for axis in range(2) if self.mirror else ():
            if bool(torch.rand(()) < 0.5):
                # Columns: the last axis, and the first channel of the flow.
                frames, flow, seen = frames.flip(-1 - axis), flow.flip(-1 - axis), seen.flip(-1 - axis)
                flow[axis] = -flow[axis]
        return Sample(inputs={"frames": frames}, target=flow, id=f"{self.folder.name}/{name}", target_mask=seen)

    def _cut(self, frames: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        rooms = [own - wanted for own, wanted in zip(frames.shape[-2:], self.size, strict=True)]
        top, left = (int(torch.randint(room + 1, ())) if self.training else room // 2 for room in rooms)
        place = (..., slice(top, top + self.size[0]), slice(left, left + self.size[1]))
        return frames[place].contiguous(), flow[place].contiguous()


def read_flow(path: Path) -> NDArray[np.float32]:
    """Read a .flo file as `(2, H, W)` in pixels to the right and down.

    Source of the format: the Middlebury flow data sets' README: a magic number, width and height as 32-bit integers, then
    both components of each pixel, row by row, as 32-bit floating-point numbers; all little-endian.

    Raises:
        FlowFileError: the file is not a .flo file, or is truncated.
        FileNotFoundError: the file does not exist.
    """
    content = path.read_bytes()
    if len(content) < 12 or np.frombuffer(content, "<f4", count=1)[0] != MAGIC:
        raise FlowFileError(f"{path}: expected a .flo file, which begins with the number {MAGIC} in 32 bits; it does not.")
    width, height = (int(length) for length in np.frombuffer(content, "<i4", count=2, offset=4))
    if min(width, height) < 1 or len(content) != 12 + 8 * width * height:
        raise FlowFileError(
            f"{path}: expected {12 + 8 * width * height:,} bytes of a flow of {height} x {width} pixels, as it says, got "
            f"{len(content):,}."
        )
    values = np.frombuffer(content, "<f4", offset=12).reshape(height, width, 2)
    return np.ascontiguousarray(np.moveaxis(values, -1, 0), dtype=np.float32)


def write_flow(path: Path, flow: NDArray[Any]) -> None:
    """Write `(2, H, W)` as a .flo file, as `read_flow` expects."""
    height, width = flow.shape[1:]
    values = np.ascontiguousarray(np.moveaxis(flow, 0, -1), dtype="<f4")
    header = np.array(MAGIC, "<f4").tobytes() + np.array([width, height], "<i4").tobytes()
    path.write_bytes(header + values.tobytes())
