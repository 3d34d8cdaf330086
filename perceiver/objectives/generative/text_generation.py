"""Text generation: predict each id of a text from those before it and from the inputs.

Translation, captions and transcripts are this objective on different data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from perceiver.decoders import CausalDecoder
from perceiver.decoders.sequence_loss import SequenceLoss, SequenceLosses
from perceiver.modalities.texts.tokenizers import END, PAD, START, tokenizer_of
from perceiver.model import Perceiver
from perceiver.objectives.checks import sample_name
from perceiver.objectives.metrics.judging import Judge
from perceiver.objectives.metrics.pointing import POINTING, pointing
from perceiver.objectives.metrics.quality import WeightedMean, mean_over_processes
from perceiver.objectives.metrics.text import MEASURES, TextMetrics
from perceiver.objectives.objective import Metrics, Objective
from perceiver.samples.batch import Batch, first_tensor
from perceiver.targets.dictionary import Dictionary
from perceiver.targets.text import texts_of
from perceiver.targets.words import words_of

ALIGNMENT = "alignment_accuracy"
"""Name of the measure of attention."""


class TextGeneration(Objective):
    """Predict each id of the target from the ids before it and from the inputs, by cross-entropy.

    The target of a sample is `(L,)` ids, start and end included, with a `target_mask` in batches of different lengths.
    Measures, with equal weight for all ids, `loss` (cross-entropy in nats, without smoothing) and `accuracy`; and for
    generated texts what `measure` names. Texts are generated as `model.head.generation` says.

    Args:
        vocabulary_size: number of ids.
        tokenizer: tokenizer of the target, as in the spec; see `perceiver.modalities.texts.tokenizers`.
        label_smoothing: smoothing in [0, 1), in the training loss only.
        measure: what to measure of generated texts: exact_match, bleu, chrf, word_error_rate, character_error_rate; none:
            no text is generated in validation and test. Others need no generated text, but the attention with which the
            true text is predicted, a mean over heads and layers (`Perceiver.attention_of_ids`): alignment_accuracy is the
            share of the words of the dictionary for which it is highest on the source word; for data with the places of
            phrases, pointing_accuracy is the share of phrases for which it is highest inside the box, and mass_in_box its
            share inside the box.
        judges: further measures of generated texts, by any name; see `Judge`.
        num_generated: number of samples of a split whose texts are generated in each process; None: all.
        dictionary: the spec's entry `target.dictionary`, for `alignment_accuracy`; see `perceiver.targets.dictionary`.

    Raises:
        ValueError: for an unknown measure, a measure of two judges, a number out of range, or `alignment_accuracy` without
            a dictionary.
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        tokenizer: Mapping[str, Any],
        label_smoothing: float = 0.0,
        measure: Sequence[str] = (),
        judges: Mapping[str, Judge] | None = None,
        num_generated: int | None = None,
        dictionary: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"task.label_smoothing: expected at least 0 and below 1, got {label_smoothing}.")
        known = {*MEASURES, *POINTING, ALIGNMENT}
        if unknown := set(measure) - known:
            raise ValueError(f"task.measure: expected some of {sorted(known)}, got {sorted(unknown)}.")
        judged = [name for judge in (judges or {}).values() for name in judge.measures]
        if len({*judged, *known}) < len(judged) + len(known):
            raise ValueError(f"task.judges: expected each measure once, and none of {sorted(known)}; got {sorted(judged)}.")
        self.dictionary = Dictionary.of(dictionary)
        if ALIGNMENT in measure and self.dictionary is None:
            raise ValueError(
                f"task.measure: {ALIGNMENT} needs a dictionary of words, which only data of text pairs learns (multi30k, "
                "parallel_text). Leave it out."
            )
        if num_generated is not None and num_generated < 1:
            raise ValueError(f"task.num_generated: expected 1 or more, or null for all, got {num_generated}.")
        self.vocabulary_size = vocabulary_size
        self.tokenizer = tokenizer_of(tokenizer)
        self.label_smoothing = label_smoothing
        self.measure = tuple(name for name in measure if name in MEASURES)
        self.pointing = tuple(name for name in measure if name in POINTING)
        self.judges = dict(judges or {})
        self.judged = tuple(judged)
        self.aligns = ALIGNMENT in measure
        self.num_generated = num_generated

    def check_model(self, model: nn.Module) -> None:
        """See `Objective.check_model`: the head must be a `CausalDecoder` with this vocabulary and the same special ids."""
        head = model.head if isinstance(model, Perceiver) else None
        if not isinstance(head, CausalDecoder):
            raise ValueError(
                f"task: generating texts needs a model whose head is a perceiver.decoders.CausalDecoder, got "
                f"{type(head).__name__}; set model/head=causal."
            )
        special = (head.pad_id, head.start_id, head.end_id)
        if head.output_channels != self.vocabulary_size or special != (PAD, START, END):
            raise ValueError(
                f"model.head: expected vocabulary_size = {self.vocabulary_size} and pad, start and end ids {PAD}, {START}, "
                f"{END}; got {head.output_channels} and {special}."
            )

    def check(self, model: nn.Module, batch: Batch) -> Batch:
        """See `Objective.check`: targets are ids in the vocabulary that fit the decoder, with a start id and one more."""
        batch = super().check(model, batch)
        assert isinstance(model, Perceiver)
        assert isinstance(model.head, CausalDecoder)
        target, mask = batch.target, batch.target_mask
        if target is None or target.ndim != 2 or target.is_floating_point():
            got = "none" if target is None else f"{target.dtype} {tuple(target.shape)}"
            raise ValueError(f"batch.target: expected ids (batch, length) of texts, got {got}.")
        valid = torch.ones_like(target, dtype=torch.bool) if mask is None else mask
        target = torch.where(valid, target, PAD)
        if target.shape[1] - 1 > model.head.max_length:
            longest = int(valid.sum(dim=1).argmax())
            raise ValueError(
                f"target of sample {sample_name(batch.ids, longest)!r}: {int(valid[longest].sum())} ids, but the decoder's "
                f"max_length is {model.head.max_length}. Raise model.head.max_length, or shorten the texts."
            )
        wrong = (
            ((target < 0) | (target >= self.vocabulary_size)).any(dim=1) | (valid.sum(dim=1) < 2) | (target[:, 0] != START)
        )
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"target of sample {sample_name(batch.ids, row)!r}: expected the start id {START} and one or more ids below "
                f"{self.vocabulary_size}, got {target[row][valid[row]].tolist()[:20]}."
            )
        return replace(batch, target=target, target_mask=valid)

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the mean cross-entropy over the ids of all processes."""
        assert batch.target is not None
        assert batch.target_mask is not None
        valid = batch.target_mask[:, 1:]
        loss = SequenceLoss(labels=batch.target[:, 1:], valid=valid, label_smoothing=self.label_smoothing)
        found: SequenceLosses = model(batch.inputs, batch.masks, target_ids=batch.target[:, :-1], target_loss=loss)
        if metrics is not None:
            metrics["accuracy"].update(found.correct.float(), torch.ones_like(found.correct))
        return mean_over_processes(found.total, valid)

    def training_metrics(self) -> dict[str, Metric]:
        """Return the share of ids that are predicted right."""
        return {"accuracy": WeightedMean()}

    def metrics(self, model: nn.Module) -> dict[str, Metric]:
        """Return means over ids, and a metric of generated texts."""
        means: dict[str, Metric] = {name: WeightedMean() for name in ("loss", "accuracy", *self.pointing, *self.judged)}
        if self.aligns:
            means[ALIGNMENT] = WeightedMean()
        return {**means, "texts": TextMetrics(measure=self.measure)} if self.measure or self.judged else means

    def evaluate(
        self, model: nn.Module, batch: Batch, metrics: Metrics, *, count: int | None = None, number: int = 0
    ) -> None:
        """See `Objective.evaluate`."""
        logits, labels, valid = predicted(model, batch)
        losses = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none").view_as(valid)
        metrics["loss"].update(losses[:count], valid[:count])
        metrics["accuracy"].update((logits.argmax(dim=-1) == labels).float()[:count], valid[:count])
        if self.pointing:
            found = torch.tensor(self._pointing(model, batch)[:count]).view(-1, len(POINTING) + 1)
            for column, name in enumerate(POINTING):
                if name in self.pointing:
                    metrics[name].update(found[:, column], found[:, -1])
        if self.aligns:
            shares, words = torch.tensor(self._alignments(model, batch), device=labels.device)[:count].T
            metrics[ALIGNMENT].update(shares, words)
        texts = metrics.get("texts")
        if not isinstance(texts, TextMetrics):
            return
        wanted = batch.size if count is None else count
        if self.num_generated is not None:
            wanted = min(wanted, self.num_generated - texts.count)
        if wanted < 1:
            texts.update([], [])
            return
        own = batch.rows(slice(wanted))
        assert isinstance(model, Perceiver)
        assert own.target is not None
        generated = model.target_outputs(own.inputs, own.masks)
        predictions, truths = texts_of(generated.ids, self.tokenizer), texts_of(own.target, self.tokenizer)
        texts.update(predictions, truths)
        groundings = [()] * len(truths) if own.groundings is None else own.groundings
        for judge in self.judges.values():
            for sample in zip(predictions, truths, groundings, strict=True):
                for name, (value, weight) in judge(*sample).items():
                    metrics[name].update(torch.tensor(value), torch.tensor(weight))

    def results(self, metrics: Metrics) -> dict[str, Tensor]:
        """Return the means that are defined, and the measures of generated texts by name.

        Without a word of the dictionary there is no alignment, without the place of a phrase no pointing.
        """
        found = {name: metric.compute() for name, metric in metrics.items() if name != "texts"}
        optional = (ALIGNMENT, *self.pointing)
        found = {name: value for name, value in found.items() if name not in optional or not bool(value.isnan())}
        return found | (metrics["texts"].compute() if "texts" in metrics else {})

    def result_names(self, metrics: Metrics) -> list[str]:
        """Return the names of the means, and of the measures of generated texts."""
        return [name for name in metrics if name != "texts"] + list(self.measure)

    def _pointing(self, model: nn.Module, batch: Batch) -> list[tuple[float, float, float]]:
        """Return for each sample the mean of `POINTING` over its phrases, and the number of phrases."""
        assert isinstance(model, Perceiver)
        assert batch.target is not None
        if batch.groundings is None:
            return [(0.0, 0.0, 0.0)] * batch.size
        attended = model.attention_of_ids(batch.inputs, batch.masks, ids=batch.target[:, :-1])
        maps = {name: one.float().cpu() for name, one in attended.items()}
        shapes = {name: first_tensor(x).shape for name, x in batch.inputs.items()}
        found = []
        for row, (grounding, ids) in enumerate(zip(batch.groundings, batch.target[:, 1:].tolist(), strict=True)):
            own = {name: one[row] for name, one in maps.items()}
            pointed = pointing(own, grounding, ids, tokenizer=self.tokenizer, shapes=shapes)
            right, mass = (sum(column) / max(len(pointed), 1) for column in zip((0.0, 0.0), *pointed, strict=True))
            found.append((right, mass, float(len(pointed))))
        return found

    def _alignments(self, model: nn.Module, batch: Batch) -> list[tuple[float, float]]:
        """Return for each sample the share of right alignments among its words of the dictionary, and their number."""
        assert isinstance(model, Perceiver)
        assert self.dictionary is not None
        assert batch.target is not None
        name = self.dictionary.modality
        given, mask = batch.inputs.get(name), batch.masks.get(name)
        if not isinstance(given, Tensor):
            return [(0.0, 0.0)] * batch.size
        weights = model.attention_of_ids(batch.inputs, batch.masks, ids=batch.target[:, :-1]).get(name)
        if weights is None:
            return [(0.0, 0.0)] * batch.size
        valid = torch.ones_like(given, dtype=torch.bool) if mask is None else mask.reshape(len(mask), -1).expand_as(given)
        sources, targets = torch.where(valid, given, PAD).tolist(), batch.target[:, 1:].tolist()
        found = []
        for source, target, own in zip(sources, targets, weights.float().cpu(), strict=True):
            words = words_of(self.tokenizer.pieces(source)), words_of(self.tokenizer.pieces(target))
            right = []
            for one, other in self.dictionary.occurrences(*words):
                peak = int(own[other.start : other.end].mean(dim=0).argmax())
                right.append(one.start <= peak < one.end)
            found.append((sum(right) / max(len(right), 1), float(len(right))))
        return found


def predicted(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits `(B, L - 1, V)` of the ids after the first, these ids, and which of them are valid."""
    target, mask = batch.target, batch.target_mask
    assert target is not None
    assert mask is not None
    logits: Tensor = model(batch.inputs, batch.masks, target_ids=target[:, :-1])
    return logits, target[:, 1:], mask[:, 1:]
