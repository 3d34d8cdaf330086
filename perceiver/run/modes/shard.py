"""mode=shard: pack a manifest or `data=hf`, its files and training statistics, into shards for `data=shards`."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from perceiver.data import DataModule
from perceiver.data.manifest import Manifest
from perceiver.data.manifest.rows import ManifestRows
from perceiver.data.shards import write_shards
from perceiver.run.assembly.data import make_data
from perceiver.run.configuration.command_line import typed_override


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Writes the splits of `data`, a manifest or `data=hf`, into shards; the same command resumes after an interruption.

    Args:
        shards: target folder.

    Raises:
        ValueError: no folder is given.
    """

    shards: str | None

    def __post_init__(self) -> None:
        if self.shards is None:
            raise ValueError("mode=shard: expected an output folder, shards=DIR; got none.")

    def run(self, config: DictConfig) -> None:
        """Write the shards; ValueError if the data has no rows, or as in `write_shards`."""
        data = make_data(config.data)
        if not isinstance(data, DataModule) or not isinstance(data.source, Manifest):
            given = data.source if isinstance(data, DataModule) else data
            raise ValueError(
                f"mode=shard: expected data=manifest data.manifest=FILE or data=hf data.path=DIR, got "
                f"{type(given).__name__}, which cannot be packed into shards."
            )
        data.prepare_data()
        data.setup("fit")
        names = ("train", "val", "test") if data.source.has_test else ("train", "val")
        splits = {name: data.split(name) for name in names}
        if not all(isinstance(split, ManifestRows) for split in splits.values()):
            raise ValueError(
                "mode=shard: expected data.streaming=false, since shards are written in a random order; got true."
            )
        settings = OmegaConf.to_container(config.data, resolve=True)
        assert isinstance(settings, dict)
        source = {str(key): value for key, value in settings.items() if key not in _IRRELEVANT}
        written = write_shards(
            splits,
            spec=data.spec,
            folder=str(self.shards),
            source=source,
            num_workers=data.num_workers,
            seed=data.source.split_seed,
        )
        shards = sum(-(-count // written.rows_per_shard[name]) for name, count in written.samples.items() if count)
        counts = ", ".join(f"{count:,} {name}" for name, count in written.samples.items())
        sys.stdout.write(f"{written.path}: {counts} samples in {shards} shards, counts verified\n")
        sys.stdout.write(f"train from them with data=shards {typed_override('data.shards', written.path)}\n")


_IRRELEVANT = ("_target_", "batch_size", "num_workers", "check_files", "balanced_sampling", "needs_test")
"""Settings of a manifest that do not change the content of its shards."""
