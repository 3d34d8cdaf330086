"""ModelNet40's layout with tiny meshes: splits, cache, sampling, and what is wrong in a folder."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from perceiver.data import DataModule
from perceiver.data.datasets.modelnet40 import ModelNet40
from perceiver.modalities.preprocess import preprocess

CLASSES = ("chair", "desk", "night_stand")


def box(path: Path, size: np.ndarray, *, quirk: bool = False) -> None:
    """A box of three sizes, six faces of four corners."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * size + 7
    faces = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
    lines = [" ".join(f"{value:.6f}" for value in corner) for corner in corners]
    lines += [f"4 {' '.join(str(corner) for corner in face)}" for face in faces]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(("OFF" if quirk else "OFF\n") + "8 6 0\n" + "\n".join(lines) + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for kind, name in enumerate(CLASSES):
        for split, count in (("train", 8), ("test", 3)):
            for number in range(count):
                path = tmp_path / "ModelNet40" / name / split / f"{name}_{number:04}.off"
                box(path, random.random(3) * 3 + [1, 1, 5 * kind + 1], quirk=number % 2 == 0)
    return tmp_path


def prepared(root: Path, **arguments: object) -> DataModule:
    settings = {"num_points": 64, "validation_size": 6, "batch_size": 100, **arguments}
    module = DataModule.of(ModelNet40, root=root, **settings)  # type: ignore[arg-type]
    module.prepare_data()
    module.setup("fit")
    module.setup("test")
    return module


def test_splits_labels_and_unit_spheres(root: Path) -> None:
    module = prepared(root)
    (training,), (validation,), (test,) = module.train_dataloader(), module.val_dataloader(), module.test_dataloader()
    assert (training.size, validation.size, test.size) == (18, 6, 9)
    assert len({*training.ids, *validation.ids}) == 24
    assert torch.bincount(validation.target).tolist() == [2, 2, 2]
    assert test.ids[3] == "modelnet40/desk/test/desk_0000"
    assert test.target.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    for batch in (training, validation, test):
        points = batch.inputs["points"]
        assert points.shape == (batch.size, 64, 3)
        assert batch.masks == {}
        torch.testing.assert_close(points.mean(1), torch.zeros(batch.size, 3), atol=1e-5, rtol=0)
        torch.testing.assert_close(points.norm(dim=2).amax(1), torch.ones(batch.size))
        for name, label in zip(batch.ids, batch.target.tolist(), strict=True):
            assert CLASSES[label] == name.split("/")[1]


def test_spec_and_prediction(root: Path) -> None:
    module = prepared(root)
    spec = module.spec
    assert spec["modalities"]["points"] == {"kind": "points", "shape": [None, 3], "unit_sphere": True}
    assert spec["target"]["names"] == list(CLASSES)
    (test,) = module.test_dataloader()
    moved = 5 * test.inputs["points"][0] + torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(
        preprocess(moved, spec=spec["modalities"]["points"], name="x"), test.inputs["points"][0], atol=1e-5, rtol=0
    )


def test_points_are_sampled_once_and_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = prepared(root).test_dataloader()
    files = sorted((root / "ModelNet40" / "points").iterdir())
    assert [file.name.split("_")[0] for file in files] == ["test", "train"]

    def refuse(path: object) -> None:
        raise AssertionError("a mesh was read")

    monkeypatch.setattr("perceiver.data.datasets.modelnet40.read_off", refuse)
    (after,) = prepared(root).test_dataloader()
    assert torch.equal(before.inputs["points"], after.inputs["points"])
    assert sorted((root / "ModelNet40" / "points").iterdir()) == files


def test_other_seeds_sizes_and_meshes_are_sampled_anew(root: Path) -> None:
    (first,) = prepared(root).test_dataloader()
    (other,) = prepared(root, sample_seed=1).test_dataloader()
    assert not torch.equal(first.inputs["points"], other.inputs["points"])
    assert next(iter(prepared(root, num_points=10).test_dataloader())).inputs["points"].shape == (9, 10, 3)
    box(root / "ModelNet40" / "chair" / "test" / "chair_9999.off", np.ones(3))
    (more,) = prepared(root).test_dataloader()
    assert more.size == 10
    # What other meshes there are does not matter.
    assert torch.equal(more.inputs["points"][4:], first.inputs["points"][3:])


def test_the_cache_may_lie_elsewhere(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("elsewhere") / "new"
    prepared(root, cache=cache)
    assert len(list(cache.iterdir())) == 2
    assert not (root / "ModelNet40" / "points").exists()
    (cache / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"data\.cache: cannot write the sampled points .* Set data\.cache"):
        prepared(root, cache=cache / "file" / "below")


def test_sampling_that_fails_leaves_nothing(root: Path) -> None:
    (root / "ModelNet40" / "desk" / "train" / "desk_0003.off").write_text("OFF\n4 0 0\n")
    with pytest.raises(ValueError, match=r"desk_0003\.off: has no surface"):
        DataModule.of(ModelNet40, root=root, num_points=8).prepare_data()
    assert not (root / "ModelNet40" / "points").exists()


def test_a_mesh_without_area_is_named(root: Path) -> None:
    box(root / "ModelNet40" / "desk" / "train" / "desk_0003.off", np.zeros(3))
    with pytest.raises(ValueError, match=r"desk_0003\.off: the surface has no area"):
        DataModule.of(ModelNet40, root=root, num_points=8).prepare_data()


def test_points_of_every_epoch_differ_where_asked(root: Path) -> None:
    def epochs(module: ModelNet40) -> list[dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        batches = [next(iter(module.train_dataloader())) for _ in range(2)]
        return [dict(zip(batch.ids, batch.inputs["points"], strict=True)) for batch in batches]

    once, anew = prepared(root), prepared(root, sample_every_epoch=True)
    first, second = epochs(once)
    assert all(torch.equal(first[name], second[name]) for name in first)
    first, second = epochs(anew)
    assert sorted(first) == sorted(epochs(once)[0])
    assert not any(torch.equal(first[name], second[name]) for name in first)
    again, _ = epochs(anew)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_workers(root: Path) -> None:
    (alone,), (helped,) = (prepared(root, num_workers=count, cache=root / str(count)).test_dataloader() for count in (0, 1))
    assert torch.equal(alone.inputs["points"], helped.inputs["points"])


def test_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.root: expected meshes in .*ModelNet40.*princeton\.edu"):
        DataModule.of(ModelNet40, root=tmp_path).prepare_data()


def test_empty_folders(root: Path) -> None:
    empty = root / "ModelNet40" / "sofa" / "train"
    empty.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=rf"{empty}: expected meshes of this class"):
        prepared(root)
    for path in (root / "ModelNet40").glob("*/train/*.off"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"expected meshes in <class>/train/\*\.off, got none"):
        prepared(root)


def test_classes_that_only_the_test_has(root: Path) -> None:
    box(root / "ModelNet40" / "sofa" / "test" / "sofa_0.off", np.ones(3))
    with pytest.raises(ValueError, match="class 'sofa' has test meshes but is not one of the 3 training classes"):
        prepared(root)


def test_a_single_class(root: Path) -> None:
    for name in CLASSES[1:]:
        os.rename(root / "ModelNet40" / name, root / name)
    with pytest.raises(ValueError, match=r"ModelNet40: expected two or more classes, got \['chair'\]"):
        prepared(root)


def test_stored_classes_hold(root: Path) -> None:
    module = prepared(root)
    later = DataModule.of(ModelNet40, root=root, num_points=64, validation_size=6)
    later.prepare_data()
    later.spec = module.spec
    os.rename(root / "ModelNet40" / "chair" / "test", root / "chair")
    later.setup("test")
    assert {int(label) for batch in later.test_dataloader() for label in batch.target} == {1, 2}
    os.rename(root / "ModelNet40" / "desk" / "train", root / "desk")
    with pytest.raises(ValueError, match=r"expected the stored classes .* got folders of \['chair', 'night_stand'\]"):
        later.setup("fit")
    with pytest.raises(ValueError, match=r"data\.num_points: expected 1 or more, got 0"):
        prepared(root, num_points=0)


def test_a_mesh_of_the_same_size_is_sampled_anew_and_case_does_not_matter(root: Path) -> None:
    (before,) = prepared(root).test_dataloader()
    path = root / "ModelNet40" / "chair" / "test" / "chair_0000.off"
    lines = path.read_text().splitlines()
    lines[-7] = "7.123456 7.000000 7.000000".ljust(len(lines[-7]))  # the last corner
    path.write_text("\n".join(lines) + "\n")
    box(root / "ModelNet40" / "chair" / "test" / "chair_9999.OFF", np.ones(3))
    (after,) = prepared(root).test_dataloader()
    assert after.size == before.size + 1
    chair = before.ids.index("modelnet40/chair/test/chair_0000")
    assert not torch.equal(before.inputs["points"][chair], after.inputs["points"][chair])
