"""Patterns of paths, and what is expanded: settings of the user, never what stands in a file."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manifest_cases import write_csv
from PIL import Image

from perceiver.data import DataModule, Manifest
from perceiver.data.manifest import BadRowError
from perceiver.data.manifest.paths import EnclosedFolder, PathPattern
from perceiver.data.shards.records import Decode, encode
from perceiver.runtime.user_paths import expanded

IMAGE = {"kind": "image", "size": [4, 4]}


def made(path: Path, modalities: Any, **settings: Any) -> DataModule:
    return DataModule.of(
        Manifest, manifest=path, modalities=modalities, **{"num_workers": 0, "test_fraction": 0.2, **settings}
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photos of rows 0 to 11 in folders of their species, and the table that does not name them."""
    rows = []
    for n in range(12):
        species = ("cat", "dog")[n % 2]
        path = tmp_path / "home" / "images" / species / f"{n:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (20 * n, 9, 99)).save(path)
        rows.append({"id": n, "species": species, "label": species})
    rows[5]["species"] = None
    rows[5]["note"] = "without a species"
    return write_csv(tmp_path / "home" / "m.csv", [{**row, "note": row.get("note", "x")} for row in rows])


PATTERN = "images/{species}/{id:03}.png"


def test_files_named_by_a_pattern(photos: Path) -> None:
    modalities = {"photo": {**IMAGE, "path": PATTERN}, "note": "text"}
    data = made(photos, modalities)
    data.setup()
    facts = data.spec["modalities"]["photo"]
    assert facts["path"] == PATTERN
    seen = {}
    for name in ("train", "val", "test"):
        samples = data.split(name)
        for index in range(len(samples)):
            sample = samples[index]
            if "photo" in sample.inputs:
                x = sample.inputs["photo"]
                seen[int(sample.id)] = round(float(x[0, 0, 0] * facts["std"][0] + facts["mean"][0]) * 255)
            decode = Decode(modalities=list(modalities), specs=data.spec["modalities"], target=data.spec["target"])
            packed = decode(encode(samples, index, target=data.spec["target"]))
            assert packed.inputs.keys() == sample.inputs.keys()
    assert seen == {n: 20 * n for n in range(12) if n != 5}, "a row without a species has no photo"
    later = made(photos, None)
    later.spec = data.spec
    later.setup("predict")
    assert len(later.predict_dataloader().dataset) == 12
    (photos.parent / "images" / "dog" / "003.png").unlink()
    with pytest.raises(BadRowError, match=r"m\.csv, line 5, .*no such file: \S+images/dog/003\.png"):
        made(photos, modalities).setup("fit")


