"""Errors as users see them: one line on stderr with the remedy, and the traceback in a file."""

from __future__ import annotations

import difflib
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from perceiver.run.configuration.command_line import typed_override
from perceiver.run.exceptions import FULL_ERROR, LostRankError, RankDiedError, TrainingStopped
from perceiver.runtime.files import FULL, DiskFullError
from perceiver.runtime.process_rank import process_rank

# Their messages are complete sentences; those of other types need the name of the type.
_SELF_EXPLANATORY = (
    ValueError, OSError, FloatingPointError, RankDiedError, LostRankError, HydraException, OmegaConfBaseException,
)  # fmt: skip

_LONGEST = 600  # characters printed of a message from another package; the traceback holds all of it

# Sweepers and launchers that need an extra of this package, by their place in the configuration.
_EXTRAS = {
    "hydra/sweeper/optuna": "sweep",
    "hydra/sweeper/sampler": "sweep",
    "hydra/launcher/joblib": "cluster",
    "hydra/launcher/submitit_local": "cluster",
    "hydra/launcher/submitit_slurm": "cluster",
}


def report_error(error: Exception, *, directory: Path | None, conf: Path | None = None) -> None:
    """Print `error: …` and the path of the traceback to stderr, or the whole traceback if the user set HYDRA_FULL_ERROR=1.

    Args:
        error: the exception raised.
        directory: the run directory, which gets `error.log` from rank 0 and `error.rankN.log` from rank N; None before
            the directory is known.
        conf: the configuration folder, for suggestions about mistyped overrides.
    """
    rank = process_rank()
    where, log = (f" on rank {rank}", f"error.rank{rank}.log") if rank else ("", "error.log")
    lines = [f"error{where}: {one_line(error)}"]
    if conf is not None and (hint := suggestion(str(error), conf)):
        lines[0] += f" {hint}"
    text = "".join(traceback.format_exception(error))
    saved = directory is not None and _save(text, directory / log)
    if _is_of_processes(error):
        _silence_incomplete_loaders()
    if os.environ.get(FULL_ERROR) == "1":
        lines.append(text)
    elif saved:
        lines.append(f"full traceback: {directory}/{log}")
    else:
        lines.append("full traceback: run again with HYDRA_FULL_ERROR=1")
    _to_stderr("\n".join(lines))


def warn(text: str) -> None:
    """Print a one-line warning to stderr, in the first process only."""
    if process_rank() == 0:
        _to_stderr(f"warning: {' '.join(text.split())}")


def interrupted(directory: Path) -> None:
    """Print which checkpoint an interrupted run has kept, and how to continue."""
    last = directory / "checkpoints" / "last.ckpt"
    if last.is_file():
        again = typed_override("ckpt_path", directory)
        _to_stderr(f"interrupted: {last} is kept; continue with the same overrides and {again}")
    else:
        _to_stderr("interrupted before the end of the first epoch: no checkpoint has been written")


def stopped(stop: TrainingStopped, directory: Path) -> None:
    """Print which checkpoint a cleanly stopped run has written, and how to continue."""
    if stop.first_process:
        _to_stderr(stop.message(directory))


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line, prefixed with its type unless self-explanatory."""
    if unknown := re.match(r"Error locating target '([^']+)'(?:.*full_key: (\S+))?", str(error), flags=re.DOTALL):
        place = f" (at {unknown.group(2)})" if unknown.group(2) else ""
        return f"_target_={unknown.group(1)}{place}: no such class or function; check the name and its package."
    error = _innermost(error)
    if extra := _missing_extra(error):
        return extra
    if isinstance(error, ValueError) and str(error) == "No trials are completed yet.":  # Optuna's, after the last trial
        return (
            "all trials of the search failed; their errors are above, and in error.log of each trial's directory. "
            "Fix one trial without hparams_search, then search again."
        )
    if isinstance(error, RuntimeError) and "DataLoader" in str(error):
        from perceiver.data.loading.shared_memory import explained  # brings in torch, as does this error

        if meaning := explained(f"{error} {error.__cause__ or ''}"):
            return meaning
    if isinstance(error, OSError) and error.errno in FULL and not isinstance(error, DiskFullError):
        if error.filename is None and _is_of_processes(error):
            from perceiver.data.loading.shared_memory import cannot_start

            return cannot_start()
        place = error.filename or "a file of the run directory"
        return (
            f"no space left on the device while writing {place}. Free some space, or set hydra.run.dir=DIR on another disk."
        )
    message = str(error)
    if isinstance(error, HydraException):
        message = _without_search_path(message)
    elif isinstance(error, OmegaConfBaseException):
        message = _without_wrapping(message)
    message = " ".join(message.split())
    if isinstance(error, _SELF_EXPLANATORY) and message:
        return message
    if len(message) > _LONGEST:
        message = f"{message[:_LONGEST]} …"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def suggestion(message: str, conf: Path) -> str:
    """Return `Did you mean …?` for a mistyped key or option in one of Hydra's messages, else an empty string."""
    if option := re.search(r"Could not find '([\w./-]+)'", message):
        group, _, name = option.group(1).rpartition("/")
        known = sorted(path.stem for path in (conf / group).glob("*.yaml"))
        close = difflib.get_close_matches(name, known, n=1)
        return f"Did you mean {group}={close[0]}?" if close else ""
    if key := re.search(r"Could not override '([\w./@-]+)'", message):
        if modes := _modes_with(key.group(1), conf):
            return f"It belongs to mode={' and mode='.join(modes)}."
        close = difflib.get_close_matches(key.group(1), _known_keys(conf), n=1, cutoff=0.75)
        return f"Did you mean {close[0]}?" if close else ""
    return ""


