"""Frame pairs and flow in folders: `root/{train,val,test}/{first,second,flow}/*`, flow as .flo, PFM or KITTI's PNG files."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perceiver.data.folders.bad_files import BadFiles
from perceiver.data.loading.images import measured_normalisation
from perceiver.data.loading.source import Source
from perceiver.data.loading.splits import random_split
from perceiver.data.readers import flow_files
from perceiver.data.readers.flow_files import UNKNOWN, FlowFileError, read_flow
from perceiver.data.readers.folder_files import is_flat, split_folder
from perceiver.data.readers.images import SUFFIXES, deep_range_of_files, evenly, read_image
from perceiver.data.readers.named_files import matching_files
from perceiver.runtime.progress import progress
from perceiver.samples.batch import Sample
from perceiver.targets.pixels import FLOW_NAMES, flow_target

# More pairs would not change means, deviations and lengths noticeably.
_DESCRIBED = 256


class FlowFolder(Source):
    """Your own frame pairs with the optical flow from the first to the second.

    `first/a/b.png` and `second/a/b.png` are frames of equal size. `flow/a/b.flo` (or `.pfm`, or `.png` of 16 bits as in
    KITTI) is the flow of every pixel of the first frame, in pixels to the right and down; it is unknown if NaN, larger than
    1e9, or marked as invalid. For prediction, `root` may also hold `first` and `second` directly, without flow. Without
    `root/val`, some of the training pairs validate. Batches hold `inputs["frames"]` `(B, 3, 2, *size)`, RGB, and flow
    `(B, 2, *size)`.

    Args:
        root: folder with `train`, `test` and, optionally, `val`.
        size: (height, width) of the crops: at a random position in training, from the centre in evaluation. Frames are not
            scaled. For whole frames of any size see `perceiver.inference.tiling.flow_in_tiles`.
        validation_fraction: share of the training pairs for validation; used only without `val`.
        split_seed: seed of that split; not the training seed.
        augment: mirror training pairs and their flow at random, horizontally and vertically.
        deep_range: see `perceiver.data.folders.images.ImageFolder`.
        on_bad_row: "error" stops at the first damaged file. "skip" reads everything once before it is used, and leaves out
            and names damaged files.
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
        deep_range: Sequence[float] | None = None,
        on_bad_row: str = "error",
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
        self.deep_range = deep_range
        self.needs_test = needs_test
        self.bad_files = BadFiles(on_bad_row)

    @property
    def left_out(self) -> list[str]:
        """See `Source.left_out`."""
        return self.bad_files.reasons

    def prepare(self) -> None:
        """List the files of all splits without opening them."""
        if self.spec is not None and is_flat(self.root):
            self._unlabelled()
            return
        if not (self.root / "train").is_dir() and (self.root / "test").is_dir():
            return  # testing a checkpoint needs no training pairs; without a checkpoint, setup raises
        validation = ["val"] if split_folder(self.root, "val").is_dir() else []
        for split in ["train", *validation, *(["test"] if self.needs_test else [])]:
            self._split(split)

    def read_training(self) -> tuple["FramePairs", "FramePairs"]:
        """Return `train`, and `val` or a part split off from `train`."""
        training = self._split("train")
        if self.spec is None and self.deep_range is None:
            files = [training.folder / part / file for part, files in training.frames() for file in files]
            self.deep_range = deep_range_of_files(evenly(files, _DESCRIBED))
            training = self._split("train")
        if split_folder(self.root, "val").is_dir():
            return replace(self._usable(training), training=True, mirror=self.augment), self._usable(self._split("val"))
        stay, taken = random_split(
            len(training), fraction=self.validation_fraction, seed=self.split_seed, where=training.folder
        )
        kept, left = (replace(training, files=tuple(training.files[n] for n in part)) for part in (stay, taken))
        return replace(self._usable(kept), training=True, mirror=self.augment), self._usable(left, part="validation")

    def read_test(self) -> "FramePairs":
        """Return `test`."""
        return self._usable(self._split("test"))

    def read_prediction(self) -> "FramePairs | None":
        """Return the frame pairs without flow of a folder without splits; None: the test split."""
        return self._usable(self._unlabelled()) if is_flat(self.root) else None

    def unaltered(self, training: "FramePairs") -> "FramePairs":
        """Return central crops without mirroring."""
        return replace(training, training=False, mirror=False)

    def learn(self, training: "FramePairs") -> dict[str, Any]:
        """Return the spec, with statistics of the centres of at most 256 evenly spaced training pairs."""
        plain = self.unaltered(training)
        frames, flow, seen = [], [], []
        chosen = np.unique(np.linspace(0, len(plain) - 1, _DESCRIBED).round().astype(int)).tolist()
        for number in progress(chosen, total=len(chosen), title="statistics of the frames", unit="pairs"):
            sample = plain[number]
            x, target, mask = sample.inputs["frames"], sample.target, sample.target_mask
            assert isinstance(x, Tensor)
            assert isinstance(target, Tensor)
            assert isinstance(mask, Tensor)
            frames.append(x.movedim(1, 0))
            flow.append(target)
            seen.append(mask)
        measured = measured_normalisation(frames, value_range=(0.0, 1.0))
        spec = {**self.specs["frames"], **measured}
        if self.deep_range is not None:
            spec["deep_range"] = list(self.deep_range)
        learned = flow_target(flow=torch.stack(flow), mask=torch.stack(seen), modality="frames")
        return {"modalities": {"frames": spec}, "target": learned, "num_outputs": len(FLOW_NAMES)}

    def known(self) -> dict[str, Any]:
        """Return the spec of the frames, and flow as the target."""
        target = {"kind": "flow", "names": list(FLOW_NAMES), "modality": "frames"}
        return {"modalities": self.specs, "target": target}

    def _usable(self, pairs: "FramePairs", *, part: str = "") -> "FramePairs":
        """Return the pairs that can be read; `part` names a split that shares the folder with the training split."""
        index = self.bad_files.usable(pairs, num_workers=self.num_workers, where=pairs.folder, part=part)
        return replace(pairs, files=tuple(pairs.files[number] for number in index.tolist()))

    def _unlabelled(self) -> "FramePairs":
        return self._pairs(self.root, {"first": SUFFIXES, "second": SUFFIXES})

    def _split(self, name: str) -> "FramePairs":
        folders = {"first": SUFFIXES, "second": SUFFIXES, "flow": flow_files.SUFFIXES}
        return self._pairs(split_folder(self.root, name), folders)

    def _pairs(self, folder: Path, folders: Mapping[str, Sequence[str]]) -> "FramePairs":
        found = matching_files(folder, folders)
        files = tuple((one, parts["first"], parts["second"], parts.get("flow", "")) for one, parts in found.items())
        deep_range = self.deep_range if self.spec is None else self.spec["modalities"]["frames"].get("deep_range")
        return FramePairs(folder=folder, files=files, size=self.size, deep_range=deep_range)


