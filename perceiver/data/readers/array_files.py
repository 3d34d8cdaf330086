"""NumPy's array files, whose header is held against the size of the file before memory is set aside for it."""

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray


def read_array(file: Path | io.BytesIO, *, mapped: bool = False) -> NDArray[Any]:
    """The array of a `.npy` file or of its content.

    Args:
        file: a path, or the content.
        mapped: map a file, which reads only what is used of it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not an array, holds Python objects, or has less than its header claims.
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
        # Later versions differ in the encoding of names of fields, which arrays of numbers have not.
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
    except OSError:
        raise
    except Exception as error:  # a header is parsed as a Python literal, which can fail in many ways
        raise ValueError(f"it is not an array that NumPy wrote: {error}") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects, not numbers")
    if any(length < 0 for length in shape):
        raise ValueError(f"its header claims the shape {shape}")
    claimed, there = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if claimed > there:
        raise ValueError(f"its header claims {dtype} {shape}, {claimed:,} bytes, but only {there:,} follow")
