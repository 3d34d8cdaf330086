"""Generation against transformers' `generate` on the same network, and its laws on our own decoder."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from generating_models import VOCABULARY, inputs, model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import perceiver
from perceiver.generation import Decoding, Generated, generate_ids


@dataclass
class Everything:
    """A cache that keeps all ids and what the encoder gave."""

    ids: Tensor
    states: Tensor
    mask: Tensor

    def reorder(self, index: Tensor) -> "Everything":
        return Everything(self.ids[index], self.states[index], self.mask[index])

    def reorder_past(self, index: Tensor) -> "Everything":
        return Everything(self.ids[index], self.states, self.mask)


@pytest.fixture(scope="module")
def bart() -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=VOCABULARY, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=40, pad_token_id=3,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, forced_eos_token_id=None, init_std=0.7,
    )  # fmt: skip
    model = BartForConditionalGeneration(config).eval()
    # Ends are likely enough for sequences of many lengths.
    model.final_logits_bias[0, 2] = 1.5
    return model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_length": 6},
        {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
        {"num_beams": 3, "num_return_sequences": 3},
        {"num_beams": 4, "length_penalty": 0.0},
        {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "num_return_sequences": 2},
        {"num_beams": 4, "length_penalty": -1.0, "early_stopping": "never"},
        {"num_beams": 3, "length_penalty": 1.5, "early_stopping": "never", "no_repeat_ngram_size": 3, "min_length": 4},
        {"num_beams": 2, "repetition_penalty": 1.5},
        {"do_sample": True, "temperature": 0.7},
        {"do_sample": True, "top_k": 4, "top_p": 0.8},
        {"do_sample": True, "min_p": 0.2, "num_return_sequences": 3},
    ],
)
def test_ids_are_those_of_transformers(bart: Any, options: dict[str, Any]) -> None:
    source = torch.randint(4, VOCABULARY, (7, 6))
    mask = torch.ones_like(source)
    mask[2, 3:] = 0
    states = bart.model.encoder(source, attention_mask=mask).last_hidden_state

    def step(ids: Tensor, cache: Everything) -> tuple[Tensor, Everything]:
        whole = torch.cat([cache.ids, ids], dim=1)
        output = bart(attention_mask=cache.mask, encoder_outputs=(cache.states,), decoder_input_ids=whole, use_cache=False)
        return output.logits[:, -ids.shape[1] :], Everything(whole, cache.states, cache.mask)

    with torch.no_grad():
        torch.manual_seed(3)
        # Without forgotten rows both draw the same numbers.
        ids, scores = generate_ids(
            step,
            Everything(source[:, :0], states, mask),
            torch.ones(7, 1, dtype=torch.int64),
            decoding=Decoding(**options),
            max_length=12,
            end_id=2,
            pad_id=3,
        )
        torch.manual_seed(3)
        wanted = bart.generate(
            source, attention_mask=mask, max_length=12, return_dict_in_generate=True, output_scores=True,
            **({"top_k": 0} | options if options.get("do_sample") else options),
        )  # fmt: skip
    if not options.get("do_sample"):
        assert ids.tolist() == wanted.sequences.tolist()
    if options.get("num_beams", 1) > 1:
        torch.testing.assert_close(scores, wanted.sequences_scores)
    if options.get("do_sample"):
        first = wanted.sequences[:, 1]
        assert ids[:, 1].tolist() == first.tolist()


@settings(max_examples=25)
@given(
    memory=st.sampled_from(["latents", "written", "both"]),
    cuts=st.lists(st.integers(1, 11), max_size=3),
    padded=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_split_into_cached_steps_gives_the_logits_of_one_call(
    memory: str, cuts: list[int], padded: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    one, (x, masks), ids = model(memory), inputs(4), torch.randint(0, VOCABULARY, (4, 12))
    mask = torch.rand(4, 12) < 0.8 if padded else None
    with torch.no_grad():
        kept = one.memory(x, masks)
        whole = one.head(kept, ids, mask)
        cache, pieces = one.head.start(kept), []
        order = torch.arange(4)
        for start, end in zip([0, *sorted(set(cuts))], [*sorted(set(cuts)), 12], strict=True):
            part = None if mask is None else mask[order, start:end]
            logits, cache = one.head.step(ids[order, start:end], cache, part)
            pieces.append(logits[order.argsort()])
            # Rows may change places between steps.
            turn = torch.randperm(4)
            cache, order = cache.reorder(turn), order[turn]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-10, atol=1e-10)


def test_a_sequence_alone_is_the_same_as_among_others() -> None:
    one, (x, masks) = model("both"), inputs(5)
    for options in ({}, {"num_beams": 3}):
        together = perceiver.generate(one, x, masks, max_length=10, **options)  # type: ignore[arg-type]
        for row in range(5):
            alone = perceiver.generate(
                one,
                {name: value[row : row + 1] for name, value in x.items()},
                {name: value[row : row + 1] for name, value in masks.items()},
                max_length=10,
                **options,  # type: ignore[arg-type]
            )
            length = int(together.lengths[row])
            assert int(alone.lengths[0]) == length
            assert alone.ids[0, :length].tolist() == together.ids[row, :length].tolist()
            assert float(alone.scores[0]) == pytest.approx(float(together.scores[row]), abs=1e-5)


def test_ragged_prompts_and_the_streamer() -> None:
    one, (x, masks) = model("written"), inputs(2)
    prompt = torch.tensor([[0, 0, 1, 5], [1, 7, 4, 3]])
    valid = torch.tensor([[False, False, True, True], [True, True, True, True]])
    together = perceiver.generate(one, x, masks, prompt=prompt, prompt_mask=valid, max_length=9)
    first = {name: value[:1] for name, value in x.items()}, {name: value[:1] for name, value in masks.items()}
    alone = perceiver.generate(one, *first, prompt=prompt[:1, 2:], max_length=7)
    assert alone.ids[0, 2:].tolist() == together.ids[0, 4 : 2 + alone.ids.shape[1]].tolist()

    class Listener:
        def __init__(self) -> None:
            self.got: list[Tensor] = []
            self.ended = False

        def put(self, value: Tensor) -> None:
            self.got.append(value.clone())

        def end(self) -> None:
            self.ended = True

    listener = Listener()
    streamed = perceiver.generate(one, x, masks, prompt=prompt, prompt_mask=valid, max_length=9, streamer=listener)
    assert listener.ended
    assert torch.equal(torch.cat([listener.got[0], torch.stack(listener.got[1:], dim=1)], dim=1), streamed.ids)


@pytest.mark.parametrize("memory", ["latents", "written", "both"])
def test_attention_survives_beams(memory: str) -> None:
    """Weights of the returned sequences, on the grids of what was read: those of one call on the finished ids."""
    one, (x, masks) = model(memory), inputs(3)
    masks["image"][0] = True
    out = perceiver.generate(one, x, masks, num_beams=3, num_return_sequences=2, max_length=8, return_attention=True)
    assert out.attention is not None
    assert out.ids.shape[0] == 6
    assert len(out.attention) == 2
    names = {"latents": {"latents"}, "written": {"image", "text"}, "both": {"image", "text", "latents"}}[memory]
    for layer in out.attention:
        assert set(layer) == names
        total = sum(weights.flatten(3).sum(-1) for weights in layer.values())
        seen = torch.ones(3, dtype=torch.bool) if "latents" in names else masks["image"] | masks["text"].any(dim=1)
        torch.testing.assert_close(total, seen.repeat_interleave(2)[:, None, None].expand_as(total).to(total.dtype))  # type: ignore[union-attr, arg-type]
        if "image" in names:
            assert layer["image"].shape[3:] == (4, 5)
            assert float(layer["image"][(~masks["image"]).repeat_interleave(2)].abs().sum()) == 0.0


def test_scores_are_sums_of_log_probabilities() -> None:
    one, (x, masks) = model("latents"), inputs(4)
    out = perceiver.generate(one, x, masks, max_length=9)
    with torch.no_grad():
        logits = one(x, masks, target_ids=out.ids[:, :-1])
    chosen = logits.log_softmax(-1).gather(2, out.ids[:, 1:, None])[..., 0]
    wanted = [float(chosen[row, : int(length) - 1].sum()) for row, length in enumerate(out.lengths)]
    assert out.scores.tolist() == pytest.approx(wanted, abs=1e-4)


def test_forward_and_backward_reach_every_parameter() -> None:
    one, (x, masks) = model("both").train(), inputs(4)
    masks["image"][:] = True
    masks["text"][:] = True
    one(x, masks, target_ids=torch.randint(0, VOCABULARY, (4, 5))).sum().backward()
    missing = [name for name, parameter in one.named_parameters() if parameter.grad is None]
    assert missing == []


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"max_length": 17}, "at most 16"),
        ({"prompt": torch.ones(2, 16, dtype=torch.int64)}, "Shorten the prompt"),
        ({"temperature": 0.5}, "do_sample = true"),
        ({"num_return_sequences": 2}, "num_beams = 1"),
        ({"num_beams": 0}, "num_beams: expected at least 1"),
        ({"do_sample": True, "top_p": 0.0}, "top_p"),
        ({"do_sample": True, "num_beams": 2}, "beam search"),
    ],
)
def test_bad_settings_are_one_clear_error(options: dict[str, Any], fragment: str) -> None:
    one, (x, masks) = model("latents"), inputs(2)
    with pytest.raises(ValueError, match=fragment):
        perceiver.generate(one, x, masks, **options)


def test_models_without_a_causal_decoder_say_so() -> None:
    one, (x, masks) = model("latents"), inputs(2)
    with pytest.raises(ValueError, match=r"perceiver\.generate"):
        one(x, masks)
    one.head = torch.nn.Identity()
    with pytest.raises(ValueError, match="CausalDecoder"):
        perceiver.generate(one, x, masks)
    with pytest.raises(ValueError, match="predicts no sequence"):
        one(x, masks, target_ids=torch.ones(2, 3, dtype=torch.int64))


def test_sequences_are_what_was_generated() -> None:
    ids = torch.tensor([[1, 60, 70, 71, 2], [1, 60, 80, 2, 0]])
    made = Generated(ids=ids, scores=torch.zeros(2), lengths=torch.tensor([5, 4]), prompt=2)
    assert made.sequences(2) == made.new().sequences(2) == [[70, 71], [80]]
