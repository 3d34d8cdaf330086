"""report.html: what it says is right, it is one file, and text from data stays text."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from plots_cases import model
from sklearn.metrics import precision_recall_fscore_support
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_calibration_error

from perceiver.objectives import classification
from perceiver.run.reporting.report import Report
from perceiver.run.reporting.report.outcomes import bootstrap, by_class, calibration
from perceiver.run.reporting.report.page import page, table
from perceiver.run.reporting.report.sections import curves_of, data_section
from perceiver.samples.batch import Sample
from perceiver.samples.collate import Collate
from perceiver.training import Task

HOSTILE = "<script>alert(1)</script>"


def test_bootstrap() -> None:
    """The width is that of the normal approximation."""
    hits = np.array([1.0] * 900 + [0.0] * 100)
    found = bootstrap(hits)
    width = 1.96 * np.sqrt(0.9 * 0.1 / 1000)
    assert found.mean == 0.9
    assert found.low == pytest.approx(0.9 - width, abs=0.003)
    assert found.high == pytest.approx(0.9 + width, abs=0.003)
    assert bootstrap(hits) == found
    losses = np.random.default_rng(0).normal(5, 2, 400)
    found = bootstrap(losses)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 2 / np.sqrt(400), rel=0.15)
    assert np.isnan(bootstrap([]).mean)


def test_results_by_class_and_calibration() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = 2 * torch.randn(300, 4, generator=generator)
    target = torch.where(torch.rand(300, generator=generator) < 0.6, outputs.argmax(dim=1), torch.zeros(()).long())
    wanted = precision_recall_fscore_support(target, outputs.argmax(dim=1), labels=range(4))
    found = by_class(outputs, target, ["a", "b", "c", "d"])
    np.testing.assert_allclose([(one.precision, one.recall, one.f1, one.samples) for one in found], np.transpose(wanted))
    bins, error = calibration(outputs, target)
    theirs = multiclass_calibration_error(outputs.softmax(dim=1), target, num_classes=4, n_bins=15, norm="l1")
    assert error == pytest.approx(float(theirs), abs=1e-6)
    assert sum(one.count for one in bins) == 300


def test_samples_that_were_left_out() -> None:
    """Counted, with the first reasons; as text."""
    shown = data_section({}, {}, left_out=[f"row {number}: {HOSTILE}" for number in range(130)])
    assert "Left out: 130 samples" in shown
    assert "row 99: &lt;script&gt;" in shown
    assert "… and 30 more" in shown
    assert "row 100" not in shown
    assert "Left out" not in data_section({}, {})


def test_text_stays_text() -> None:
    made = page(HOSTILE, HOSTILE, {HOSTILE: table([HOSTILE], [[HOSTILE, 1234, 0.5, float("nan")]]), "empty": ""})
    assert "<script" not in made
    assert made.count("&lt;script&gt;") >= 5
    assert ">1,234<" in made
    assert "empty" not in made


def test_curves(tmp_path: Path) -> None:
    """Rows of one epoch are joined, the last value counts, and what is no number is skipped."""
    file = tmp_path / "metrics.csv"
    file.write_text("epoch,step,train/loss,val/loss,test/loss\n0,1,,2.0,\n0,1,3.0,,\n1,2,,1.0,\n1,2,x,0.5,\n,3,1,1,9\n")
    assert curves_of(file) == {"val/loss": [(1.0, 2.0), (2.0, 0.5)], "train/loss": [(1.0, 3.0)]}
    assert curves_of(tmp_path / "missing.csv") == {}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a tested model whose class is called like a script."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "csv").mkdir()
    (folder / "csv" / "metrics.csv").write_text("epoch,step,train/loss,val/loss\n0,1,2.0,2.5\n1,2,1.0,2.0\n")
    items = [Sample(inputs={"image": torch.randn(3, 9, 8)}, target=number % 3, id=str(number)) for number in range(9)]
    loader: Any = DataLoader(items, batch_size=4, collate_fn=Collate(modalities={"image": {"kind": "image"}}))  # type: ignore[arg-type]
    task = Task(model=model("image"), objective=classification(num_classes=3), optimizer=partial(torch.optim.SGD, lr=0.1))
    report = Report(directory=folder)
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(accelerator="cpu", callbacks=[report], enable_checkpointing=False, default_root_dir=folder, **quiet)
    [metrics] = trainer.test(task, loader, verbose=False)
    target = {"kind": "classes", "names": [HOSTILE, "dog", "owl"], "counts": [3, 3, 3]}
    spec = {"modalities": {"image": {"kind": "image", "shape": [3, None, None]}}, "target": target}
    config = {"spec": spec, "data": {"root": "/data"}, "model": {"head": 1}}
    report.write(trainer, config, {**metrics, "parameters": 5, "seconds": 1.5, "best_epoch": 1, "epochs": 2})
    assert (folder / "figures" / "learning_curves.png").stat().st_size > 1000
    assert (folder / "figures" / "calibration_test.png").stat().st_size > 1000
    return (folder / "report.html").read_text()


def test_report(written: str) -> None:
    headings = re.findall("<h2>(.*?)</h2>", written)
    assert headings == [
        *("Results", "Learning curves", "Classes", "Calibration", "Data", "Model", "Cost", "Configuration", "Versions"),
    ]
    for words in ("adapters.image", "Estimated FLOPs", "perceiver.load(", "peak memory, GB", "95% interval", "torch"):
        assert words in written
    assert re.search(r"<td>accuracy</td><td class=\"number\">[\d.]+</td><td>[\d.]+ to [\d.]+</td>", written)


def test_report_needs_no_network(written: str) -> None:
    assert "<script" not in written
    assert "&lt;script&gt;" in written
    assert not re.findall(r"(?:src|href)=\"(?!data:image/png;base64,|#)", written)
    assert "http" not in written.replace("http-equiv", "")


def test_an_error_is_a_warning(tmp_path: Path) -> None:
    report = Report(directory=tmp_path)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.warns(UserWarning, match=r"report\.html is left out: ValueError"):
        report.write(trainer, {}, {"test/accuracy": "none"})
    assert not (tmp_path / "report.html").exists()
