"""Synthetic optical flow: two frames of textured digits that move in front of a moving background.

A miniature of AutoFlow (Sun et al. 2021, arXiv:2104.14544), on which Perceiver IO learned flow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from perceiver.data.loading.source import Source
from perceiver.data.synthetic.drawn import Composition, DrawnSource, Glyphs, stacked
from perceiver.data.synthetic.scenes import draw, flow_between, random_motion
from perceiver.modalities import channel_statistics
from perceiver.samples.batch import Sample
from perceiver.targets.pixels import FLOW_NAMES, flow_target


@dataclass(frozen=True, kw_only=True)
class MovingScene:
    """Draw two frames and the flow between them. Arguments as in `MovingDigits`."""

    composition: Composition
    shift: float
    background_shift: float
    degrees: float
    zoom: float

    def __call__(self, glyphs: Glyphs, generator: torch.Generator, *, name: str) -> Sample:
        """Draw frames `(3, 2, H, W)` in [0, 1], flow `(2, H, W)`, and its visibility."""
        size = self.composition.size
        first = self.composition.layers(glyphs, generator)
        second = [
            random_motion(
                layer,
                shift=self.background_shift if layer.glyph is None else self.shift,
                degrees=self.degrees,
                zoom=self.zoom,
                generator=generator,
            )
            for layer in first
        ]
        flow, seen = flow_between(first, second, **size)
        frames = torch.stack([draw(layers, **size).pixels for layers in (first, second)], dim=1)
        return Sample(inputs={"frames": frames}, target=flow, id=name, target_mask=seen)


class MovingDigits(DrawnSource):
    """Two frames `(B, 3, 2, H, W)` as `inputs["frames"]`, and the flow `(B, 2, H, W)` from the first to the second.

    Flow is the motion to the right and down in pixels, exact for every pixel. Pixels that leave the second frame or are
    occluded in it are invalid: their flow cannot be inferred.

    Args:
        source: source of the digits, see `DrawnSource`.
        size: [height, width] of the frames.
        digits: [minimum, maximum] number of digits in a scene.
        diameter: [minimum, maximum] side of a digit in pixels.
        shift: maximum motion of a digit, in pixels.
        background_shift: maximum motion of the background, in pixels.
        degrees: maximum rotation of digits and background.
        zoom: maximum relative growth or shrinkage of digits and background.
        training_scenes, redraw, validation_scenes, test_scenes, scene_seed: see `DrawnSource`.

    Raises:
        ValueError: for an impossible scene.
    """

    def __init__(
        self,
        *,
        source: Source,
        size: Sequence[int] = (32, 32),
        digits: Sequence[int] = (1, 3),
        diameter: Sequence[float] = (12.0, 20.0),
        shift: float = 3.0,
        background_shift: float = 2.0,
        degrees: float = 5.0,
        zoom: float = 0.05,
        training_scenes: int = 2048,
        redraw: bool = True,
        validation_scenes: int = 256,
        test_scenes: int = 512,
        scene_seed: int = 0,
    ) -> None:
        composition = Composition.of(size=size, digits=digits, diameter=diameter)
        if min(shift, background_shift, degrees, zoom) < 0 or shift + background_shift == 0 or zoom >= 1:
            raise ValueError(
                "data.shift, data.background_shift, data.degrees, data.zoom: expected numbers of at least 0, a shift "
                f"or background_shift above 0, and a zoom below 1; got {shift}, {background_shift}, {degrees}, {zoom}."
            )
        scene = MovingScene(
            composition=composition,
            shift=shift,
            background_shift=background_shift,
            degrees=degrees,
            zoom=zoom,
        )
        super().__init__(
            source=source,
            scene=scene,
            name="moving_digits",
            modality="frames",
            spec={"kind": "video", "shape": [3, 2, composition.height, composition.width], "range": [0, 255]},
            training_scenes=training_scenes,
            redraw=redraw,
            validation_scenes=validation_scenes,
            test_scenes=test_scenes,
            scene_seed=scene_seed,
        )

    def describe(self, scenes: list[Sample]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return mean and standard deviation of the colours, and the root mean square of the flow."""
        frames, flow, seen = stacked(scenes, modality=self.modality)
        return channel_statistics(frames, channel_axis=0), flow_target(flow=flow, mask=seen, modality=self.modality)

    def known(self) -> dict[str, Any]:
        """Return the entries of the frames, and of the flow as the target."""
        target = {"kind": "flow", "names": list(FLOW_NAMES), "modality": self.modality}
        return {"modalities": self.specs, "target": target}
