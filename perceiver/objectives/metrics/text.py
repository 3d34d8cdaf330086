"""Metrics of generated texts: exact matches, error rates, BLEU and chrF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text import char_error_rate, word_error_rate


def exact_match(predictions: Sequence[str], truths: Sequence[str]) -> float:
    """Return the share of texts that equal the truth."""
    return sum(one == other for one, other in zip(predictions, truths, strict=True)) / len(truths)


def bleu(predictions: Sequence[str], truths: Sequence[str]) -> float:
    """Return BLEU (Papineni et al. 2002) of sacrebleu, 0 to 100: cased, tokenised as 13a."""
    score: float = _library().corpus_bleu(list(predictions), [list(truths)]).score
    return score


def chrf(predictions: Sequence[str], truths: Sequence[str]) -> float:
    """Return chrF2 (Popović 2015) of sacrebleu, 0 to 100."""
    score: float = _library().corpus_chrf(list(predictions), [list(truths)]).score
    return score


MEASURES: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {
    "exact_match": exact_match,
    "bleu": bleu,
    "chrf": chrf,
    "word_error_rate": lambda predictions, truths: float(word_error_rate(list(predictions), list(truths))),
    "character_error_rate": lambda predictions, truths: float(char_error_rate(list(predictions), list(truths))),
}
"""Measures of predicted and true texts, by name."""


def signatures() -> dict[str, str]:
    """Return sacrebleu's signatures, to be printed beside its scores."""
    library = _library()
    metrics = {"bleu": library.BLEU(), "chrf": library.CHRF()}
    for metric in metrics.values():
        metric.corpus_score(["a"], [["a"]])  # the signature names the number of references
    return {name: str(metric.get_signature()) for name, metric in metrics.items()}


class TextMetrics(Metric):
    """Measures of all texts of a split, across processes.

    Args:
        measure: names in `MEASURES`.

    Raises:
        ImportError: if a measure needs sacrebleu, which is not installed.
    """

    full_state_update = False
    codes: Any
    sizes: Any

    def __init__(self, *, measure: Sequence[str]) -> None:
        super().__init__()
        if {"bleu", "chrf"} & set(measure):
            _library()
        self.measure = tuple(measure)
        # Texts as UTF-8 bytes, since processes exchange tensors.
        self.add_state("codes", default=[], dist_reduce_fx="cat")
        self.add_state("sizes", default=[], dist_reduce_fx="cat")

    @property
    def count(self) -> int:
        """Number of texts so far, in this process."""
        return sum(len(sizes) for sizes in self.sizes)

    def update(self, predictions: Sequence[str], truths: Sequence[str]) -> None:
        """Add texts and their truths."""
        pairs = list(zip(predictions, truths, strict=True))
        if not pairs:
            return
        raw = [[text.encode("utf-8") for text in pair] for pair in pairs]
        joined = bytearray(b"".join(part for pair in raw for part in pair))
        codes = torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.zeros(0, dtype=torch.uint8)
        self.codes.append(codes.to(self.device))
        self.sizes.append(torch.tensor([[len(part) for part in pair] for pair in raw], device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """Return each measure, `()`; NaN without texts."""
        codes, sizes = (
            torch.cat(list(state)) if isinstance(state, list) and state else state for state in (self.codes, self.sizes)
        )
        if isinstance(sizes, list):
            return dict.fromkeys(self.measure, torch.tensor(float("nan")))
        raw, texts, start = bytes(codes.cpu().tolist()), [], 0
        for size in sizes.flatten().tolist():
            texts.append(raw[start : start + size].decode("utf-8"))
            start += size
        return {name: torch.tensor(MEASURES[name](texts[::2], texts[1::2])) for name in self.measure}


def _library() -> Any:
    try:
        import sacrebleu
    except ImportError:
        raise ImportError(
            "The measures bleu and chrf need the package sacrebleu: pip install 'perceiver[text]', or leave them out of "
            "task.measure."
        ) from None
    return sacrebleu
