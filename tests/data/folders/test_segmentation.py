"""Images and masks in folders: pairs, framing without mixing classes, ignored pixels, sizes of their own, bad files."""

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from perceiver.data import DataModule, SegmentationFolder
from perceiver.data.folders.segmentation import read_mask
from perceiver.data.readers.images import ImageFileError
from perceiver.modalities.preprocess import preprocess
from perceiver.samples.batch import Batch
from perceiver.testing import check_data_module

NAMES = ["sky", "sea", "land"]


def pair(folder: Path, name: str, numbers: np.ndarray, *, palette: bool = False) -> None:
    """A mask, and an image whose red says the class of every pixel."""
    for kind in ("images", "masks"):
        (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((*numbers.shape, 3), np.uint8)
    pixels[..., 0] = np.minimum(80 * numbers, 255)
    pixels[..., 1] = np.random.default_rng(len(name)).integers(0, 255, numbers.shape)
    Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
    mask = Image.fromarray(numbers.astype(np.uint8))
    if palette:
        mask.putpalette([shade for number in range(256) for shade in (number, 255 - number, 99)])
    mask.save(folder / "masks" / f"{name}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for number in range(count):
            numbers = np.kron(random.integers(0, 3, (3, 4)), np.ones((4, 4))).astype(int)
            numbers[0, :2] = 255
            pair(tmp_path / split, f"part/{number}", numbers, palette=number % 2 == 1)
    (tmp_path / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return tmp_path


def module(root: Path, **arguments: Any) -> DataModule:
    return DataModule.of(SegmentationFolder, root=root, **{"size": (12, 16), "batch_size": 2, "num_workers": 0, **arguments})


def test_kit(root: Path) -> None:
    check_data_module(lambda: module(root, augment=v2.RandomHorizontalFlip()))


def batches(made: SegmentationFolder, split: str = "test") -> list[Batch]:
    made.setup("fit")
    made.setup("test")
    return list(getattr(made, f"{split}_dataloader")())


def red(made: SegmentationFolder, batch: Batch) -> torch.Tensor:
    """`(B, H, W)`, 80 for each class number."""
    spec = made.spec["modalities"]["image"]
    x = batch.inputs["image"]
    assert isinstance(x, torch.Tensor)
    return x[:, 0] * spec["std"][0] * 255 + spec["mean"][0] * 255


def test_classes_are_those_of_the_masks(root: Path) -> None:
    made = module(root)
    for batch in batches(made):
        assert batch.target_mask is not None
        assert batch.target is not None
        assert not bool(batch.target_mask[:, 0, :2].any()), "255 does not count"
        assert bool(batch.target_mask[:, 1:].all())
        seen = batch.target_mask
        torch.testing.assert_close(red(made, batch)[seen], 80.0 * batch.target[seen], atol=0.01, rtol=0)
    assert made.spec["target"]["names"] == NAMES
    assert sum(made.spec["target"]["counts"]) == 5 * (12 * 16 - 2), "of the five images that train"
    assert {one for batch in batches(made) for one in batch.ids} == {f"test/part/{n}" for n in range(3)}


def test_augmentation_moves_both_and_what_it_fills_in_does_not_count(root: Path) -> None:
    made = module(root, augment=v2.RandomAffine(degrees=0, translate=(0.4, 0.4)))
    hidden = 0
    for batch in batches(made, "train"):
        assert batch.target is not None
        assert batch.target_mask is not None
        seen = batch.target_mask
        torch.testing.assert_close(red(made, batch)[seen], 80.0 * batch.target[seen], atol=0.01, rtol=0)
        hidden += int((~seen).sum())
    assert hidden > 5 * 2, "more than what was ignored before"


def test_framing_mixes_no_classes(root: Path) -> None:
    made = module(root, size=(7, 5))
    for batch in batches(made):
        assert batch.target is not None
        assert batch.target.shape[1:] == (7, 5)
        assert set(batch.target.unique().tolist()) <= {0, 1, 2}
    file = root / "test" / "images" / "part" / "1.png"
    with Image.open(file) as image:
        raw = preprocess(image, spec=made.spec["modalities"]["image"], name="image")
    [first, *_] = batches(made)
    torch.testing.assert_close(first.inputs["image"][1], raw)  # type: ignore[index]


def test_sizes_of_their_own_are_padded(root: Path) -> None:
    pair(root / "test", "part/9", np.ones((5, 20), int))
    made = module(root, size=None, batch_size=4)
    [batch] = batches(made)
    assert batch.target is not None
    assert batch.target_mask is not None
    assert batch.target.shape == (4, 12, 20)
    assert batch.target_mask.flatten(1).sum(dim=1).tolist() == [190, 190, 190, 100]
    assert torch.equal(batch.masks["image"][:, 1:], batch.target_mask[:, 1:])
    assert made.spec["modalities"]["image"]["shape"] == [3, None, None]


def test_a_val_folder_is_the_validation_split(root: Path) -> None:
    (root / "test").rename(root / "val")
    made = module(root, needs_test=False)
    made.prepare_data()
    made.setup("fit")
    assert [one for batch in made.val_dataloader() for one in batch.ids] == [f"val/part/{n}" for n in range(3)]
    assert len(made.train_dataloader()) == 3


def test_the_stored_classes_serve_where_no_file_names_them(root: Path) -> None:
    trained = module(root)
    trained.setup("fit")
    (root / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"classes\.txt: expected the names of the classes, one per line"):
        module(root).setup("fit")
    again = module(root)
    again.spec = trained.spec
    again.setup("test")
    assert again.source.class_names == NAMES
    with pytest.raises(ValueError, match=r"spec\.target\.names"):
        module(root, class_names=["a", "b", "c"]).spec = trained.spec


def wide(root: Path) -> None:
    Image.new("L", (3, 3)).save(root / "test" / "masks" / "part" / "0.png")


def coloured(root: Path) -> None:
    Image.new("RGB", (16, 12)).save(root / "test" / "masks" / "part" / "0.png")


def unknown(root: Path) -> None:
    Image.new("L", (16, 12), color=7).save(root / "test" / "masks" / "part" / "0.png")


def damaged(root: Path) -> None:
    (root / "test" / "masks" / "part" / "0.png").write_bytes(b"PNG")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (wide, r"0\.png: expected 12 x 16 pixels, the upright size of its image, got 3 x 3"),
        (coloured, r"0\.png: expected class numbers, one channel .* got an image of mode RGB"),
        (unknown, r"0\.png: expected class numbers from 0 to 2, or data\.ignored=\[255\], got 7"),
        (damaged, r"0\.png: not a valid image"),
    ],
)
def test_bad_masks_name_the_file(root: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(root)
    with pytest.raises(ImageFileError, match=message):
        batches(module(root))


def test_incomplete_pairs(root: Path) -> None:
    mask = root / "train" / "masks" / "part" / "0.png"
    content = mask.read_bytes()
    mask.unlink()
    with pytest.raises(FileNotFoundError, match=r"part/0\.png: expected this file beside .*; 1 of 6 have none"):
        module(root).prepare_data()
    mask.write_bytes(content)
    (root / "train" / "images" / "part" / "1.png").unlink()
    with pytest.raises(ValueError, match=r"part/1\.png: expected a file of this name in .*images; 1 have none"):
        module(root).prepare_data()
    with pytest.raises(FileNotFoundError, match=r"images: expected a folder, but it does not exist"):
        module(root / "nowhere").prepare_data()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation_fraction": 1.0}, r"data\.validation_fraction"),
        ({"class_names": ["a"]}, r"data\.class_names: expected two or more distinct names"),
        ({"size": (0, 4)}, r"data\.size: expected \[height, width\]"),
    ],
)
def test_wrong_settings(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(tmp_path, **arguments)


@pytest.mark.parametrize("bits", [2, 4])
def test_numbers_of_few_bits_are_not_stretched(bits: int, tmp_path: Path) -> None:
    numbers = np.arange(2**bits, dtype=np.uint8)[None]
    _write_grey(tmp_path / "a.png", numbers, bits=bits)
    assert np.asarray(read_mask(tmp_path / "a.png")).tolist() == numbers.tolist()


def _write_grey(path: Path, numbers: np.ndarray, *, bits: int) -> None:
    """Pillow writes such files with a palette alone."""
    height, width = numbers.shape
    packed = b"".join(
        b"\0" + int("".join(f"{one:0{bits}b}" for one in row), 2).to_bytes(width * bits // 8, "big") for row in numbers
    )
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(packed)), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big") for name, data in chunks
        )
    )


