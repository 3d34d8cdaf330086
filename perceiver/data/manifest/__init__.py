"""Your own files listed in a manifest, a table with a row per sample."""

from perceiver.data.manifest.module import Manifest
from perceiver.data.manifest.rows import BadRowError
from perceiver.data.manifest.table import ManifestTable, read_table

__all__ = ["BadRowError", "Manifest", "ManifestTable", "read_table"]
