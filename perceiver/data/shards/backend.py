"""`litdata`, which writes and streams shards; the rest of the package works where it is not installed."""

import os
from typing import Any


def litdata() -> Any:
    """The module, with settings under which every sample is seen once, and nothing is asked of the network.

    Raises:
        ImportError: it is not installed; says what to install.
    """
    # Read when it is imported: it would ask the package index for a newer version of itself.
    os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")
    # It would take fewer workers than asked for where memory is short, so that ranks differ.
    os.environ.setdefault("LITDATA_POSIX_MAX_WORKERS", "0")
    try:
        import litdata
    except ImportError as error:
        raise ImportError("shards need litdata: pip install 'perceiver-multimodal[shards]' (or litdata alone).") from error
    return litdata
