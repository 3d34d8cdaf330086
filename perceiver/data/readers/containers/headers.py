"""Checks of the length in sound file headers against the file, because libsndfile either trusts or ignores it."""

import io
import struct

# By magic number: start of the chunks, bytes of a chunk's name, format of its size, alignment, name of the sample chunk.
_CHUNKS = {
    b"RIFF": (12, 4, "<I", 2, b"data"),
    b"RIFX": (12, 4, ">I", 2, b"data"),
    b"RF64": (12, 4, "<I", 2, b"data"),
    b"FORM": (12, 4, ">I", 2, b"SSND"),
    b"caff": (8, 4, ">q", 1, b"data"),
    b"riff": (40, 16, "<Q", 8, b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"),  # Sony Wave64
}
_MOST_CHUNKS = 1000


def samples_chunk(file: io.BufferedIOBase) -> tuple[int, int] | None:
    """Return where the samples of a file with chunks begin, and how many bytes its header claims for them.

    Return None if it is not such a file, or its header leaves the length open, as programs do that write to a pipe.
    A length of 0 is also such a placeholder, but decoders trust it.
    """
    file.seek(0)
    magic = file.read(4)
    if magic == b".snd":
        offset, claimed = struct.unpack(">II", file.read(8).ljust(8, b"\0"))
        return None if _is_placeholder(claimed) else (offset, claimed)
    if magic not in _CHUNKS:
        return None
    position, name_bytes, size_format, alignment, wanted = _CHUNKS[magic]
    size_bytes = struct.calcsize(size_format)
    long_size = None
    for _ in range(_MOST_CHUNKS):
        file.seek(position)
        header = file.read(name_bytes + size_bytes)
        if len(header) < name_bytes + size_bytes:
            return None
        name, claimed = header[:name_bytes], struct.unpack(size_format, header[name_bytes:])[0]
        begins = position + len(header)
        if magic == b"riff":
            claimed -= len(header)  # in this format, sizes include the chunk header
        if name == b"ds64":
            long_size = struct.unpack("<Q", file.read(16).ljust(16, b"\0")[8:])[0]
        if name == wanted:
            claimed = long_size if long_size is not None and claimed == 0xFFFFFFFF else claimed
            return None if claimed < 0 or (size_bytes == 4 and _is_placeholder(claimed)) else (begins, claimed)
        if claimed < 0:
            return None
        position = begins + claimed + -claimed % alignment
    return None


def with_open_length(content: bytes, begins: int) -> io.BytesIO | None:
    """Return a WAV file that claims no samples with a header that leaves their number open; None if it has no samples."""
    following = content[begins : begins + 8]
    # A chunk of tags is not sound.
    is_chunk = following[:4].isalnum() and begins + 8 + int.from_bytes(following[4:], "little") <= len(content)
    if content[:4] != b"RIFF" or not following or is_chunk:
        return None
    open_end = b"\xff\xff\xff\xff"
    return io.BytesIO(content[:4] + open_end + content[8 : begins - 4] + open_end + content[begins:])


_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255


def ogg_ends(file: io.BufferedIOBase, *, size: int) -> bool:
    """Return whether the last page of an Ogg file is complete and ends its stream."""
    file.seek(max(0, size - 2 * _LARGEST_OGG_PAGE))
    tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    length = 27 + page[26] + sum(page[27 : 27 + page[26]]) if len(page) > 26 else len(page) + 1
    return length <= len(page) and bool(page[5] & 4)


def _is_placeholder(claimed: int) -> bool:
    """Return whether a size is a placeholder: near the largest number of 31 or 32 bits, less headers and rounding."""
    return 0x7FFF0000 <= claimed <= 0x7FFFFFFF or claimed >= 0xFFFF0000


def most_values(file_bytes: int) -> int:
    """Return how many samples, of all channels together, a file may decode to.

    Compressed silence takes nearly no bytes: a small file could expand to all of the memory.
    """
    return max(2**28, 250 * file_bytes)


_BITRATES = {  # thousands of bits per second, of MPEG 1 and of MPEG 2 and 2.5, layer III
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # hertz, by MPEG version


def mp3_frames(content: bytes) -> tuple[int, int, bool]:
    """Return the start of an MP3 file's first frame, its number of whole frames, and whether a header states that number.

    Without such a header, decoders estimate the length from the first frame, which is wrong for variable bitrates.
    """
    position = 0
    if content[:3] == b"ID3":
        sizes = content[6:10].ljust(4, b"\0")
        position = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(sizes, (21, 14, 7, 0), strict=True))
    while position < len(content) and not (_frame_bytes(content, position) and _next_frame(content, position)):
        position = content.find(b"\xff", position + 1)
        if position < 0:
            return 0, 0, False
    first, count = position, 0
    while (length := _frame_bytes(content, position)) and position + length <= len(content):
        count, position = count + 1, position + length
    head = content[first : first + 64]
    return first, count, any(word in head for word in (b"Xing", b"Info", b"VBRI"))


def with_stated_length(content: bytes, first: int, count: int) -> io.BytesIO:
    """Return an MP3 file with an additional first frame that states the number of frames."""
    header = bytearray(content[first : first + 4])
    header[1] |= 1  # no checksum
    version, mono = header[1] >> 3 & 3, header[3] >> 6 == 3
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    tag = b"\0" * side + b"Xing" + struct.pack(">II", 1, count)
    for bitrate in range(1, 15):
        header[2] = bitrate << 4 | header[2] & 0b1100
        length = _frame_bytes(bytes(header), 0)
        if length >= 4 + len(tag):
            break
    return io.BytesIO((bytes(header) + tag).ljust(length, b"\0") + content[first:])


def _next_frame(content: bytes, position: int) -> bool:
    after = position + _frame_bytes(content, position)
    return after >= len(content) or _frame_bytes(content, after) > 0


def _frame_bytes(content: bytes, position: int) -> int:
    """Return the length of the layer III frame at `position`; 0 if no frame begins there."""
    header = content[position : position + 4]
    if len(header) < 4 or header[0] != 0xFF or header[1] >> 5 != 7 or header[1] >> 1 & 3 != 1:
        return 0
    version, bitrate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return 0
    bits = _BITRATES[3 if version == 3 else 2][bitrate] * 1000
    return (144 if version == 3 else 72) * bits // _RATES[version][rate] + (header[2] >> 1 & 1)
