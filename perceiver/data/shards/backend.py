"""`litdata`, which writes and streams shards; the rest of the package works without it."""

import os
from typing import Any


def litdata() -> Any:
    """Import litdata with settings that visit every sample once and avoid the network.

    Raises:
        ImportError: litdata is not installed; the message names the package to install.
    """
    # Read on import: without it, litdata would query the package index for a newer version.
    os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")
    # With little memory, litdata would use fewer workers than requested, and ranks could differ.
    os.environ.setdefault("LITDATA_POSIX_MAX_WORKERS", "0")
    try:
        import litdata
    except ImportError as error:
        raise ImportError("shards need litdata: pip install 'perceiver-multimodal[shards]' (or litdata alone).") from error
    return litdata
