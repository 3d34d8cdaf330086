"""Audio-visual digits: an image of MNIST and a recording of the Free Spoken Digit Dataset of the same digit.

Such pairs are a common test of audio-visual models, e.g. V. Vielzeuf et al., "CentralNet: a multilayer approach for
multimodal fusion", 2018 (AV-MNIST); here, splits are disjoint in both sources.
"""

from typing import ClassVar

from perceiver.data.synthetic.paired_digits import PairedDigits


class AVDigits(PairedDigits):
    """Pairs of an image and a recording; see `PairedDigits` for the arguments.

    Batches hold `inputs["image"]` `(B, 1, 28, 28)` and `inputs["audio"]` `(B, 1, samples)`, padded to their longest
    recording, with `masks["audio"]` `(B, samples)`; also `masks["image"]` `(B,)` if some samples lack an image.
    """

    AVAILABLE: ClassVar[tuple[str, ...]] = ("image", "audio")
