"""Files compressed with gzip, decompressed in bounded memory: a small file may expand to a thousand times its size."""

import gzip
import zlib
from pathlib import Path

_BLOCK = 2**20
_ALWAYS, _FACTOR, _MOST = 2**26, 200, 2**31


def read_gzip(path: Path, *, max_bytes: int | None = None) -> bytes:
    """Return the decompressed content of a `.gz` file.

    Args:
        path: path of the file.
        max_bytes: size limit of the content. None: 200 times the size of the file, but at least 64 MiB and at most 2 GiB;
            tables rarely compress better than that.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged or truncated, or expands beyond the limit.
    """
    size = path.stat().st_size
    limit = min(max(_ALWAYS, _FACTOR * size), _MOST) if max_bytes is None else max_bytes
    blocks: list[bytes] = []
    total = 0
    try:
        with gzip.open(path) as file:
            while block := file.read(min(_BLOCK, limit + 1 - total)):
                blocks.append(block)
                total += len(block)
                if total > limit:
                    raise ValueError(
                        f"{path}: expands from {size:,} to more than {limit:,} bytes. If you trust it, decompress it first, "
                        "or raise data.max_decompressed_bytes."
                    )
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: is damaged or truncated: {error}. Copy or download it once more.") from error
    return b"".join(blocks)
