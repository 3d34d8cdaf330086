"""Tiny sets of images in the original formats, for tests: random pixels in the files that the real sets consist of."""

import hashlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import CIFAR10

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """The original format: zero, zero, type, dimensions; the shape as big-endian 32-bit numbers; the bytes."""
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes())


def idx_set(folder: Path) -> None:
    """60 + 20 images of 10 classes, as MNIST and Fashion-MNIST lay them out."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 20)):
        images, labels = IDX_FILES[split]
        write_idx(folder / images, random.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(folder / labels, (np.arange(count) % 10).astype(np.uint8))


def python2_pickle(value: Any) -> bytes:
    """What Python 2's pickle wrote in protocol 2, arrays as NumPy of its time made them: CIFAR's original format."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: Any) -> bytes:
    if isinstance(value, str):
        data = value.encode("latin1")
        return (b"U" + bytes([len(data)]) if len(data) < 256 else b"T" + struct.pack("<i", len(data))) + data
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_python2(key) + _python2(item) for key, item in value.items()) + b"u"
    assert isinstance(value, np.ndarray)
    assert value.dtype == np.uint8
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + _python2(0) + b"\x85" + _python2("b") + b"\x87R"
    kind = b"cnumpy\ndtype\n" + _python2("u1") + _python2(0) + _python2(1) + b"\x87R"
    kind += b"(" + _python2(3) + _python2("|") + b"NNN" + _python2(-1) + _python2(-1) + _python2(0) + b"tb"
    shape = b"(" + b"".join(_python2(size) for size in value.shape) + b"t"
    state = b"(" + _python2(1) + shape + kind + b"\x89" + _python2(value.tobytes().decode("latin1")) + b"t"
    return empty + state + b"b"


def cifar_pixels(count: int, seed: int) -> NDArray[np.uint8]:
    """Images as CIFAR's rows of 3 x 32 x 32 bytes."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def cifar10_set(root: Path) -> None:
    """Five training batches of 20 images and a test batch of 30."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        count = 30 if name == "test_batch" else 20
        labels = [int(label) for label in np.random.default_rng(number).permutation(count) % 10]
        batch = {"batch_label": name, "labels": labels, "data": cifar_pixels(count, number), "filenames": ["a"] * count}
        (folder / name).write_bytes(python2_pickle(batch))
    meta = {"num_cases_per_batch": 20, "label_names": [f"class {n}" for n in range(10)], "num_vis": 3072}
    (folder / "batches.meta").write_bytes(python2_pickle(meta))


def cifar100_set(root: Path) -> None:
    """A training batch of 300 images and a test batch of 100."""
    folder = root / "cifar-100-python"
    folder.mkdir()
    for number, (name, count) in enumerate([("train", 300), ("test", 100)]):
        fine = [label % 100 for label in range(count)]
        batch = {"fine_labels": fine, "coarse_labels": [label // 5 for label in fine], "data": cifar_pixels(count, number)}
        (folder / name).write_bytes(python2_pickle(batch))
    meta = {"fine_label_names": [f"class {n}" for n in range(100)], "coarse_label_names": [f"group {n}" for n in range(20)]}
    (folder / "meta").write_bytes(python2_pickle(meta))


def cifar_checksums(root: Path, reader: type[CIFAR10], monkeypatch: pytest.MonkeyPatch) -> None:
    """Has torchvision take the small files in `root` for the originals."""

    def md5(name: str) -> str:
        return hashlib.md5((root / reader.base_folder / name).read_bytes()).hexdigest()

    for files in ("train_list", "test_list"):
        monkeypatch.setattr(reader, files, [[name, md5(name)] for name, _ in getattr(reader, files)])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": md5(reader.meta["filename"])})


def photograph(path: Path, *, seed: int, size: tuple[int, int] = (40, 30)) -> None:
    """A smooth random image of (width, height) in the format that the name ends in; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)


def folder_set(root: Path, *, validation: bool = False) -> None:
    """Three classes with 8 training, 4 test and maybe 2 validation images each, of several sizes and formats."""
    splits = {"train": 8, "test": 4} | ({"val": 2} if validation else {})
    for split, count in splits.items():
        for number, name in enumerate(("cat", "dog", "zebra")):
            for image in range(count):
                suffix = ("jpg", "png", "JPEG")[image % 3]
                size = (40 + image, 30)
                seed = 1000 * len(split) + 100 * number + image
                photograph(root / split / name / f"{image}.{suffix}", seed=seed, size=size)


WNIDS = {"n01440764": "tench, Tinca tinca", "n02012849": "crane", "n03126707": "crane"}


def imagenet_set(root: Path, *, devkit: bool = False) -> None:
    """Three classes with 8 training and 4 validation images each.

    Args:
        root: where.
        devkit: validation images in one folder, with the devkit's ground truth; else a folder per class.
    """
    for number, wnid in enumerate(WNIDS):
        for image in range(8):
            photograph(root / "train" / wnid / f"{wnid}_{image}.JPEG", seed=100 * number + image)
    order = [image % 3 for image in range(12)]
    for image, number in enumerate(order):
        folder = root / "val" if devkit else root / "val" / list(WNIDS)[number]
        photograph(folder / f"ILSVRC2012_val_{image + 1:08d}.JPEG", seed=1000 + image)
    if devkit:
        imagenet_devkit(root, order)


def imagenet_devkit(root: Path, order: list[int]) -> None:
    """The devkit with the classes in reverse: its numbers are not the positions of the sorted WordNet numbers.

    Args:
        root: where.
        order: the position of each validation image's class among the sorted WordNet numbers.
    """
    from scipy.io import savemat

    folder = root / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    kinds = [("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("words", "O"), ("num_children", "i4")]
    rows = [(len(WNIDS) - n, wnid, words, 0) for n, (wnid, words) in enumerate(WNIDS.items())]
    rows.append((1001, "n00001740", "entity", 3))  # inner nodes of WordNet are listed too
    savemat(str(folder / "meta.mat"), {"synsets": np.array(rows, dtype=kinds)[:, None]})
    truth = "".join(f"{len(WNIDS) - number}\n" for number in order)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
