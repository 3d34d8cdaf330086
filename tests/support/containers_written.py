"""Sound and video in containers, as PyAV writes them."""

from pathlib import Path

import av
import numpy as np


def write_container(path: Path, sound: np.ndarray, *, rate: int, codec: str, form: str | None = None) -> Path:
    """Write `(channels, samples)` in [-1, 1]; the suffix, or `form`, is the container."""
    layout = "mono" if len(sound) == 1 else "stereo"
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound, dtype=np.float32), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        waiting = av.AudioFifo()
        for part in resampler.resample(frame):
            waiting.write(part)
        size = stream.codec_context.frame_size or 1024
        while (part := waiting.read(size) or waiting.read()) is not None:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def write_film(path: Path, frames: np.ndarray, *, form: str) -> Path:
    """Write `(T, H, W, 3)`, uint8, as MPEG-4 video in a container."""
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width = frames.shape[1:3]
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path
