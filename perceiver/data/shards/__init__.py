"""Shards: the samples of a manifest, packed into a few large files for streaming with `litdata`."""

from perceiver.data.shards.errors import ShardError
from perceiver.data.shards.folder import ShardFolder
from perceiver.data.shards.module import Shards
from perceiver.data.shards.writing import write_shards

__all__ = ["ShardError", "ShardFolder", "Shards", "write_shards"]