def test_classes_without_a_pixel(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "classes.txt").write_text("\n".join([*NAMES, "cloud"]))
    module(root).setup("fit")
    assert "has pixels of the classes cloud" in caplog.text
    with pytest.raises(ValueError, match=r"expected pixels of two or more classes .* data\.mask_values"):
        module(root, ignored=(1, 2, 255)).setup("fit")


def test_numbers_of_classes_may_be_given(root: Path) -> None:
    made = module(root, class_names=["land", "sky"], mask_values=[2, 0], ignored=(1, 255), augment=None)
    plain = batches(module(root))
    for batch, other in zip(batches(made), plain, strict=True):
        assert batch.target is not None
        assert other.target is not None
        assert torch.equal(batch.target[batch.target_mask] == 0, other.target[batch.target_mask] == 2)
    with pytest.raises(ValueError, match=r"data\.mask_values: expected 3 numbers"):
        module(root, mask_values=[0, 255]).setup("fit")


COLORS = {"sky": [70, 130, 180], "sea": "#0000e6", "land": [152, 251, 152]}
BORDER = (224, 224, 192)


def colored(root: Path) -> None:
    """Turn the masks into colours, by hand."""
    table = np.full((256, 3), 255, np.uint8)
    table[:3], table[255] = [(70, 130, 180), (0, 0, 0xE6), (152, 251, 152)], BORDER
    for number, file in enumerate(sorted(root.glob("*/masks/part/*.png"))):
        mask = Image.fromarray(table[np.asarray(Image.open(file))])
        (mask.convert("RGBA") if number == 0 else mask.quantize() if number == 1 else mask).save(file)


