"""Judge captions of scenes: are the digits right, and is what a caption states true?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from perceiver.data.synthetic.captions.language import DrawnDigit, digit_words, is_true, parse
from perceiver.samples.grounding import Phrase


class SceneJudge:
    """Measures of captions of drawn scenes; a `perceiver.objectives.Judge`.

    - `digit_accuracy`: share of the digits of the true caption that the caption names in the same place.
    - `truthfulness`: share of captions that are of the language and true of their scene. A caption may be true without
      being the true caption: it may leave out an object, or name another relation that holds.

    Examples:
        >>> from perceiver.data.synthetic.captions.judge import SceneJudge
        >>> from perceiver.samples.grounding import Phrase
        >>> boxes = [((5, 25), (2, 18)), ((30, 43), (30, 40))]
        >>> spans = [(8, 13), (30, 35)]
        >>> truth = "a large seven left of a small three"
        >>> seen = [
        ...     Phrase(start=start, end=end, modality="image", box=box)
        ...     for (start, end), box in zip(spans, boxes, strict=True)
        ... ]
        >>> SceneJudge()("a large seven above a small three", truth, seen)
        {'digit_accuracy': (1.0, 2.0), 'truthfulness': (1.0, 1.0)}
    """

    measures = ("digit_accuracy", "truthfulness")

    def __call__(self, prediction: str, truth: str, grounding: Sequence[Phrase]) -> Mapping[str, tuple[float, float]]:
        """See `perceiver.objectives.Judge`."""
        named, true = ([digit for digit, _, _ in digit_words(text)] for text in (prediction, truth))
        right = sum(one == other for one, other in zip(named, true, strict=False))
        found = {"digit_accuracy": (right / max(len(true), 1), float(len(true)))}
        caption = parse(truth)
        if caption is None or len(grounding) != len(caption.objects):
            raise ValueError(f"{truth!r}: expected a caption of a scene, with a box for each of its digits.")
        scene = []
        for (digit, large), phrase in zip(caption.objects, grounding, strict=True):
            rows, columns = phrase.box
            scene.append(DrawnDigit(digit=digit, large=large, box=(rows, columns)))
        return {**found, "truthfulness": (float(is_true(prediction, scene)), 1.0)}
