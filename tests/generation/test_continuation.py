"""Continuing texts: cached steps against uncached windows, sliding past the context, ragged prompts, beams, bad prompts."""

from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from autoregressive_models import CONTEXT, LATENTS, VOCABULARY, model, ragged, reference_logits
from hypothesis import given, settings
from hypothesis import strategies as st

import perceiver
from perceiver import CausalDecoder, Encoder, Fourier, LatentMemory, Perceiver
from perceiver.adapters import TextTokens
from perceiver.generation import Continuation

HALF = LATENTS // 2


@pytest.fixture(scope="module")
def one() -> Perceiver:
    return model()


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 2 * CONTEXT), min_size=1, max_size=3),
    steps=st.lists(st.integers(1, LATENTS), min_size=1, max_size=10),
)
def test_each_step_gives_the_logits_of_its_window_uncached(one: Perceiver, lengths: list[int], steps: list[int]) -> None:
    ids, mask = ragged(lengths)
    continuation = Continuation(one)
    window = continuation.begin({"text": ids}, {"text": mask})
    texts = [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
    for size in steps:
        new = torch.randint(3, VOCABULARY, (len(lengths), size))
        with torch.no_grad():
            logits, window = continuation(new, window)
        assert window.encoder is not None
        assert window.ids.shape[1] <= CONTEXT
        assert HALF <= window.encoder.length <= LATENTS or window.encoder.length == window.ids.shape[1]
        for row, text in enumerate(texts):
            text += new[row].tolist()
            seen = text[-int(window.lengths[row]) :]
            # At least the context without the half of the latents that a sliding window makes room for.
            assert len(seen) >= min(len(text), CONTEXT - HALF)
            wanted = reference_logits(one, seen, latents=window.encoder.length)[-size:]
            torch.testing.assert_close(logits[row, -len(wanted) :], torch.from_numpy(wanted), rtol=0, atol=1e-9)


@pytest.mark.parametrize("length", [1, 5, CONTEXT - 1, CONTEXT, 3 * CONTEXT])
def test_greedy_continuation_takes_the_most_probable_id_of_each_window(one: Perceiver, length: int) -> None:
    text = torch.randint(3, VOCABULARY, (1, length))
    found = perceiver.generate(one, {"text": text}, max_new_tokens=25, min_length=length + 25)
    assert found.ids.shape == (1, length + 25)
    assert found.ids[:, :length].equal(text)
    # The same windows as the cache: encoded anew when it is full.
    start, latents = max(0, length - (CONTEXT - HALF)) if length > CONTEXT else 0, min(HALF, length)
    known = text[0].tolist()
    for place in range(length, length + 25):
        if place > length:
            latents += 1
        if place - start > CONTEXT or latents > LATENTS:
            start = place - (CONTEXT - HALF) if place - start > CONTEXT else start
            latents = min(HALF, place - start)
        scores = reference_logits(one, known[start:], latents=latents)[-1]
        scores[2] = -float("inf")  # the end id, not chosen before min_length
        assert int(found.ids[0, place]) == int(scores.argmax())
        known.append(int(found.ids[0, place]))


def test_ragged_prompts_are_continued_as_alone(one: Perceiver) -> None:
    lengths = [1, 7, CONTEXT + 3]
    ids, mask = ragged(lengths)
    together = perceiver.generate(one, {"text": ids}, {"text": mask}, max_new_tokens=15)
    for row, length in enumerate(lengths):
        alone = perceiver.generate(one, {"text": ids[row : row + 1, :length]}, max_new_tokens=15).new()
        shown = together.new().ids[row][: int(alone.lengths[0])]
        assert shown.tolist() == alone.ids[0, : int(alone.lengths[0])].tolist()
        assert int(together.new().lengths[row]) == int(alone.lengths[0])


@pytest.mark.parametrize(
    "limits",
    [
        {"max_length": 24},
        {"max_new_tokens": 15, "min_length": 12},
        {"max_new_tokens": 12, "num_beams": 3},
        {"max_new_tokens": 12, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    ],
)
def test_limits_and_rules_are_those_of_a_text_alone(one: Perceiver, limits: dict[str, Any]) -> None:
    """Padding to longer prompts, or of the batch, neither counts nor changes when a window is encoded again."""
    lengths = [9, 2, 5, 2]
    ids, mask = ragged(lengths)
    ids, mask = torch.nn.functional.pad(ids, (0, 6)), torch.nn.functional.pad(mask, (0, 6))
    together = perceiver.generate(one, {"text": ids}, {"text": mask}, **limits)
    for row, length in enumerate(lengths):
        alone = perceiver.generate(one, {"text": ids[row : row + 1, :length]}, **limits)
        count = int(alone.lengths[0])
        start = together.prompt - length
        assert together.ids[row, start : start + count].tolist() == alone.ids[0, :count].tolist()
        assert int(together.lengths[row]) - start == count
        assert float(together.scores[row]) == pytest.approx(float(alone.scores[0]))


def test_beams_and_samples_follow_their_own_rows(one: Perceiver) -> None:
    ids, mask = ragged([4, 9])
    beams = perceiver.generate(
        one, {"text": ids}, {"text": mask}, num_beams=3, num_return_sequences=3, max_new_tokens=8, length_penalty=0.0
    )
    for row in range(6):
        text = beams.ids[row, beams.prompt - [4, 9][row // 3] : int(beams.lengths[row])].tolist()
        # Windows are encoded anew at the same places, so the scores of a beam are those of its ids.
        total, known, latents = 0.0, [4, 9][row // 3], min(HALF, [4, 9][row // 3])
        while known < len(text):
            logs = torch.from_numpy(reference_logits(one, text[:known], latents=latents)[-1]).log_softmax(dim=0)
            total += float(logs[text[known]])
            known += 1
            latents = latents + 1 if latents < LATENTS else HALF
        assert float(beams.scores[row]) == pytest.approx(total, abs=1e-4)
    torch.manual_seed(1)
    drawn = perceiver.generate(one, {"text": ids}, {"text": mask}, do_sample=True, num_return_sequences=4, max_new_tokens=6)
    assert drawn.ids.shape[0] == 8
    assert len({tuple(row.tolist()) for row in drawn.new().ids}) > 2


def test_a_step_costs_the_same_wherever_it_is(one: Perceiver) -> None:
    seen: list[int] = []
    continuation = Continuation(one)
    encoded, stepped = continuation.encoder.start, continuation.encoder.step

    def start(tokens: perceiver.Tokens, *, num_latents: int) -> object:
        seen.append(tokens.num_tokens)
        return encoded(tokens, num_latents=num_latents)

    def step(tokens: perceiver.Tokens, cache: object) -> object:
        seen.append(tokens.num_tokens)
        return stepped(tokens, cache)  # type: ignore[arg-type]

    counting = {"start": staticmethod(start), "step": staticmethod(step), "num_latents": LATENTS}
    continuation.encoder = type("Counting", (), counting)()  # type: ignore[assignment]
    window = continuation.begin({"text": torch.randint(3, VOCABULARY, (1, CONTEXT))})
    window = replace(window, ids=window.ids[:, :-1], lengths=window.lengths - 1)
    with torch.no_grad():
        for _ in range(200):
            _, window = continuation(torch.randint(3, VOCABULARY, (1, 1)), window)
    assert window.ids.shape[1] <= CONTEXT
    assert len(seen) == 200
    # The window is encoded anew once in every HALF + 1 steps.
    assert sum(count > 1 for count in seen[100:]) == 100 // (HALF + 1)
    assert sum(seen[:100]) == pytest.approx(sum(seen[100:]), rel=0.1)


def test_predictions_are_the_continuations(one: Perceiver) -> None:
    spec = {
        "modalities": {"text": {"kind": "text", "shape": [None], "vocabulary_size": 262}},
        "target": {"kind": "text", "tokenizer": {"kind": "bytes"}, "vocabulary_size": 262, "max_length": CONTEXT},
    }
    bytes_model = model(spec=spec, vocabulary=262)
    [found] = bytes_model.predict("Once upon a time there was a prompt that exceeds the context")
    longer = perceiver.continue_text(
        bytes_model, "Once upon a time there was a prompt that exceeds the context",
        decoding=perceiver.Decoding(max_new_tokens=LATENTS),
    )  # fmt: skip
    assert found.text == longer
    bytes_model.spec["modalities"]["text"]["max_length"] = 8
    again = perceiver.continue_text(
        bytes_model, "Once upon a time there was a prompt that exceeds the context",
        decoding=perceiver.Decoding(max_new_tokens=LATENTS),
    )  # fmt: skip
    assert again == longer, "the maximum of training samples does not cut the end that is continued"
    assert 0 < len(found.tokens) <= LATENTS
    with pytest.raises(ValueError, match="text: expected a text"):
        perceiver.continue_text(bytes_model, "")


def test_bad_prompts_are_clear_errors(one: Perceiver) -> None:
    ids = torch.randint(3, VOCABULARY, (2, 5))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1] = False
    with pytest.raises(ValueError, match="sample 1 has no id to continue; begin its text with the id 2"):
        perceiver.generate(one, {"text": ids}, {"text": mask})
    with pytest.raises(ValueError, match=r"expected more than the 5 ids of the prompt, got 5. Set max_new_tokens"):
        perceiver.generate(one, {"text": ids}, max_length=5)
    with pytest.raises(ValueError, match=r"streamer: expected texts of one length, got \[3, 5\]"):
        perceiver.generate(one, {"text": ids}, {"text": torch.arange(5) < torch.tensor([[3], [5]])}, streamer=mock.Mock())
    with pytest.raises(ValueError, match="max_new_tokens: expected at least 1 and no max_length"):
        perceiver.generate(one, {"text": ids}, max_length=9, max_new_tokens=3)
    with pytest.raises(ValueError, match="it continues the texts in `inputs`"):
        perceiver.generate(one, {"text": ids}, prompt=ids)
    with pytest.raises(ValueError, match=r"as inputs\['text'\] alone, got \['sound'\]"):
        perceiver.generate(one, {"sound": ids})
    text = TextTokens(vocabulary_size=9, embedding_channels=4, position=Fourier(num_bands=1, resolution=(8,)))
    encoder = Encoder(token_channels=text.channels, num_latents=2, latent_channels=8, num_layers_per_block=1)
    head = CausalDecoder(memory=LatentMemory(latent_channels=8), vocabulary_size=9, num_layers=1)
    other = Perceiver(adapters={"text": text}, encoder=encoder, head=head)
    with pytest.raises(ValueError, match="an adapter TextTokens, an AutoregressiveEncoder and a NextTokenHead"):
        Continuation(other)
