"""From the parts of a request to a raw sample, within the limits. Runs in LitServe's inference workers.

No string is a path, no file name is used, and files are recognised by their content.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perceiver.modalities.cells.number_lists import holds_text
from perceiver.serving.limits import Limits, RefusedError
from perceiver.serving.request import Body, Field, File, Parts

Modality = Mapping[str, Any]

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "JPEG2000")
"""Image formats of Pillow that a request may use. The decoders of others run programs, or are not needed here."""

_FILES = ("image", "audio", "video", "points")
_DEEP = 16  # nesting of lists that are arrays


def decode(parts: Parts, modalities: Mapping[str, Modality], limits: Limits) -> dict[str, Any]:
    """Return a raw sample, values by modality as `Perceiver.predict` takes them.

    Args:
        parts: content of the request.
        modalities: spec of each modality.
        limits: limits of a request.

    Raises:
        RefusedError: for an unknown modality, or content that cannot be decoded; names the modality.
    """
    given = _values(parts.content) if isinstance(parts, Body) else parts
    names = sorted(modalities)
    if unknown := sorted(set(given) - set(modalities)):
        raise RefusedError(f"expected any of the modalities {names}, got also {_shown(unknown)}.")
    if not given:
        raise RefusedError(f"expected one or more of the modalities {names}, got none.")
    raw: dict[str, Any] = {}
    for name, value in given.items():
        modality, where = modalities[name], f"modality {name!r}"
        if isinstance(value, File):
            raw[name] = _from_file(value.content, modality, limits, where)
        elif isinstance(value, Field) and (size := _utf8_bytes(value.text)) > limits.request_bytes:
            raise RefusedError(
                f"{where}: expected at most {limits.request_bytes:,} bytes, got {size:,}. Shorten it, or raise the limit "
                "with --max-bytes.",
                status=413,
            )
        elif isinstance(value, Field) and modality.get("kind") == "text":
            raw[name] = value.text
        elif isinstance(value, Field):
            raw[name] = _from_json(_parsed(value.text, where), modality, limits, where)
        else:
            raw[name] = _from_json(value, modality, limits, where)
        if modality.get("kind") == "text":
            _check_text(raw[name], modality, limits, where)
    return raw


def load_readers(modalities: Mapping[str, Modality]) -> None:
    """Import what `decode` needs for these modalities, so that no request waits for it."""
    kinds = {modality.get("kind") for modality in modalities.values()}
    if "image" in kinds:
        _formats()
    if kinds - {"image", "text", "table"}:
        import perceiver.data.manifest.cells  # noqa: F401


def _values(content: bytes) -> dict[str, Any]:
    value = _parsed(content, "the body")
    if not isinstance(value, dict):
        raise RefusedError(f"the body: expected a JSON object of values by modality, got {_type(value)}.")
    return value


def _parsed(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise RefusedError(f"{where}: its lists or objects are nested too deeply.") from None
    except ValueError as error:
        raise RefusedError(f"{where}: expected JSON in UTF-8: {str(error)[:200]}.") from None


def _from_json(value: Any, modality: Modality, limits: Limits, where: str) -> Any:
    kind = modality.get("kind")
    if kind == "table":
        if not isinstance(value, dict):
            raise RefusedError(f"{where}: expected an object of values by column, got {_type(value)}.")
        if deep := sorted(column for column, cell in value.items() if isinstance(cell, dict | list)):
            raise RefusedError(f"{where}, column {deep[0]!r:.80}: expected a number or a text, got {_type(value[deep[0]])}.")
        return value
    if isinstance(value, dict) and value.keys() == {"bytes"}:
        return _from_file(_base64(value["bytes"], where), modality, limits, where)
    if isinstance(value, str):
        if kind == "text":
            return value
        raise RefusedError(
            f'{where}: expected numbers in lists, or {{"bytes": "<file in base 64>"}}, got a text; files on the server are '
            "not opened."
        )
    if kind == "audio" and isinstance(value, dict) and value.keys() == {"array", "sampling_rate"}:
        return _sound(_array(value["array"], where), value["sampling_rate"], modality, limits, where)
    if kind == "audio" and isinstance(value, list):
        return _sound(_array(value, where), modality.get("sample_rate"), modality, limits, where)
    if kind == "timeseries" and isinstance(value, dict):
        return {part: None if x is None else _array(x, f"{where}, {part!r:.40}", missing=True) for part, x in value.items()}
    if isinstance(value, list):
        return _array(value, where, missing=kind == "timeseries")
    allowed = 'numbers in lists, or {"bytes": "<file in base 64>"}' if kind in _FILES else "numbers in lists"
    allowed = '{"array": numbers, "sampling_rate": hertz}, or ' + allowed if kind == "audio" else allowed
    allowed = '{"values": numbers, "times": seconds}, or ' + allowed if kind == "timeseries" else allowed
    raise RefusedError(f"{where}: expected {'a text' if kind == 'text' else allowed}, got {_type(value)}.")


def _array(value: Any, where: str, *, missing: bool = False) -> NDArray[Any]:
    """Return lists of numbers as an array; with `missing`, null is NaN."""
    if not isinstance(value, list):
        raise RefusedError(f"{where}: expected numbers in lists, got {_type(value)}.")
    if holds_text(value):
        raise RefusedError(f"{where}: expected numbers, got texts in lists.")
    try:
        array = np.asarray(value)
        if missing and array.dtype.kind == "O" and array.ndim <= _DEEP:
            array = np.asarray(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise RefusedError(f"{where}: expected numbers in lists of equal length: {str(error)[:120]}.") from None
    if array.dtype.kind not in "biuf" or array.ndim > _DEEP:
        raise RefusedError(f"{where}: expected numbers, got other values in lists.")
    return array


def _sound(array: NDArray[Any], rate: Any, modality: Modality, limits: Limits, where: str) -> tuple[NDArray[Any], int]:
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 1 <= rate <= 2**31 or rate != int(rate):
        raise RefusedError(f"{where}: expected a whole number of hertz as sampling_rate, got {rate!r:.60}.")
    _check_seconds(array.shape[-1] / rate if array.ndim else 0, modality, limits, where)
    return array, int(rate)


def _from_file(content: bytes, modality: Modality, limits: Limits, where: str) -> Any:
    kind = modality.get("kind")
    if not content:
        raise RefusedError(f"{where}: expected the content of a file, got 0 bytes. Leave a missing modality out.")
    if kind == "table":
        return _from_json(_parsed(content, where), modality, limits, where)
    if kind == "text":
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise RefusedError(f"{where}: is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}.") from None
    if kind == "image":
        return _image(content, limits, where)
    return _other_file(content, modality, limits, where)


def _image(content: bytes, limits: Limits, where: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(content), formats=_formats())
        _check_pixels(image.width * image.height, limits, where, what="an image")
        image.load()
    except RefusedError:
        raise
    except UnidentifiedImageError:
        raise RefusedError(
            f"{where}: cannot read {len(content):,} bytes as image. Expected one of {', '.join(IMAGE_FORMATS)}."
        ) from None
    except Image.DecompressionBombError as error:
        raise RefusedError(f"{where}: too large to decode safely: {error}", status=413) from None
    except Exception as error:  # a damaged file can raise nearly anything in a decoder
        raise RefusedError(f"{where}: cannot read {len(content):,} bytes as image ({_reason(error)}).") from None
    return image


@cache
def _formats() -> tuple[str, ...]:
    """Return the accepted formats that this Pillow reads."""
    from PIL import Image

    Image.init()
    return tuple(name for name in IMAGE_FORMATS if name in Image.OPEN)


def _other_file(content: bytes, modality: Modality, limits: Limits, where: str) -> Any:
    """Read a file with the readers of manifests, which bound what a file may expand to."""
    from perceiver.data.manifest.cells import read_sample

    kind = str(modality.get("kind"))
    try:
        if kind == "audio":
            return _recording(content, modality, limits, where)
        if kind == "video":
            _check_video(content, modality, limits, where)
        return read_sample(content, spec=modality)
    except RefusedError:
        raise
    except Exception as error:  # as above
        reason = _reason(error).replace("content of a cell: ", "").rstrip(".")
        raise RefusedError(f"{where}: cannot read {len(content):,} bytes as {kind} ({reason}).") from None


def _recording(content: bytes, modality: Modality, limits: Limits, where: str) -> tuple[NDArray[np.float32], int]:
    from perceiver.data.manifest.content import IN_CELL, FileContent
    from perceiver.data.readers.audio import read_recording

    cut = modality.get("max_seconds")
    bounded = cut is not None and cut <= limits.sound_seconds
    # A little more than allowed, by which a longer recording is recognised.
    longest = cut if bounded else limits.sound_seconds + 0.1
    sound, rate = read_recording(FileContent(content, name=IN_CELL), max_seconds=longest)
    if not bounded:
        _check_seconds(sound.shape[-1] / rate, modality, limits, where)
    return sound, rate


def _check_seconds(seconds: float, modality: Modality, limits: Limits, where: str) -> None:
    cut = modality.get("max_seconds")
    if seconds > limits.sound_seconds and not (cut is not None and cut <= limits.sound_seconds):
        raise RefusedError(
            f"{where}: expected at most {limits.sound_seconds:g} seconds of sound. Cut it, or raise the limit with "
            "--max-sound-seconds.",
            status=413,
        )


def _check_text(text: str | NDArray[Any], modality: Modality, limits: Limits, where: str) -> None:
    cut = modality.get("max_length")
    if cut is not None and cut <= limits.text_bytes:
        return
    size = _utf8_bytes(text) if isinstance(text, str) else text.size
    if size > limits.text_bytes:
        raise RefusedError(
            f"{where}: expected a text of at most {limits.text_bytes:,} bytes or ids, got {size:,}. Shorten it, or raise "
            "the limit with --max-text-bytes.",
            status=413,
        )


def _utf8_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _check_video(content: bytes, modality: Modality, limits: Limits, where: str) -> None:
    """Check the pixels of the frames that will be kept, before any is decoded."""
    from PIL import Image

    from perceiver.data.manifest.content import IN_CELL, FileContent
    from perceiver.data.manifest.video import is_array_content
    from perceiver.data.readers.containers.demuxers import demuxer_of, opened

    file = FileContent(content, name=IN_CELL)
    if is_array_content(file):
        return  # as large as the request
    wanted = (modality.get("shape") or [None, None])[1]
    if demuxer_of(file) is None:
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            frames, size = getattr(image, "n_frames", 1), image.width * image.height
    else:
        with opened(file, purpose="video files") as container:
            stream = container.streams.video[0]
            size = int(stream.width) * int(stream.height)
            frames = sum(1 for packet in container.demux(video=0) if packet.size) if wanted is None else wanted
    _check_pixels(size * (frames if wanted is None else wanted), limits, where, what="all frames together")


def _check_pixels(pixels: int, limits: Limits, where: str, *, what: str) -> None:
    if pixels > limits.pixels:
        raise RefusedError(
            f"{where}: expected at most {limits.pixels:,} pixels in {what}, got {pixels:,}. Scale it down, or raise the "
            "limit with --max-pixels.",
            status=413,
        )


def _base64(text: Any, where: str) -> bytes:
    if not isinstance(text, str):
        raise RefusedError(f'{where}: expected {{"bytes": "<file in base 64>"}}, got {_type(text)} as bytes.')
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError(f"{where}: expected bytes as text in base 64: {str(error)[:120]}.") from None


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _shown(names: list[str]) -> str:
    shown = [name if len(name) <= 40 else f"{name[:40]}…" for name in names[:5]]
    return f"{shown}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
