"""Notebooks run from end to end without network, and are committed without outputs."""

import re
from collections.abc import Mapping
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from warm_process import command

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


class Kernel(AsyncKernelManager):
    """Starts kernels that have imported torch and Lightning."""

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        """The command line."""
        return command(*super().format_kernel_cmd(extra_arguments)[1:])


def executed(
    path: Path, *, folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch, until: str = "", least_figures: int = 4,
    smaller: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """Run the cells in `folder`, those before a heading or all, with data sets looked for in `data`; what they print.

    `smaller` replaces settings, each of which occurs once.
    """
    # Child processes read these.
    monkeypatch.setenv("PERCEIVER_DATA", str(data))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(path.parents[1]))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(path, as_version=4)
    if until:
        (end,) = [number for number, cell in enumerate(notebook.cells) if cell.source.startswith(f"## {until}")]
        del notebook.cells[end:]
    for old, new in (smaller or {}).items():
        [cell] = [cell for cell in notebook.cells if old in cell.source]
        cell.source = cell.source.replace(old, new)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        kernel_manager_class=Kernel,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) >= least_figures, "the figures are shown"
    warned = [output["text"] for output in outputs if output.get("name") == "stderr"]
    # tqdm's, about a progress bar that nobody shows.
    assert [text for text in warned if "IProgress" not in text] == []
    return "\n".join(output["text"] for output in outputs if output.get("name") == "stdout")


@pytest.mark.slow
def test_words_are_aligned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With trainings of a few steps: what the whole ones reach takes a minute."""
    [path] = [path for path in NOTEBOOKS if path.stem == "words"]
    smaller = {
        "epochs=12": "epochs=2", "epochs=14": "epochs=1", "range(4000)": "range(800)", '"train", 3000': '"train", 100',
        '"test", 300': '"test", 20',
    }  # fmt: skip
    printed = executed(
        path, folder=tmp_path, data=tmp_path / "absent", monkeypatch=monkeypatch, smaller=smaller, least_figures=2
    )
    assert "whole captions right" in printed


@pytest.mark.slow
def test_images_are_drawn_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a training of a few steps: what the whole one reaches takes most of a minute."""
    [path] = [path for path in NOTEBOOKS if path.stem == "text_to_image"]
    smaller = {"EPOCHS = 40": "EPOCHS = 1", "epochs=12": "epochs=1", "num_samples=128": "num_samples=8"}
    printed = executed(path, folder=tmp_path, data=tmp_path / "absent", monkeypatch=monkeypatch, smaller=smaller)
    assert "distance to the nearest training image" in printed


@pytest.mark.slow
def test_names_find_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a shorter training; a pair that is not trained is above chance."""
    [path] = [path for path in NOTEBOOKS if path.stem == "retrieval"]
    absent = tmp_path / "absent"
    smaller = {"max_epochs=12": "max_epochs=6"}
    printed = executed(path, folder=tmp_path, data=absent, monkeypatch=monkeypatch, smaller=smaller, least_figures=2)
    (accuracy,) = re.findall(r"accuracy (\d+\.\d)%", printed)
    assert float(accuracy) > 20, "of ten digits"


OWN_TESTS = ("words", "retrieval", "text_to_image")
SMALLER = {
    "quickstart": {'"trainer.max_epochs=10"': '"trainer.max_epochs=6"'},
    "add_a_modality": {"max_epochs=12": "max_epochs=8"},
}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem == "audio_and_points" else [])
        for path in NOTEBOOKS
        if path.stem not in OWN_TESTS
    ],
)
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smaller = SMALLER.get(path.stem)
    printed = executed(path, folder=tmp_path, data=tmp_path / "absent", monkeypatch=monkeypatch, smaller=smaller)
    accuracies = [float(share) for share in re.findall(r"accuracy (\d+\.\d)%", printed)]
    assert accuracies
    assert min(accuracies) > 80, printed


@pytest.mark.slow
def test_sound_of_real_speech(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (data_root / "free-spoken-digit-dataset" / "recordings").is_dir():
        pytest.skip(f"no free-spoken-digit-dataset/recordings in {data_root}; set PERCEIVER_DATA to its folder")
    [path] = [path for path in NOTEBOOKS if path.stem == "audio_and_points"]
    printed = executed(path, folder=tmp_path, data=data_root, monkeypatch=monkeypatch, until="Point sets", least_figures=3)
    (accuracy,) = re.findall(r"accuracy (\d+\.\d)%", printed)
    assert float(accuracy) > 50, "of ten digits, after some seconds"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_clean(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs"), "commit without outputs"
        assert cell.get("execution_count") is None
        assert not re.search(r"[\"' =(](/[a-z]+/|[A-Z]:\\)", cell.source), f"an absolute path in {cell.source}"
