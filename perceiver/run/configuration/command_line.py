"""Command lines that run a single job, derived from Hydra's configuration: for its other ranks, and for people to type.

`sys.argv` is unsuitable: in a sweep it is that of the whole sweep, and in a launcher's processes that of the launcher.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from perceiver.run.configuration.folder import MAIN_FILE, conf_directory

PROGRAM = "PERCEIVER_PROGRAM"
"""Environment variable with the program for further ranks of a launched process: a script, or `-m` and a module."""

_OF_PACKAGE = "-m perceiver.run.main"
# Settings that differ, or are absent, when a job runs alone.
_OF_DIRECTORIES = ("hydra.mode", "hydra.run.", "hydra.sweep.", "hydra.job.", "hydra.output_subdir", "hydra/job_logging")
# Choices of the sweep itself, which would start another sweep.
_OF_SWEEPS = ("hparams_search", "cluster")

_FIGURES = re.compile(
    r"^([+~]*callbacks)\.(samples|attention|attention_modalities|autoencoding|fields|filled_in|reconstruction|segmentations)"
    r"(?:\.(draw|every_n_epochs))?(?=[.=]|$)"
)
# Values with commas are sweeps over several.
_ADAPTER = re.compile(r"^\+{0,2}adapter@(model\.adapters\.\w+)=")
_HOME = re.compile(r"(\+*[\w./@-]+=)(~(?:/[^,]*)?)")


def remember_program() -> None:
    """Record the program of this process for itself and its children. Launchers pass the environment on."""
    main = sys.modules["__main__"]
    module = None if main.__spec__ is None else main.__spec__.name
    os.environ[PROGRAM] = f"-m {module}" if module else str(Path(sys.argv[0]).resolve())


def rank_command(hydra: DictConfig, directory: Path) -> list[str]:
    """Return the command of another rank of a job: a sweep's values for this job, in RUN mode, in its run directory.

    Args:
        hydra: the `hydra` node of the job's configuration.
        directory: the run directory.
    """
    program = os.environ.get(PROGRAM, _OF_PACKAGE)
    overrides = hydra.overrides
    kept = [override for override in overrides.hydra if not override.lstrip("+~").startswith(_OF_DIRECTORIES)]
    kept += [f"hydra.job.num={hydra.job.num}"] if is_job_of_sweep(hydra) else []
    return [
        sys.executable,
        *(program.split(" ", 1) if program.startswith("-m ") else [program]),
        *_configuration_flags(hydra),
        *overrides.task,
        *kept,
        "hydra.mode=RUN",
        f"hydra.run.dir={quoted(str(directory.absolute()))}",
        "hydra.output_subdir=null",
        "hydra/job_logging=none",
    ]


def is_job_of_sweep(hydra: Any) -> bool:
    """Whether a job is one of a sweep: Hydra numbers only those, and their other ranks keep the number.

    Args:
        hydra: the `hydra` node of the job's configuration.
    """
    return OmegaConf.select(hydra, "job.num", default=None) is not None


def typed_command(hydra: DictConfig, overrides: Sequence[str]) -> str:
    """Return the command, quoted for a shell, that runs a job of a sweep alone.

    Args:
        hydra: the `hydra` node of the sweep's configuration.
        overrides: overrides of the job.
    """
    program = Path(sys.argv[0])
    words = ["python", sys.argv[0]] if program.suffix == ".py" else [program.name]
    words += _configuration_flags(hydra)
    words += [word for word in hydra.overrides.hydra if override_key(word) == "hydra.searchpath"]
    words += [word for word in overrides if override_key(word) not in _OF_SWEEPS]
    return shlex.join(words)


def typed_override(key: str, value: str | Path) -> str:
    """Return `KEY=VALUE` to type into a shell, quoted for Hydra's grammar and for the shell as far as necessary."""
    text = str(value)
    try:
        plain = OverridesParser.create().parse_override(f"{key}={text}").value() == text
    except HydraException:
        plain = False
    return shlex.quote(f"{key}={text if plain else quoted(text)}")


def quoted(text: str) -> str:
    """Return a string quoted for Hydra's grammar, where backslashes are special only before a quote."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + (r"\'" if found[2] else ""), text) + "'"


def present_override(override: str) -> str:
    """Return the current spelling of an override of the command line: each figure used to be a separate callback.

    The home folder `~` is expanded, since no shell does so behind `=`, and Hydra's grammar refuses it.

    >>> present_override("callbacks.samples=null")
    'callbacks.figures.draw.samples=null'
    """
    home = _HOME.fullmatch(override)
    if home is not None:
        return home[1] + quoted(os.path.expanduser(home[2]))
    found = _FIGURES.match(override)
    if found is None:
        return override
    key = f"{found[1]}.figures.every_n_epochs" if found[3] == "every_n_epochs" else f"{found[1]}.figures.draw.{found[2]}"
    return key + override[found.end() :]


def of_adapters(words: Sequence[str]) -> list[str]:
    """Return the overrides with `adapter.KEY` as the key of the adapter that was chosen last before it.

    >>> of_adapters(["adapter@model.adapters.photo=timm", "adapter.model_name=resnet18"])
    ['adapter@model.adapters.photo=timm', 'model.adapters.photo.model_name=resnet18']
    """
    place, found = "", []
    for word in words:
        if chosen := _ADAPTER.match(word):
            place = chosen[1]
        found.append(re.sub(r"^(\+{0,2})adapter\.", rf"\1{place}.", word) if place else word)
    return found


def with_new_adapters(words: Sequence[str], error: Exception) -> list[str] | None:
    """Return the overrides with `+` before the choice of an adapter that no default mounts, after Hydra's error about it.

    None: the error is another one.
    """
    unknown = re.search(r"Could not override '(adapter@model\.adapters\.\w+)'", str(error))
    if unknown is None:
        return None
    changed = [f"+{word}" if word.startswith(f"{unknown[1]}=") else word for word in words]
    return None if changed == [*words] else changed


def override_key(override: str) -> str:
    """Return the key of an override: `optimizer.lr` for `optimizer.lr=1e-3`."""
    return override.split("=", 1)[0]


def _configuration_flags(hydra: DictConfig) -> list[str]:
    """Return the flags for configuration folders and the main file that were given on the command line."""
    flags = []
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            flags += ["--config-dir", source.path]
        elif source.provider == "main" and Path(source.path) != conf_directory():
            flags += ["--config-path", source.path]
    if hydra.job.config_name not in (None, MAIN_FILE):
        flags += ["--config-name", hydra.job.config_name]
    return flags
