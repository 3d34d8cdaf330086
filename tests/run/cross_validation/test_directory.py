"""The directory of a cross-validation: what it holds, and what cannot be continued or used."""

import json
import math
from pathlib import Path

import pytest

from perceiver.run.cross_validation.directory import CrossValidationDirectory, FoldResult, place_of
from perceiver.run.cross_validation.summary import summarised

PLAN = {"folds": 2, "data.split_seed": 0}


@pytest.fixture
def directory(tmp_path: Path) -> CrossValidationDirectory:
    made = CrossValidationDirectory(tmp_path)
    made.begin(PLAN, resume=False)
    return made


def predicted(directory: CrossValidationDirectory, number: int, *lines: str) -> None:
    directory.fold(number).mkdir(exist_ok=True)
    (directory.fold(number) / "predictions.csv").write_text("\n".join(lines) + "\n")


def test_results_come_back(directory: CrossValidationDirectory) -> None:
    assert CrossValidationDirectory.find(directory.path) is not None
    assert CrossValidationDirectory.find(directory.path / "fold_0") is None
    assert CrossValidationDirectory.find(None) is None
    assert directory.result(0) is None
    result = FoldResult(fold=0, metrics={"test/accuracy": 0.5}, score=0.75)
    directory.write_result(result)
    assert directory.result(0) == result
    (directory.fold(0) / "fold.json").write_text('{"metrics": [1], "score": null}')
    with pytest.raises(ValueError, match=r"fold\.json: expected the result of a fold"):
        directory.result(0)


def test_the_directory_of_another_run_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileExistsError, match="already holds a run"):
        CrossValidationDirectory(tmp_path).begin(PLAN, resume=True)


def test_other_data_is_not_continued(directory: CrossValidationDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    plan = {"folds": 2, "data.root": str(directory.path), "data.size": [8, 8]}
    place = CrossValidationDirectory(directory.path / "other")
    place.begin(plan, training={"optimizer": {"lr": 0.1}, "run_dir": "a"}, resume=False)
    assert place.plan() == plan
    place.begin(plan, training={"optimizer": {"lr": 0.1}, "run_dir": "b"}, resume=True)
    for changed in ({**plan, "data.root": "elsewhere"}, {**plan, "data.more": 1}, {"folds": 2, "data.size": [8, 8]}):
        with pytest.raises(ValueError, match=r"has other folds: data\.(root|more): .* -> .*correct cross_validation\.json"):
            place.begin(changed, resume=True)
    assert capsys.readouterr().err == ""
    place.begin(plan, training={"optimizer": {"lr": 0.2}}, resume=True)
    assert "was started with different settings: optimizer.lr: 0.1 -> 0.2" in capsys.readouterr().err
    directory.begin({**PLAN, "data.root": "of a plan that did not name it"}, resume=True)


def test_paths_are_the_same_in_any_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOLDER", str(tmp_path))
    spellings = ["a.csv", "./a.csv", "$FOLDER/a.csv", str(tmp_path / ".." / tmp_path.name / "a.csv")]
    assert {place_of("manifest", spelling) for spelling in spellings} == {str((tmp_path / "a.csv").resolve())}
    assert place_of("files", ["a.csv", "*.csv"]) == [str((tmp_path / "a.csv").resolve()), "*.csv"]
    assert place_of("group", "a.csv") == "a.csv"


def test_predictions_are_joined_with_their_fold(directory: CrossValidationDirectory) -> None:
    predicted(directory, 0, "id,prediction", "a,cat")
    assert not directory.write_predictions([0, 1])
    predicted(directory, 1, "id,prediction", '"b,c",dog')
    assert directory.write_predictions([0, 1])
    text = (directory.path / "predictions.csv").read_text()
    assert text == 'id,fold,prediction\na,0,cat\n"b,c",1,dog\n'
    predicted(directory, 1, "id,prediction,probability_dog", "b,dog,1")
    with pytest.raises(ValueError, match=r"fold_1.*: expected the columns of fold 0, id, prediction, got id, pred"):
        directory.write_predictions([0, 1])


def test_models_of_an_incomplete_or_damaged_cross_validation_are_not_used(directory: CrossValidationDirectory) -> None:
    with pytest.raises(ValueError, match=r"folds 0, 1 are not complete\. Continue it with mode=cross_validate"):
        directory.checkpoints()
    for content in ({"folds": "2"}, {"folds": 10**9}, {"folds": True}, {}):
        (directory.path / "cross_validation.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"cross_validation\.json: expected the number of folds"):
            directory.checkpoints()
    (directory.path / "cross_validation.json").write_text("[" * 10_000)
    with pytest.raises(ValueError, match=r"cross_validation\.json: not JSON"):
        directory.checkpoints()


def test_metrics_that_a_fold_lacks_are_left_out() -> None:
    found = summarised(
        [
            FoldResult(fold=0, metrics={"test/r2": 0.5, "val/loss": 1.0, "seconds": 1.0, "parameters": 7}, score=None),
            FoldResult(fold=1, metrics={"val/loss": math.inf, "seconds": 2.5, "parameters": 7}, score=None),
        ]
    )
    assert (found["seconds"], found["parameters"], found["folds"]) == (3.5, 7, 2)
    assert "test/r2" not in found
    assert math.isnan(found["val/loss_std"])
