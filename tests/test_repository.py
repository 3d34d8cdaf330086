"""What holds for the whole repository: style, types, direction of imports, licence."""

import re
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent


def succeeds(*command: str | Path, cwd: Path) -> None:
    """Runs a command; fails with what it printed unless it exits with 0."""
    finished = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert finished.returncode == 0, f"{command}\n{finished.stdout}\n{finished.stderr}"


def test_ruff(repository: Path) -> None:
    succeeds(sys.executable, "-m", "ruff", "check", ".", cwd=repository)


def test_types_are_strict(repository: Path) -> None:
    succeeds(sys.executable, "-m", "mypy", cwd=repository)


def test_imports_point_one_way(repository: Path) -> None:
    succeeds(BIN / "lint-imports", "--no-cache", cwd=repository)


def test_files_that_contributing_names_are_there(repository: Path) -> None:
    """With `<name>` in them: at least one such file."""
    text = (repository / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`((?:benchmarks|conf|notebooks|perceiver|tests)/[^`]+)`", text))
    assert len(named) > 20
    missing = sorted(name for name in named if not list(repository.glob(re.sub(r"<\w+>", "*", name))))
    assert missing == []


def test_licence_is_declared(repository: Path) -> None:
    assert "Apache License" in (repository / "LICENSE").read_text()
    assert 'license = "Apache-2.0"' in (repository / "pyproject.toml").read_text()