def test_settings_are_expanded_and_cells_are_not(photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = photos.parent
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PHOTOS", "images")
    monkeypatch.chdir(tmp_path)
    for pattern in ("~/images/{species}/{id:03}.png", "$HOME/${PHOTOS}/{species}/{id:03}.png"):
        data = made("~/m.csv", {"photo": {**IMAGE, "path": pattern}, "note": "text"}, root="$HOME")  # type: ignore[arg-type]
        data.setup("fit")
        assert data.spec["modalities"]["photo"]["path"] == pattern, "no variable is written into the spec"
        later = made(photos, None)
        later.spec = data.spec
        with pytest.raises(ValueError, match=r"spec\.modalities\.photo\.path: expected a path below data\.root, got"):
            later.setup("predict")
        later = made(photos, {"photo": {**IMAGE, "path": PATTERN}, "note": "text"})
        later.spec = data.spec
        assert "photo" in later.predict_dataloader().dataset[0].inputs, "set again"
    path = write_csv(home / "n.csv", [{"photo": text, "label": "a"} for text in ("~/images/cat/000.png", "$HOME/m.csv")])
    with pytest.raises(BadRowError, match=r"no such file: \S+/home/~/images/cat/000\.png"):
        made(path, {"photo": IMAGE}).setup("fit")
    cells = write_csv(home / "n.csv", [{"at": text, "label": "a"} for text in ("~", "$HOME", "${HOME}")])
    with pytest.raises(BadRowError, match=r"no such file: \S+/home/images/~\.png"):
        made(cells, {"photo": {**IMAGE, "path": "images/{at}.png"}}).setup("fit")


def test_a_variable_that_is_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTHING", raising=False)
    with pytest.raises(
        ValueError, match=r"data\.root: expected a path, got '\$NOTHING/x', but the variable \$NOTHING is not"
    ):
        made(tmp_path, None, root="$NOTHING/x")
    (tmp_path / "$NOTHING").mkdir()
    assert expanded(tmp_path / "$NOTHING", setting="x") == tmp_path / "$NOTHING", "a name that exists is meant"
    monkeypatch.setenv("A", "$B")
    assert expanded("$A/price$.csv", setting="x") == Path("$B/price$.csv"), "once, and not what is no variable"


@pytest.mark.parametrize(
    ("cell", "pattern"),
    [
        ("../../secret", "images/{at}.png"), ("/etc/passwd", "{at}"), ("a/../../b", "images/{at}.png"),
        ("..", "images/{at}/x"), ("C:\\x", "{at}"), ("..\\x", "images/{at}.png"), ("x\0", "{at}"), ("..", "{at}"),
        ("\\\\host\\x", "{at}"),
    ],
)  # fmt: skip
def test_a_cell_cannot_leave_the_folder(cell: str, pattern: str) -> None:
    with pytest.raises(ValueError, match="would leave the folder of the pattern"):
        PathPattern.of(pattern, setting="path").filled({"at": cell})


@given(st.text(alphabet="./\\~$a{}:\0 ", max_size=12), st.text(alphabet="./\\a", max_size=6))
def test_no_cell_can_leave_the_folder(one: str, two: str) -> None:
    pattern = PathPattern.of("root/images/{one}{two}/{one}.png", setting="path")
    try:
        path = pattern.filled({"one": one, "two": two})
    except ValueError:
        return
    assert os.path.normpath(path).startswith("root/images")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"path": "images/a.png"}, r"photo\.path: expected a path with columns in braces"),
        ({"path": "images/{}.png"}, "expected a path with columns in braces"),
        ({"path": "images/{id!r}}.png"}, "expected a path with columns in braces"),
        ({"path": "{id}/../x.png"}, r"expected '\.\.' in front of the first placeholder only"),
        ({"path": 3}, "expected a path with columns in braces"),
        ({"path": "{id}.png", "column": "id"}, "expected a column or a path, got both"),
        ({"path": "{nothing}.png"}, r"data\.modalities\.photo: \S+ has no column 'nothing'"),
        ({"path": "{label}.png"}, "column 'label' is the target"),
        ({"kind": "table", "columns": ["id"], "path": "{id}"}, "table has no setting path"),
    ],
)
def test_errors_name_the_setting(setting: dict[str, Any], message: str, photos: Path) -> None:
    given_ = setting if "kind" in setting else {**IMAGE, **setting}
    with pytest.raises(ValueError, match=message):
        made(photos, {"photo": given_}).setup("fit")


def test_texts_in_files_of_a_pattern_for_a_model_of_texts(tmp_path: Path) -> None:
    rows = [{"id": n, "note": f"text {n}", "label": "ab"[n % 2]} for n in range(12)]
    path = write_csv(tmp_path / "m.csv", rows)
    data = made(path, {"note": "text"})
    data.setup("fit")
    for row in rows:
        (tmp_path / f"{row['id']}.txt").write_text(str(row["note"]))
    later = made(path, {"note": {"kind": "text", "path": "{id}.txt"}})
    data.setup("predict")
    later.spec = data.spec
    [one], [other] = data.predict_dataloader(), later.predict_dataloader()
    assert one.inputs["note"].tolist() == other.inputs["note"].tolist()


@pytest.mark.parametrize("text", ["/etc/{id}", "~/{id}", "$HOME/{id}", "../{id}", "a/../../{id}"])
def test_a_stored_pattern_stays_below_the_root(text: str) -> None:
    with pytest.raises(ValueError, match=r"spec: expected a path below data\.root, got .* in the stored spec"):
        PathPattern.stored(text, setting="spec")


@given(
    st.lists(
        st.sampled_from(["..", ".", "a", "link", "", "C:", "~", "$HOME", "a b", "/", "\\\\", "etc"]), min_size=1, max_size=6
    ),
    st.sampled_from(["/", "\\"]),
)
def test_no_path_leaves_an_enclosed_folder(parts: list[str], separator: str) -> None:
    folder = EnclosedFolder(path=Path("somewhere"))
    try:
        place = folder.place(separator.join(parts))
    except ValueError:
        return
    assert Path(os.path.normpath(place.absolute())).is_relative_to(Path("somewhere").absolute())


def test_an_enclosed_folder_follows_links_and_knows_others(tmp_path: Path) -> None:
    inside, cache = tmp_path / "set", tmp_path / "cache"
    inside.mkdir()
    cache.mkdir()
    (inside / "out").symlink_to(tmp_path)
    (cache / "blob").touch()
    (inside / "photo.png").touch()
    folder = EnclosedFolder(path=inside, others=[cache])
    assert folder.place("photo.png") == folder.place(inside / "photo.png") == inside / "photo.png"
    assert folder.place(str(cache / "blob")) == cache / "blob"
    for path in ("out/secret", str(inside / "out" / "secret"), "../cache/blob", str(tmp_path / "secret")):
        with pytest.raises(ValueError, match="is outside of"):
            folder.place(path)
    with pytest.raises(ValueError, match="is outside of"):
        EnclosedFolder(path=inside).place(str(cache / "blob"))
