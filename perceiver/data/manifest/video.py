"""Videos in a manifest: a folder of images, an animated image, an array of frames, or, with PyAV, a video file."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from perceiver.data.manifest.content import FileContent
from perceiver.data.readers.bounded.array_files import read_array
from perceiver.data.readers.containers.demuxers import import_av, opened
from perceiver.data.readers.folder_files import by_number
from perceiver.data.readers.images import SUFFIXES, check_animation, read_image
from perceiver.modalities.media.framing import image_formats, is_deep, to_rgb

_PURPOSE = "video files (unlike folders of images, animated images and .npy arrays)"
ANIMATIONS = (".gif", ".webp", ".png", ".apng", ".tif", ".tiff")


def read_video(
    path: Path | FileContent | Sequence[Path | FileContent],
    *,
    num_frames: int | None,
    deep_range: Sequence[float] | None = None,
) -> list[Image.Image]:
    """Read the frames of a video as upright images of equal size.

    Args:
        path: a folder of images with names in temporal order; an animated image; a `.npy` file with frames `(T, H, W)` or
            `(T, H, W, channels)`, integers from 0 to 255; or a video file. Alternatively the content of such a file, or
            images, one per frame.
        num_frames: number of frames to take, evenly spaced from the first to the last, with repeats in shorter videos.
            None: all.
        deep_range: see `perceiver.modalities.media.framing.to_rgb`.

    Raises:
        OSError, ValueError: the path is not a video, is damaged, or has no frames.
        ImportError: a video file requires PyAV, which is not installed.
    """
    if isinstance(path, Sequence):
        return [read_image(path[index], deep_range=deep_range) for index in _chosen(len(path), num_frames)]
    if isinstance(path, Path) and path.is_dir():
        return [read_image(file, deep_range=deep_range) for file in frame_files(path, num_frames=num_frames)]
    if path.suffix.lower() == ".npy" or is_array_content(path):
        frames = _array(path)
        return [Image.fromarray(np.ascontiguousarray(frames[index])) for index in _chosen(len(frames), num_frames)]
    if path.suffix.lower() in ANIMATIONS or _is_image_content(path):
        return _animation(path, num_frames, deep_range)
    return _decoded(path, num_frames)


def frame_files(folder: Path, *, num_frames: int | None) -> list[Path]:
    """Return the files of the selected frames. Raises ValueError if there are no images."""
    files = _images_in(folder)
    return [files[index] for index in _chosen(len(files), num_frames)]


def check_video(path: Path | FileContent) -> None:
    """Check that a video probably has frames, without decoding them. Errors as in `read_video`."""
    if isinstance(path, Path) and path.is_dir():
        _images_in(path)
    elif path.suffix.lower() == ".npy" or is_array_content(path):
        _array(path)
    elif path.suffix.lower() not in ANIMATIONS and not _is_image_content(path):
        import_av(_PURPOSE)


def is_array_content(file: Path | FileContent) -> bool:
    """Return whether a file in memory, whose name may lack a suffix, is an array that NumPy wrote."""
    return isinstance(file, FileContent) and bytes(file.getbuffer()[:6]) == b"\x93NUMPY"


def _is_image_content(file: Path | FileContent) -> bool:
    """Return whether a file in memory is an image or an animation."""
    if not isinstance(file, FileContent):
        return False
    file.seek(0)
    with suppress(Exception), Image.open(file, formats=image_formats()):
        return True
    return False


def _images_in(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]
    files.sort(key=lambda file: by_number(file.name))
    if not files:
        raise ValueError(f"{folder}: expected a video's frames, as images in the order of their names, got none.")
    return files


def _array(path: Path | FileContent) -> Any:
    try:
        frames = read_array(path, mapped=isinstance(path, Path))
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a readable array: {error}.") from None
    if (
        frames.dtype != np.uint8
        or frames.ndim not in (3, 4)
        or frames.shape[3:] not in ((), (3,), (4,))
        or 0 in frames.shape
    ):
        raise ValueError(
            f"{path}: expected frames (T, H, W) or (T, H, W, 3) from 0 to 255, uint8, got {frames.dtype} {frames.shape}."
        )
    return frames


def _chosen(count: int, num_frames: int | None) -> list[int]:
    if num_frames is None:
        return list(range(count))
    return [int(index) for index in np.linspace(0, count - 1, num_frames).round()]


def _animation(path: Path | FileContent, num_frames: int | None, deep_range: Sequence[float] | None) -> list[Image.Image]:
    try:
        if isinstance(path, FileContent):
            path.seek(0)
        with Image.open(path, formats=image_formats()) as image:
            check_animation(image)
            chosen = _chosen(getattr(image, "n_frames", 1), num_frames)
            image.seek(0)
            wanted = set(chosen)
            # In sequence, because each frame is drawn over the previous frames.
            kept = {
                number: to_rgb(frame, deep_range=deep_range) if is_deep(frame) else frame.convert("RGB")
                for number, frame in enumerate(ImageSequence.Iterator(image))
                if number in wanted
            }
    except Exception as error:
        raise ValueError(f"{path}: not a valid animation ({type(error).__name__}: {error}).") from error
    return [kept[number] for number in chosen]


def _decoded(path: Path | FileContent, num_frames: int | None) -> list[Image.Image]:
    try:
        count = _packets(path)
        decoded, kept = _kept(path, set(_chosen(count, num_frames)))
        if decoded != count and decoded > 0:
            # The number of packets only approximates the number of frames.
            decoded, kept = _kept(path, set(_chosen(decoded, num_frames)))
    except ImportError:
        raise
    except MemoryError:
        # FFmpeg refuses what the file claims before it allocates anything.
        raise ValueError(f"{path}: not a decodable video (it claims more memory than FFmpeg allows).") from None
    except Exception as error:
        raise ValueError(f"{path}: not a decodable video ({type(error).__name__}: {error}).") from error
    if decoded == 0:
        raise ValueError(f"{path}: has no frames.")
    return [kept[number] for number in _chosen(decoded, num_frames)]


def _packets(path: Path | FileContent) -> int:
    """Return the approximate number of frames without decoding the video."""
    with opened(path, purpose=_PURPOSE) as container:
        return max(1, sum(1 for packet in container.demux(video=0) if packet.size))


def _kept(path: Path | FileContent, wanted: set[int]) -> tuple[int, dict[int, Image.Image]]:
    """Return the number of frames, and the wanted frames only: all frames at once could take gigabytes."""
    kept: dict[int, Image.Image] = {}
    count = 0
    with opened(path, purpose=_PURPOSE) as container:
        for frame in container.decode(video=0):
            if count in wanted:
                kept[count] = _upright(frame)
            count += 1
    return count, kept


def _upright(frame: Any) -> Image.Image:
    """Turn a frame upright: phones record rotated frames and store the angle in degrees, anticlockwise."""
    turn = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
    image: Image.Image = frame.to_image()
    rotation = turn.get(round(getattr(frame, "rotation", 0)) % 360)
    return image if rotation is None else image.transpose(rotation)
