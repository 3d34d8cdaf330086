"""The folder of the shipped configuration."""

from __future__ import annotations

from pathlib import Path

import perceiver

MAIN_FILE = "train"
"""The primary configuration, without the file suffix."""


def conf_directory() -> Path:
    """Return the folder of the shipped configuration: inside the package when installed, beside the package in a clone.

    Raises:
        FileNotFoundError: neither folder exists; the installation is incomplete.
    """
    package = Path(perceiver.__file__).resolve().parent
    candidates = (package / "conf", package.parent / "conf")
    for candidate in candidates:
        if (candidate / f"{MAIN_FILE}.yaml").is_file():
            return candidate
    raise FileNotFoundError(f"train.yaml: not found; expected in {candidates[0]} or {candidates[1]}; reinstall the package.")
