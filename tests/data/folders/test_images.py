"""Image folders: every format and size, the splits, and each thing that is wrong with the folders of real users."""

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
import torchvision
from image_sets import folder_set, photograph
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from perceiver.data import DataModule
from perceiver.data.folders.images import ImageFolder
from perceiver.data.loading.images import Images
from perceiver.data.readers.images import ImageFileError, find_images, read_image
from perceiver.modalities.media.framing import Frame
from perceiver.modalities.preprocess import preprocess

FRAME = Frame(size=[24, 32])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder_set(tmp_path)
    return tmp_path


def module(root: Path, **arguments: Any) -> DataModule:
    return DataModule.of(ImageFolder, **{"root": root, "size": [24, 32], "num_workers": 0, **arguments})


def prepared(root: Path, **arguments: Any) -> DataModule:
    data = module(root, **arguments)
    data.prepare_data()
    data.setup()
    return data


def ids(loader: Any) -> list[str]:
    return [name for batch in loader for name in batch.ids]


# ---- decoding


def test_plain_images_are_read_as_torchvision_reads_them(root: Path) -> None:
    reference = torchvision.datasets.ImageFolder(str(root / "test"))
    files = find_images(root / "test", frame=FRAME)
    assert isinstance(files, Images)
    assert list(files.class_names) == reference.classes
    assert files.labels.tolist() == reference.targets
    assert files.names(torch.arange(12)) == [str(Path(path).relative_to(root)) for path, _ in reference.samples]
    for path, _ in reference.samples:
        assert np.array_equal(np.asarray(read_image(Path(path))), np.asarray(reference.loader(path)))


def test_pillow_s_own_conversion_is_the_reference_for_other_modes(tmp_path: Path) -> None:
    photograph(tmp_path / "rgb.png", seed=3)
    picture = Image.open(tmp_path / "rgb.png")
    for mode in ("L", "1", "CMYK", "YCbCr", "P"):
        file = tmp_path / f"{mode}.{'tif' if mode in ('CMYK', 'YCbCr') else 'png'}"
        picture.convert(mode).save(file)
        if mode == "YCbCr" and PIL.__version__.startswith("12."):
            continue  # that version cannot read the TIFF that it writes
        assert np.array_equal(np.asarray(read_image(file)), np.asarray(picture.convert(mode).convert("RGB"))), mode


def test_transparency_is_dropped(tmp_path: Path) -> None:
    photograph(tmp_path / "rgb.png", seed=4)
    opaque = Image.open(tmp_path / "rgb.png")
    seen = np.asarray(opaque)
    shade = Image.linear_gradient("L").resize(opaque.size)
    with_alpha = opaque.copy()
    with_alpha.putalpha(shade)
    with_alpha.save(tmp_path / "rgba.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "rgba.png")), seen)
    grey = opaque.convert("L")
    grey.putalpha(shade)
    grey.save(tmp_path / "la.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "la.png")), np.asarray(opaque.convert("L").convert("RGB")))
    palette = opaque.convert("P")
    palette.save(tmp_path / "p.png", transparency=bytes(range(256)))
    assert np.array_equal(np.asarray(read_image(tmp_path / "p.png")), np.asarray(palette.convert("RGB")))
    modality = {"kind": "image", "shape": [3, *seen.shape[:2]], "range": [0, 255]}
    ours = torch.from_numpy(np.array(read_image(tmp_path / "rgba.png"))).permute(2, 0, 1) / 255
    torch.testing.assert_close(preprocess(with_alpha, spec=modality, name="image"), ours, msg="as in prediction")


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "grey.png")
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "grey.tif")
    for name in ("grey.png", "grey.tif"):
        read = np.asarray(read_image(tmp_path / name)).astype(float)
        assert read.shape == (30, 40, 3)
        assert np.abs(read - values[..., None] / 65535 * 255).max() <= 0.51, name
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ImageFileError, match=r"float\.tif: not a valid image .*mode F.* no known range"):
        read_image(tmp_path / "float.tif")


# What turns a stored image upright, by the EXIF tag 0x0112: where its first row and first column belong.
UPRIGHT: dict[int, Callable[[Any], Any]] = {
    1: lambda image: image,  # top, left
    2: lambda image: image[:, ::-1],  # top, right
    3: lambda image: image[::-1, ::-1],  # bottom, right
    4: lambda image: image[::-1],  # bottom, left
    5: lambda image: image.swapaxes(0, 1),  # left, top
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],  # right, top
    7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda image: image.swapaxes(0, 1)[::-1],  # left, bottom
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_followed(orientation: int, tmp_path: Path) -> None:
    photograph(tmp_path / "plain.png", seed=5)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(tmp_path / "plain.png").save(tmp_path / "turned.jpg", exif=exif)
    stored = np.asarray(Image.open(tmp_path / "turned.jpg"))
    assert np.array_equal(np.asarray(read_image(tmp_path / "turned.jpg")), UPRIGHT[orientation](stored))


