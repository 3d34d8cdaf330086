"""Inspection of a model: its parts, sizes and cost, and the parts of an input that a prediction depends on."""

from perceiver.inspection.deletion import deletion_curve
from perceiver.inspection.explanation import Explanation, explain
from perceiver.inspection.model_summary import Summary, summary
from perceiver.inspection.rollout import attention_rollout
from perceiver.inspection.word_influence import WordInfluence, word_influence

__all__ = [
    "Explanation",
    "Summary",
    "WordInfluence",
    "attention_rollout",
    "deletion_curve",
    "explain",
    "summary",
    "word_influence",
]
