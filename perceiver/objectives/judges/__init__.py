"""Judges of generated images: classifiers that the project trains on real training images alone."""

from perceiver.objectives.judges.canvases import CanvasJudge
from perceiver.objectives.judges.classes import ClassJudge
from perceiver.objectives.judges.digits import digit_judge
from perceiver.objectives.judges.emoji import EmojiJudge
from perceiver.objectives.judges.judgement import ImageJudge, Judgement

__all__ = ["CanvasJudge", "ClassJudge", "EmojiJudge", "ImageJudge", "Judgement", "digit_judge"]
