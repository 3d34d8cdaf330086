"""The wheel: an installed package works without a clone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A folder with the unpacked wheel, as pip lays it out."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=repository, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_wheel_carries_configuration_kernel_source_and_command(installed: Path, repository: Path) -> None:
    shipped = {path.relative_to(repository / "conf") for path in (repository / "conf").rglob("*.yaml")}
    carried = installed / "perceiver/conf"
    assert {path.relative_to(carried) for path in carried.rglob("*.yaml")} == shipped
    native = {path.name for path in (repository / "perceiver/attention/kernels/native").glob("*.[ch]")}
    assert {path.name for path in (installed / "perceiver/attention/kernels/native").glob("*.[ch]")} == native != set()
    assert (installed / "perceiver/py.typed").is_file()
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    commands = entry_points.read_text()
    for command, module in (("train", "run"), ("serve", "serving"), ("demo", "serving.demo")):
        assert f"perceiver-{command} = perceiver.{module}.main:main" in commands
    assert not (installed / "tests").exists()


def test_installed_command_finds_its_configuration(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", "from perceiver.run.main import main; main()", "--cfg", "job", "experiment=mnist"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "perceiver.data.MNIST" in done.stdout
