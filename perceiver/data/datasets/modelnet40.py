"""ModelNet40: 12,311 meshes of 40 classes of objects, as point sets sampled from their surface.

Source: Z. Wu et al., "3D ShapeNets: A Deep Representation for Volumetric Shapes" (CVPR 2015), modelnet.cs.princeton.edu.
"""

import hashlib
import os
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from perceiver.data.loading.samples import Samples
from perceiver.data.loading.source import Source
from perceiver.data.loading.splits import stratified_split
from perceiver.data.readers.meshes import read_off, sample_surface
from perceiver.data.readers.points import PointSets
from perceiver.modalities.points import to_unit_sphere
from perceiver.samples.batch import Sample


class ModelNet40(Source):
    """Point sets from the meshes under `ModelNet40/<class>/{train,test}/*.off`, with the official test split.

    Points are spread evenly over the surface; each set is centred and scaled to radius 1, without further normalisation.
    All sets are sampled once, reproducibly, and stored in `cache`. Batches hold `inputs["points"]` `(B, num_points, 3)`. Any
    folder of this layout works, with any classes.

    Args:
        root: folder with `ModelNet40/`.
        num_points: points per set.
        validation_size: number of training meshes used for validation, split by class.
        split_seed: seed of this split; not the training seed.
        sample_seed: seed of the points.
        sample_every_epoch: sample new points of training meshes in every epoch. This reads the files in every epoch, which
            needs workers. Validation and test meshes are still sampled once.
        cache: folder for the sampled points, 300 MB for the whole set. None: `ModelNet40/points` next to the meshes.

    Raises:
        FileNotFoundError: if the folder is absent, or a split is empty.
        ValueError: for a damaged mesh, test classes unseen in training, or a `validation_size` that leaves no training
            meshes.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        num_points: int = 2048,
        validation_size: int = 984,
        split_seed: int = 0,
        sample_seed: int = 0,
        sample_every_epoch: bool = False,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(
            specs={"points": {"kind": "points", "shape": [None, 3], "unit_sphere": True}},
            split_seed=split_seed,
        )
        if num_points < 1:
            raise ValueError(f"data.num_points: expected 1 or more, got {num_points}.")
        self.folder = Path(root) / "ModelNet40"
        self.cache = self.folder / "points" if cache is None else Path(cache)
        self.num_points = num_points
        self.validation_size = validation_size
        self.sample_seed = sample_seed
        self.sample_every_epoch = sample_every_epoch

    def prepare(self) -> None:
        """Sample all meshes of both splits that are not in the cache; reports damaged meshes."""
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"data.root: expected meshes in {self.folder.resolve()}/<class>/train and test, but the folder does "
                "not exist. Download ModelNet40.zip from modelnet.cs.princeton.edu and unpack it; set data.root or "
                "the environment variable PERCEIVER_DATA to the folder that holds ModelNet40."
            )
        if training := self._paths("train"):
            self._cached("train", training)
        self._cached("test", self._existing("test"))

    def read_training(self) -> tuple[Samples, Samples]:
        """Return 8,859 and 984 meshes of ModelNet40 by default."""
        paths = self._existing("train")
        names = sorted({path.parents[1].name for path in paths})
        if self.class_names is not None and names != self.class_names:
            raise ValueError(f"{self.folder}: expected the stored classes {self.class_names}, got folders of {names}.")
        self.class_names = names
        self._labels(self._paths("test"))
        labels = torch.tensor(self._labels(paths))
        kept, taken = stratified_split(labels, size=self.validation_size, seed=self.split_seed, name="data.validation_size")
        validation = self._sets("train", paths, taken)
        if not self.sample_every_epoch:
            return self._sets("train", paths, kept), validation
        chosen = [paths[index] for index in kept]
        ids = [self._id(path) for path in chosen]
        return Meshes(paths=chosen, labels=labels[kept].tolist(), ids=ids, num_points=self.num_points), validation

    def read_test(self) -> Samples:
        """Return the 2,468 official test meshes of ModelNet40."""
        paths = self._existing("test")
        return self._sets("test", paths, torch.arange(len(paths)))

    def _paths(self, split: str) -> list[Path]:
        return sorted(path for path in self.folder.glob(f"*/{split}/*") if path.suffix.lower() == ".off")

    def _existing(self, split: str) -> list[Path]:
        paths = self._paths(split)
        if not paths:
            raise FileNotFoundError(f"{self.folder}: expected meshes in <class>/{split}/*.off, got none.")
        filled = {path.parent for path in paths}
        for folder in sorted(self.folder.glob(f"*/{split}")):
            if folder.is_dir() and folder not in filled:
                raise FileNotFoundError(f"{folder}: expected meshes of this class, *.off, got none. Remove empty folders.")
        return paths

    def _labels(self, paths: Sequence[Path]) -> list[int]:
        assert self.class_names is not None
        number = {name: label for label, name in enumerate(self.class_names)}
        for path in paths:
            if path.parents[1].name not in number:
                raise ValueError(
                    f"{path.parents[1]}: class {path.parents[1].name!r} has test meshes but is not one of the "
                    f"{len(number)} training classes: {', '.join(number)}."
                )
        return [number[path.parents[1].name] for path in paths]

    def _id(self, path: Path) -> str:
        return f"modelnet40/{path.parents[1].name}/{path.parent.name}/{path.stem}"

    def _sets(self, split: str, paths: Sequence[Path], index: Tensor) -> PointSets:
        points = torch.from_numpy(np.load(self._cached(split, paths), mmap_mode="c"))
        labels = self._labels(paths)
        chosen = index.tolist()
        ids = [self._id(paths[number]) for number in chosen]
        return PointSets(
            points=points.flatten(0, 1),
            starts=index * self.num_points,
            ends=(index + 1) * self.num_points,
            labels=[labels[number] for number in chosen],
            identify=ids.__getitem__,
        )

    def _cached(self, split: str, paths: Sequence[Path]) -> Path:
        """Return the file of sampled points `(meshes, num_points, 3)`, float32; make it if absent.

        Its name depends on the meshes, so that a changed folder is sampled again.
        """
        states = ((path.relative_to(self.folder), path.stat()) for path in paths)
        listing = "".join(f"{name} {state.st_size} {state.st_mtime_ns}\n" for name, state in states)
        digest = hashlib.sha256(listing.encode()).hexdigest()[:12]
        target = self.cache / f"{split}_{self.num_points}_points_seed_{self.sample_seed}_{digest}.npy"
        if not target.is_file():
            meshes = Meshes(
                paths=paths,
                labels=[0] * len(paths),
                ids=[self._id(path) for path in paths],
                num_points=self.num_points,
                seed=self.sample_seed,
            )
            loader: DataLoader[Any] = DataLoader(meshes, batch_size=None, num_workers=self.num_workers)  # type: ignore[arg-type]
            points = np.stack([sample.inputs["points"].numpy() for sample in loader])
            try:
                _write_at_once(target, points)
            except OSError as error:
                raise OSError(
                    f"data.cache: cannot write the sampled points to {target}: {error}. Set data.cache to a writable "
                    f"folder with {points.nbytes / 1e6:.0f} MB of free space."
                ) from error
        return target


class Meshes:
    """Labelled meshes as point sets, read and sampled on demand.

    Args:
        paths: OFF files.
        labels: class numbers, from 0.
        ids: identify the samples in messages and tables.
        num_points: points per set.
        seed: always sample the same points. None: new points every time, from torch's global generator.
    """

    def __init__(
        self, *, paths: Sequence[Path], labels: Sequence[int], ids: Sequence[str], num_points: int, seed: int | None = None
    ) -> None:
        self.paths = list(paths)
        self.labels = list(labels)
        self.ids = list(ids)
        self.num_points = num_points
        self.seed = seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Return points `(num_points, 3)`, float32, in the unit sphere.

        Raises:
            ValueError: for a damaged mesh; names the file.
        """
        path = self.paths[index]
        vertices, triangles = read_off(path)
        if self.seed is None:
            random = np.random.RandomState(int(torch.randint(2**32, ())))
        else:
            # By name, not by number: independent of the other files.
            random = np.random.RandomState([self.seed, zlib.crc32(self.ids[index].encode())])
        try:
            points = sample_surface(vertices, triangles, num_points=self.num_points, random=random)
        except ValueError as error:
            raise ValueError(f"{path}: {error} Replace the file with the original or remove it.") from error
        return Sample(
            inputs={"points": to_unit_sphere(torch.from_numpy(points)).float()},
            target=self.labels[index],
            id=self.ids[index],
        )


def _write_at_once(target: Path, points: NDArray[np.float32]) -> None:
    """Write atomically: an interruption leaves no file that looks complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part", delete=False) as file:
        try:
            np.save(file, points)
            file.flush()
            os.replace(file.name, target)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
