"""NumPy array files. The header is checked against the file size before memory is allocated."""

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray


def read_array(file: Path | io.BytesIO, *, mapped: bool = False) -> NDArray[Any]:
    """Read an array from a `.npy` file or its content.

    Args:
        file: a path, or the content.
        mapped: memory-map the file, so that only accessed parts are read.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not an array, holds Python objects, or is shorter than its header claims.
    """
    array: NDArray[Any]
    if isinstance(file, Path):
        with file.open("rb") as stream:
            _check_header(stream, size=os.fstat(stream.fileno()).st_size)
        array = np.load(file, allow_pickle=False, mmap_mode="r" if mapped else None)
    else:
        file.seek(0)
        _check_header(file, size=file.getbuffer().nbytes)
        file.seek(0)
        array = np.load(file, allow_pickle=False)
    return array


def _check_header(stream: Any, *, size: int) -> None:
    try:
        version = npy.read_magic(stream)
        # Later versions differ only in the encoding of field names, which arrays of numbers do not have.
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
    except OSError:
        raise
    except Exception as error:  # a header is parsed as a Python literal, which can fail in many ways
        raise ValueError(f"not an array written by NumPy: {error}") from error
    if dtype.hasobject:
        raise ValueError("it contains Python objects, not numbers")
    if any(length < 0 for length in shape):
        raise ValueError(f"its header claims the shape {shape}")
    claimed, available = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if claimed > available:
        raise ValueError(f"its header claims {dtype} {shape}, {claimed:,} bytes, but only {available:,} follow")