@pytest.mark.parametrize("form", ["mapping", "list", "file"])
def test_colors_are_classes(form: str, root: Path) -> None:
    plain = batches(module(root, augment=None))
    colored(root)
    settings: dict[str, Any] = {"mask_colors": COLORS if form == "mapping" else [*COLORS.values()]}
    if form == "file":
        settings = {}
        (root / "classes.txt").write_text("sky 70 130 180\nsea\t0 0 230\nland, 152, 251, 152\n")
    made = module(root, ignored=(255, BORDER), augment=None, **settings)
    for batch, other in zip(batches(made), plain, strict=True):
        assert torch.equal(batch.target, other.target)
        assert torch.equal(batch.target_mask, other.target_mask)
    assert made.spec["target"]["mask_colors"] == [[70, 130, 180], [0, 0, 230], [152, 251, 152]]
    assert made.spec["target"]["names"] == NAMES
    other = module(root, ignored=(BORDER,))  # the colours of the spec
    other.spec = made.spec
    assert other.source.read_test()[0].target.shape == (12, 16)


def test_other_colors(root: Path) -> None:
    colored(root)
    with pytest.raises(ImageFileError, match=r"of mode RGB\. If its colours are classes, give them with data\.mask_colors"):
        module(root).source.read_test()[2]
    made = module(root, mask_colors=COLORS)
    with pytest.raises(ImageFileError, match=r"part/\d\.png: expected a colour .*, got \[224, 224, 192\] in row 0, col"):
        made.source.read_test()[0]
    for settings, message in (
        ({"mask_colors": [[0, 0, 0]] * 3}, "expected 3 different colours"),
        ({"mask_colors": [[0, 0, 0]]}, "expected 3 different colours"),
        ({"mask_colors": {"sky": [0, 0, 0]}}, "expected the classes sky, sea, land, got sky"),
        ({"mask_colors": ["red", "green", "blue"]}, "or '#rrggbb', got 'red'"),
        ({"mask_colors": [[0, 0, 256], [0, 0, 0], [0, 0, 1]]}, "0 to 255 each"),
        ({"mask_colors": COLORS, "mask_values": [0, 1, 2]}, "expected one of them"),
    ):
        with pytest.raises(ValueError, match=message):
            module(root, **settings).source.read_test()


def test_names_that_look_like_colors(root: Path) -> None:
    """Only if every line has one is a colour part of it."""
    (root / "classes.txt").write_text("sky 1 2 3\nsea\nland\n")
    assert module(root).source.named_classes() == ["sky 1 2 3", "sea", "land"]
    (root / "classes.txt").write_text("70 130 180 sky\n0 0 230 deep sea\n152 251 152 land\n")
    assert module(root).source.named_classes() == ["sky", "deep sea", "land"]


def test_palettes_of_pascal_voc(root: Path) -> None:
    """Class numbers are the places in the palette, whatever its colours; the border is number 255."""
    palette = [(number >> bit & 1) << 7 for number in range(256) for bit in range(3)]
    plain = batches(module(root, augment=None))
    for file in root.glob("*/masks/part/*.png"):
        mask = Image.fromarray(np.array(Image.open(file)))
        mask.putpalette(palette)
        mask.save(file)
    for batch, other in zip(batches(module(root, augment=None)), plain, strict=True):
        assert torch.equal(batch.target, other.target)
        assert torch.equal(batch.target_mask, other.target_mask)


def test_damaged_pairs_are_left_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "train" / "images" / "part" / "1.png").write_bytes(b"x")
    Image.new("L", (16, 12), 77).save(root / "train" / "masks" / "part" / "2.png")
    made = module(root, on_bad_row="skip")
    made.setup("fit")
    assert "skipped 2 of 5 samples" in caplog.text
    assert "1.png: not a valid image" in caplog.text
    assert "got 77" in caplog.text
    assert len(made.split("train")) + len(made.split("val")) == 4


@pytest.mark.parametrize("below", ["images", ""])
def test_prediction_needs_no_masks(below: str, root: Path) -> None:
    made = module(root)
    made.setup("fit")
    new = root / "test" / below
    shutil.rmtree(root / "test" / "masks")
    (new / "notes.txt").write_text("x")
    other = module(new if below == "" else root / "test", batch_size=9)
    other.spec = made.spec
    other.prepare_data()
    (batch,) = other.predict_dataloader()
    assert [Path(name).name for name in batch.ids] == ["0.png", "1.png", "2.png"]
    assert batch.target is None