@dataclass(frozen=True, kw_only=True)
class FramePairs:
    """Frame pairs of a split.

    Args:
        folder: folder of the split.
        files: for each sample, the path without suffix and the paths of its frames and flow, below their folders; an
            empty path of the flow for prediction.
        size: (height, width) of the crops.
        deep_range: see `perceiver.modalities.media.framing.to_rgb`.
        training: crop at a random position, not from the centre.
        mirror: mirror at random.
    """

    folder: Path
    files: tuple[tuple[str, str, str, str], ...]
    size: tuple[int, int]
    deep_range: Sequence[float] | None = None
    training: bool = False
    mirror: bool = False

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        name, *files, flow_file = self.files[index]
        images = [
            read_image(self.folder / part / file, deep_range=self.deep_range)
            for part, file in zip(("first", "second"), files, strict=True)
        ]
        path = self.folder / ("flow" if flow_file else "first") / (flow_file or files[0])
        height, width = images[0].height, images[0].width
        flow = torch.from_numpy(read_flow(path)) if flow_file else torch.zeros(2, height, width)
        sizes = {(image.height, image.width) for image in images} | {tuple(flow.shape[1:])}
        if len(sizes) > 1:
            raise FlowFileError(f"{path}: expected frames and flow of equal size, got {sorted(sizes)} (height, width).")
        frames = torch.stack([torch.from_numpy(np.array(image)).movedim(-1, 0) for image in images], dim=1).float() / 255
        if any(own < wanted for own, wanted in zip(frames.shape[-2:], self.size, strict=True)):
            raise FlowFileError(
                f"{path}: expected frames of at least data.size={list(self.size)}, got {list(frames.shape[-2:])}."
            )
        frames, flow = self._cut(frames, flow)
        if not flow_file:
            return Sample(inputs={"frames": frames}, id=name)
        seen = (flow.abs() < UNKNOWN).all(dim=0)
        flow = torch.where(seen, flow, 0.0)
        for axis in range(2) if self.mirror else ():
            if bool(torch.rand(()) < 0.5):
                # Columns: the last axis, and the first channel of the flow.
                frames, flow, seen = frames.flip(-1 - axis), flow.flip(-1 - axis), seen.flip(-1 - axis)
                flow[axis] = -flow[axis]
        return Sample(inputs={"frames": frames}, target=flow, id=f"{self.folder.name}/{name}", target_mask=seen)

    def frames(self) -> list[tuple[str, list[str]]]:
        """Return the folders of the frames, each with the paths below it."""
        return [("first", [files[1] for files in self.files]), ("second", [files[2] for files in self.files])]

    def _cut(self, frames: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        rooms = [own - wanted for own, wanted in zip(frames.shape[-2:], self.size, strict=True)]
        top, left = (int(torch.randint(room + 1, ())) if self.training else room // 2 for room in rooms)
        place = (..., slice(top, top + self.size[0]), slice(left, left + self.size[1]))
        return frames[place].contiguous(), flow[place].contiguous()
