"""The library `datasets`; the rest of the package works without it."""

from typing import Any


def datasets() -> Any:
    """Import `datasets`.

    Raises:
        ImportError: it is not installed, or its version would run loading scripts.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError("data=hf needs datasets: pip install 'perceiver-multimodal[data]' (or datasets alone).") from error
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise ImportError(
            f"data=hf needs datasets 4 or later, which runs no loading scripts, got {datasets.__version__}: "
            "pip install -U datasets."
        )
    return datasets