def test_garbage_for_exif_is_no_reason_to_give_up(tmp_path: Path) -> None:
    photograph(tmp_path / "a.jpg", seed=6)
    intact = np.asarray(Image.open(tmp_path / "a.jpg"))
    jpeg = (tmp_path / "a.jpg").read_bytes()
    garbage = b"Exif\0\0no TIFF header here"
    (tmp_path / "b.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(garbage) + 2) + garbage + jpeg[2:])
    assert np.array_equal(np.asarray(read_image(tmp_path / "b.jpg")), intact)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": [24]}, r"data\.size: expected \[height, width\]"),
        ({"size": [24, 0]}, r"data\.size"),
        ({"crop_fraction": 0.0}, r"data\.crop_fraction"),
        ({"validation_fraction": 1.0}, r"data\.validation_fraction"),
        ({"mean": [0.5, 0.5, 0.5]}, r"data\.mean, data\.std: expected both or neither"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str, root: Path) -> None:
    with pytest.raises(ValueError, match=message):
        module(root, **arguments)


# ---- splits and batches


def test_validation_is_split_off_by_class(root: Path) -> None:
    data = prepared(root, validation_fraction=0.25, batch_size=100)
    (training,), (validation,), (test,) = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    assert len(set(training.ids) | set(validation.ids)) == 24
    assert validation.target.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(test.ids) == 12
    assert test.ids[:2] == ["test/cat/0.jpg", "test/cat/1.png"]
    assert data.spec["target"] == {"kind": "classes", "names": ["cat", "dog", "zebra"], "counts": [6, 6, 6]}
    assert data.spec["modalities"]["image"]["shape"] == [3, 24, 32]
    pixels = training.inputs["image"]
    assert pixels.shape == (18, 3, 24, 32)
    torch.testing.assert_close(pixels.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(pixels.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)
    assert ids(prepared(root, validation_fraction=0.25).val_dataloader()) == validation.ids
    assert ids(prepared(root, validation_fraction=0.25, split_seed=1).val_dataloader()) != validation.ids


def test_batches_hold_what_prediction_would_see(root: Path) -> None:
    data = prepared(root, batch_size=12)
    (batch,) = data.test_dataloader()
    modality = data.spec["modalities"]["image"]
    for row, name in enumerate(batch.ids):
        image = Frame(size=[24, 32])(Image.open(root / name))
        torch.testing.assert_close(batch.inputs["image"][row], preprocess(image, spec=modality, name="image"))


def test_a_validation_folder_is_taken(tmp_path: Path) -> None:
    folder_set(tmp_path, validation=True)
    data = prepared(tmp_path)
    assert len(ids(data.train_dataloader())) == 24
    assert ids(data.val_dataloader())[0] == "val/cat/0.jpg"
    assert len(ids(data.val_dataloader())) == 6


def test_only_training_images_are_cropped_at_random(root: Path) -> None:
    data = prepared(root, train_crop=v2.RandomResizedCrop([24, 32], scale=(0.2, 0.5)), batch_size=100)
    epochs = [next(iter(data.train_dataloader())) for _ in range(2)]
    first, second = (dict(zip(batch.ids, batch.inputs["image"], strict=True)) for batch in epochs)
    assert all(not torch.equal(first[name], second[name]) for name in first)
    for loader in (data.val_dataloader, data.test_dataloader):
        again = [next(iter(loader())).inputs["image"] for _ in range(2)]
        assert torch.equal(*again)


def test_workers_decode(root: Path) -> None:
    one, two = (prepared(root, num_workers=workers, batch_size=5) for workers in (0, 2))
    for ours, theirs in zip(one.test_dataloader(), two.test_dataloader(), strict=True):
        assert ours.ids == theirs.ids
        assert torch.equal(ours.inputs["image"], theirs.inputs["image"])


def test_statistics_of_many_images_are_estimated(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = find_images(root / "train", frame=FRAME)
    everything = files.statistics()
    scaled = files.read(torch.arange(24)).double() / 255
    assert everything[0] == pytest.approx(scaled.mean(dim=(0, 2, 3)).tolist())
    assert everything[1] == pytest.approx(scaled.std(dim=(0, 2, 3), correction=0).tolist())
    monkeypatch.setattr("perceiver.data.readers.images.STATISTICS_IMAGES", 5)
    index = torch.tensor([0, 6, 12, 17, 23])
    expected = files.read(index).double() / 255
    assert files.statistics()[0] == pytest.approx(expected.mean(dim=(0, 2, 3)).tolist())


def test_given_statistics_need_no_image(root: Path) -> None:
    for file in (root / "train").rglob("*.*"):
        file.write_bytes(b"")
    data = prepared(root, mean=[0.5, 0.4, 0.3], std=[0.2, 0.2, 0.2])
    assert data.spec["modalities"]["image"]["mean"] == [0.5, 0.4, 0.3]


def test_other_files_are_left_out_and_nested_folders_are_not(root: Path) -> None:
    (root / "train" / "cat" / "notes.txt").write_text("fluffy")
    (root / "train" / "cat" / ".DS_Store").write_bytes(b"\0")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    photograph(root / "train" / "cat" / "session 2" / "größer.png", seed=9)
    (root / "train" / "linked").symlink_to(root / "train" / "dog")
    files = find_images(root / "train", frame=FRAME)
    assert list(files.class_names) == ["cat", "dog", "linked", "zebra"]
    assert torch.bincount(files.labels).tolist() == [9, 8, 8, 8]
    assert "train/cat/session 2/größer.png" in files.names(torch.arange(9))


def test_a_model_is_tested_on_test_images_alone(root: Path, tmp_path: Path) -> None:
    data = prepared(root)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.rename(root / "test", elsewhere / "test")
    later = module(elsewhere)
    later.prepare_data()
    later.spec = data.spec
    later.setup("test")
    assert len(ids(later.test_dataloader())) == 12
    os.rename(elsewhere / "test" / "cat", elsewhere / "test" / "lynx")
    unknown = module(elsewhere)
    unknown.spec = data.spec
    with pytest.raises(
        ValueError, match=r"test: has the classes 'lynx', which are not among the training classes 'cat', 'dog', 'zebra'\."
    ):
        unknown.setup("test")


# ---- what is wrong with folders


def no_images(root: Path) -> None:
    for file in (root / "train").rglob("*.*"):
        file.unlink()


def no_classes(root: Path) -> None:
    for folder in (root / "train").iterdir():
        for file in folder.iterdir():
            file.rename(root / "train" / f"{folder.name}_{file.name}")
        folder.rmdir()


def one_class(root: Path) -> None:
    for name in ("cat", "dog"):
        os.rename(root / "train" / name, root / name)


def empty_class(root: Path) -> None:
    (root / "train" / "lynx").mkdir()
    (root / "train" / "lynx" / "list.csv").write_text("")


def empty_test(root: Path) -> None:
    for file in (root / "test").rglob("*.*"):
        file.unlink()


def unknown_test_class(root: Path) -> None:
    photograph(root / "test" / "lynx" / "1.png", seed=0)


def unknown_val_class(root: Path) -> None:
    photograph(root / "val" / "lynx" / "1.png", seed=0)


@pytest.mark.parametrize(
    ("damage", "place", "message"),
    [
        (no_images, "train/cat", "expected images of this class, found none"),
        (no_classes, "train", "expected a folder of images per class, found none"),
        (one_class, "train", "expected at least two classes, found only the folder 'zebra'"),
        (empty_class, "train/lynx", "found none, only 1 files that end in none of .jpg"),
        (empty_test, "test", "expected images in its 3 class folders, found none"),
        (unknown_test_class, "test", "has the classes 'lynx', which are not among the training classes"),
        (unknown_val_class, "val", "has the classes 'lynx', which are not among the training classes"),
    ],
)
def test_folders_are_checked_before_training(damage: Callable[[Path], None], place: str, message: str, root: Path) -> None:
    damage(root)
    with pytest.raises(ValueError, match=message) as caught:
        module(root).prepare_data()
    assert str(caught.value).startswith(f"{root / place}: ")


def test_a_class_without_test_images_is_no_error(root: Path) -> None:
    for file in (root / "test" / "dog").iterdir():
        file.unlink()
    (batch,) = prepared(root, batch_size=100).test_dataloader()
    assert batch.target.unique().tolist() == [0, 2], "classes keep their numbers"


def test_absent_folders(root: Path) -> None:
    os.rename(root / "test", root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"expected the folder {root}/test .*with test=false no test images"):
        module(root).prepare_data()
    module(root, needs_test=False).prepare_data()
    os.rename(root / "train", root / "training")
    with pytest.raises(FileNotFoundError, match=rf"data\.root: expected the folder {root}/train .*PERCEIVER_DATA"):
        module(root).prepare_data()


def test_a_class_too_small_to_be_split(root: Path) -> None:
    for file in sorted((root / "train" / "dog").iterdir())[1:]:
        file.unlink()
    data = module(root, validation_fraction=0.9)
    data.prepare_data()
    with pytest.raises(ValueError, match=r"train/dog: expected more images: .*data\.validation_fraction \(now 0\.9\)"):
        data.setup("fit")


def no_image(file: Path) -> None:
    file.write_text("<html>404 not found</html>")


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def bomb(file: Path) -> None:
    """A PNG that claims 60,000 x 60,000 pixels."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    png = bytearray(buffer.getvalue())
    png[16:24] = struct.pack(">II", 60000, 60000)
    file.write_bytes(bytes(png))


@pytest.mark.parametrize("damage", [no_image, truncated, empty, bomb])
@pytest.mark.parametrize("name", ["0.jpg", "1.png"])
@pytest.mark.filterwarnings("ignore:Image size")
def test_a_damaged_file_is_named(damage: Callable[[Path], None], name: str, root: Path) -> None:
    file = root / "test" / "dog" / name
    damage(file)
    for workers in (0, 1) if damage is no_image else (0,):
        data = prepared(root, num_workers=workers)
        with pytest.raises(ValueError, match=r"not a valid image \(.*\)\. Replace the file or remove it\.$") as caught:
            list(data.test_dataloader())
        assert str(caught.value).startswith(f"{file}: "), "one line, without the traceback of a worker"
        assert "\n" not in str(caught.value)


def test_a_crop_of_another_size_is_an_error(root: Path) -> None:
    data = prepared(root, train_crop=v2.RandomCrop(20))
    with pytest.raises(ValueError, match=r"data\.train_crop: expected images of 24 x 32 .* got 20 x 20 from RandomCrop"):
        list(data.train_dataloader())


def test_augmentation_comes_after_the_crop(root: Path) -> None:
    seen: list[tuple[int, ...]] = []

    def augment(image: Tensor) -> Tensor:
        seen.append(tuple(image.shape))
        return image

    list(prepared(root, augment=augment).train_dataloader())
    assert set(seen) == {(3, 24, 32)}


def test_a_flat_folder_is_predicted_for(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = prepared(root)
    new = tmp_path / "new"
    (new / "more").mkdir(parents=True)
    for file, name in zip(sorted(root.glob("test/*/*"))[:3], ("b.png", "more/a.png", "c.png"), strict=True):
        Image.open(file).convert("RGB").save(new / name)
    (new / "notes.md").write_text("x")
    flat = module(new)
    with pytest.raises(FileNotFoundError, match=r"data\.root: expected the folder .*train"):
        flat.prepare_data()  # no training
    flat.spec = made.spec
    flat.prepare_data()
    (batch,) = flat.predict_dataloader()
    assert batch.ids == ["b.png", "c.png", "more/a.png"]
    assert batch.target is None
    assert "skipped 1 files whose names are not those of images, such as notes.md" in caplog.text
    (new / "c.png").write_bytes(b"x")
    with pytest.raises(ImageFileError, match=r"c\.png: not a valid image"):
        list(flat.predict_dataloader())
    skipping = module(new, on_bad_row="skip")
    skipping.spec = made.spec
    (batch,) = skipping.predict_dataloader()
    assert batch.ids == ["b.png", "more/a.png"]
    assert skipping.source.bad_files.skipped[str(new)][0].startswith(f"{new / 'c.png'}: not a valid image")  # type: ignore[attr-defined]
    with pytest.raises(FileNotFoundError, match="expected the folder"):
        flat.test_dataloader()


def test_damaged_images_are_left_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = sorted(root.glob("train/*/*"))
    truncated(files[0])
    no_image(files[-1])
    data = prepared(root, on_bad_row="skip")
    assert all(str(file) in caplog.text for file in (files[0], files[-1]))
    assert len(data.source.left_out) == 2
    assert len(data.split("train")) + len(data.split("val")) == len(files) - 2
    list(data.train_dataloader())
    for file in files[0].parent.iterdir():
        file.write_bytes(b"x")
    with pytest.raises(ValueError, match="no valid images, all were skipped"):
        module(root, on_bad_row="skip").source.read_training()
