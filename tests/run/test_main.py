"""The command line before anything runs; tests/end_to_end/test_train.py has the rest."""

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

import perceiver
from perceiver.run.main import conf_directory


@pytest.fixture
def installed(tmp_path: Path, repository: Path) -> Iterator[Path]:
    """A package as a wheel lays it out: conf/ beside the modules, no clone around it."""
    package = tmp_path / "perceiver"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "conf").symlink_to(repository / "conf")
    with mock.patch.object(perceiver, "__file__", str(package / "__init__.py")):
        yield package


def test_an_installed_package_finds_its_configuration(installed: Path) -> None:
    assert conf_directory() == installed / "conf"


def test_a_clone_finds_its_configuration(repository: Path) -> None:
    assert conf_directory() == repository / "conf"


def test_without_configuration_the_installation_is_incomplete(tmp_path: Path) -> None:
    package = tmp_path / "perceiver" / "__init__.py"
    with mock.patch.object(perceiver, "__file__", str(package)), pytest.raises(FileNotFoundError, match="reinstall"):
        conf_directory()