def _missing_extra(error: BaseException) -> str:
    """Return installation advice if an error is about a sweeper or launcher that needs an extra, else an empty string."""
    if isinstance(error, HydraException):
        for place, extra in _EXTRAS.items():
            if f"'{place}" in str(error) and re.search(r"Could not (find|override|load)", str(error)):
                return (
                    f"{place}: this sweeper or launcher is not installed. It needs the extra '{extra}': pip install "
                    f"'perceiver-multimodal[{extra}]' (in a clone: pip install -e '.[{extra}]')."
                )
    return ""


def _without_search_path(message: str) -> str:
    """Return Hydra's message without the search path, with its lists and parts separated by punctuation."""
    message = re.sub(r"^In '[^']*':\s*|\n\s*Config search path:.*", "", message, flags=re.DOTALL)
    message = re.sub(r"\.?\n\s*(?=Available options|To append)", ". ", message.strip())
    options = re.search(r"(Available options in '[^']*':)(.*)", message, flags=re.DOTALL)
    if options:
        message = message[: options.start()] + f"{options.group(1)} {', '.join(options.group(2).split())}"
    return message if message.endswith((".", "?")) else message + "."


def _without_wrapping(message: str) -> str:
    """Return OmegaConf's message without the type of the wrapped error, then the key unless the message contains it."""
    message = re.sub(r"^\w+ raised while resolving interpolation: ", "", message)
    message, _, place = message.partition("\n    full_key: ")
    key = place.split("\n")[0]
    return message if not key or key in message or message.startswith("model.adapters.") else f"{message} (at {key})"


def _modes_with(key: str, conf: Path) -> list[str]:
    """Return the modes that define a key of the command line."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        names = sorted(file.stem for file in (conf / "mode").glob("*.yaml"))
        return [name for name in names if key.split(".")[0] in {*compose(f"mode/{name}")} - {"mode"}]


def _known_keys(conf: Path) -> list[str]:
    """Return every group, and every key of the configuration that the command line's group choices compose."""
    choices = [word for word in sys.argv[1:] if re.fullmatch(r"[a-z_]+=[\w-]+", word)]
    groups = [path.name for path in conf.iterdir() if path.is_dir() and path.name != "hydra"]
    choices = [word for word in choices if word.split("=")[0] in groups]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            config = compose("train", overrides=choices)
    except Exception:  # the command line has a second error: there are no keys to compare with
        return groups
    return groups + list(_keys(OmegaConf.to_container(config, resolve=False)))


def _keys(tree: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            name = f"{prefix}{key!s}"
            yield name
            yield from _keys(value, f"{name}.")


def _innermost(error: BaseException) -> BaseException:
    """Return the original exception, below the wrappers of Hydra and OmegaConf."""
    wrappers = (InstantiationException, OmegaConfBaseException)
    while isinstance(error, wrappers) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return error


def _is_of_processes(error: BaseException) -> bool:
    """Whether an error arose in multiprocessing, which keeps its semaphores in shared memory."""
    return any("multiprocessing" in frame.filename for frame in traceback.extract_tb(error.__traceback__))


def _silence_incomplete_loaders() -> None:
    """Silence PyTorch's complaint that an iterator whose creation failed cannot shut its processes down."""
    earlier = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if "_MultiProcessingDataLoaderIter" not in getattr(unraisable.object, "__qualname__", ""):
            earlier(unraisable)

    sys.unraisablehook = hook


def _save(text: str, path: Path) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError:  # most likely a full disk; the line on stderr must still be printed
        return False
    return True


def _to_stderr(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(text.rstrip("\n") + "\n")
    sys.stderr.flush()
