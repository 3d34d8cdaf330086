"""Digits as images, recordings and point sets: triples of the same digit, with points from another image.

Sources: MNIST and the Free Spoken Digit Dataset (`perceiver.data.datasets`), and `perceiver.data.synthetic.digit_points`.
"""

from typing import ClassVar

from perceiver.data.synthetic.paired_digits import PairedDigits


class TrimodalDigits(PairedDigits):
    """Triples of an image, a recording and a point set; see `PairedDigits` for the arguments.

    Batches are as in `AVDigits`, and also hold `inputs["points"]` `(B, P, 3)`, x, y and ink, padded to their largest set,
    with `masks["points"]` `(B, P)`. The points are the ink of another image of the same split.
    """

    AVAILABLE: ClassVar[tuple[str, ...]] = ("image", "audio", "points")
