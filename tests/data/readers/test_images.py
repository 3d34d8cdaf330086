"""Image files that would take far more time or memory than their size suggests."""

from pathlib import Path

import pytest
from PIL import Image

from perceiver.data.manifest.video import read_video
from perceiver.data.readers.images import ImageFileError, read_image


def test_animations_with_huge_frames_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a file needs a minute for its first frame, though it is small and within Pillow's limit for one image."""
    frames = [Image.new("RGB", (40, 40), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.gif")
    assert read_image(tmp_path / "a.gif").size == (40, 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    assert read_image(tmp_path / "still.gif").size == (40, 40)
    with pytest.raises(ImageFileError, match=r"a\.gif: too large to decode safely: Frames of 1600 pixels exceed .*, 1000"):
        read_image(tmp_path / "a.gif")
    with pytest.raises(ValueError, match=r"a\.gif: not a valid animation \(DecompressionBombError: Frames of 1600 pixels"):
        read_video(tmp_path / "a.gif", num_frames=1)
