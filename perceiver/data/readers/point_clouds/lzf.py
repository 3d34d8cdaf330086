"""Decompression of LZF, the compression of binary PCD files.

Source of the format: Marc Lehmann's liblzf 3.6, `lzf_d.c`.
"""

MOST_EXPANSION = 264 / 3
"""Largest factor by which LZF expands: three bytes stand for a copy of at most 264 bytes."""


def decompressed(data: bytes, *, size: int) -> bytearray:
    """Decompress `data` to exactly `size` bytes.

    Raises:
        ValueError: the data is damaged, or expands to another size.

    Examples:
        >>> from perceiver.data.readers.point_clouds.lzf import decompressed
        >>> bytes(decompressed(bytes([1]) + b"ab" + bytes([0x40, 1]), size=6))
        b'ababab'
    """
    out = bytearray()
    position, end = 0, len(data)
    while position < end and len(out) <= size:
        control = data[position]
        position += 1
        if control < 32:  # literal bytes
            out += data[position : position + control + 1]
            position += control + 1
            continue
        length = control >> 5
        needed = 2 if length == 7 else 1
        if position + needed > end:
            raise ValueError("its last copy is not whole")
        if length == 7:
            length += data[position]
            position += 1
        begins = len(out) - ((control & 31) << 8) - data[position] - 1
        position += 1
        length += 2
        if begins < 0:
            raise ValueError("a copy begins before the data")
        piece = out[begins : begins + length]
        # A copy may overlap the bytes that it makes.
        out += piece if len(piece) == length else (piece * (length // len(piece) + 1))[:length]
    if position != end or len(out) != size:
        raise ValueError(f"expected {size:,} bytes, got {'more' if len(out) > size else f'{len(out):,}'}")
    return out
