"""The data group that a checkpoint was trained with, so that `mode=predict ckpt_path=RUN_DIR` need not repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perceiver.run.configuration.yaml_file import read_text_at


def data_of_checkpoint(arguments: Sequence[str], conf: Path) -> str | None:
    """Return `data=NAME` for a command line that predicts or embeds without a data group; None: not needed.

    The run directory's configuration names the class of its data module. This is only compared with the classes of the
    shipped data groups; no class named by that file is run.

    Args:
        arguments: command-line arguments.
        conf: the folder of the shipped configuration.
    """
    given = dict(word.split("=", 1) for word in arguments if "=" in word)
    if given.get("mode") not in ("predict", "embed") or "data" in given or "experiment" in given or "ckpt_path" not in given:
        return None
    if "data.manifest" in given:
        return "data=manifest"  # whatever data it was trained on, possibly shards
    if "data.path" in given:
        return "data=hf"
    path = Path(given["ckpt_path"].strip("'\""))
    run = path if path.is_dir() else path.parent.parent
    if (run / "fold_0" / "config.yaml").is_file() and not (run / "config.yaml").exists():
        run = run / "fold_0"  # of a cross-validation
    config = run / "config.yaml"
    target = _target(config, "data", "_target_")
    for file in sorted((conf / "data").glob("*.yaml")):
        if target is not None and _target(file, "_target_") == target:
            return f"data={file.stem}"
    return None


def _target(file: Path, *keys: str) -> str | None:
    """Return the unresolved value of a key in a YAML file; None if the file or the key is missing."""
    # Imported here: its package brings in torch, which `--help` and a mistyped override need not wait for.
    from perceiver.checkpoints.moved import present_name

    try:
        text = read_text_at(file, *keys)
        return None if text is None else present_name(text)
    except (OSError, ValueError):  # the run itself reports faults of the file better
        return None
