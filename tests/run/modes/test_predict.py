"""Tables of predictions of every kind of target."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exported_models import text_generating_model
from small_models import model_around

from perceiver.generation import Decoding
from perceiver.run.modes.inference import set_decoding
from perceiver.run.modes.predict import PredictionTable
from perceiver.targets.classes import ClassTarget
from perceiver.targets.kinds import Target
from perceiver.targets.labels import LabelsTarget
from perceiver.targets.values import ValuesTarget

Written = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes a table and reads it again."""

    def write(target: Target, *outputs: list[list[float]], ids: tuple[tuple[str, ...], ...]) -> list[dict[str, Any]]:
        with (tmp_path / "predictions.csv").open("wb") as file:
            table = PredictionTable(file, target)
            for some, batch in zip(ids, outputs, strict=True):
                table.write(some, torch.tensor(batch))
        with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as text:
            rows = list(csv.DictReader(text))
        assert table.rows == len(rows)
        return rows

    return write


def test_classes(written: Written) -> None:
    target = ClassTarget(names=["a,b", "c"])
    rows = written(target, [[0.0, 1.0], [3.0, 0.0]], [[0.0, 0.0]], ids=(("x", 'y"z'), ("ä",)))
    assert [row["id"] for row in rows] == ["x", 'y"z', "ä"]
    assert [row["prediction"] for row in rows] == ["c", "a,b", "a,b"]
    assert float(rows[0]["probability_c"]) == pytest.approx(1 / (1 + 2.718281828**-1), abs=1e-5)
    assert all(float(row["probability_a,b"]) + float(row["probability_c"]) == pytest.approx(1, abs=1e-5) for row in rows)


def test_labels(written: Written) -> None:
    rows = written(LabelsTarget(names=["a", "b"]), [[1.0, 2.0], [-1.0, 2.0], [-1.0, -1.0]], ids=(("x", "y", "z"),))
    assert [row["prediction"] for row in rows] == ["a;b", "b", ""]
    assert float(rows[1]["probability_b"]) == pytest.approx(torch.tensor(2.0).sigmoid().item(), abs=1e-5)


def test_values(written: Written) -> None:
    rows = written(ValuesTarget(names=["age"], mean=[40.0], std=[10.0]), [[0.5]], ids=(("x",),))
    assert rows == [{"id": "x", "prediction_age": "45.0"}]


def test_settings_of_generation_need_a_decoder_of_texts() -> None:
    made = text_generating_model()
    classifier = model_around("text", made.adapters["text"])
    set_decoding(classifier, None)
    with pytest.raises(ValueError, match=r"generation: expected null, since the checkpoint's model generates no text"):
        set_decoding(classifier, {"num_beams": 5})
    set_decoding(made, {"num_beams": 5})
    assert made.head.decoding.num_beams == 5
    with pytest.raises(ValueError, match=r"num_beams: expected at least 1, got 0"):
        set_decoding(made, {"num_beams": 0})
    with pytest.raises(ValueError, match=r"generation: expected some of .*got \['beams'\]"):
        set_decoding(made, {"beams": 5})
    with pytest.raises(ValueError, match=r"num_beams .*: expected a model that generates texts, .* got PooledHead"):
        classifier.target_outputs({"text": torch.ones(1, 3).long()}, decoding=Decoding())
