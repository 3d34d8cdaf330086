"""The autoregressive encoder: logits against a dense causal reference in float64, laws of the cache, ragged batches."""

import numpy as np
import pytest
import torch
from autoregressive_models import CONTEXT, LATENTS, VOCABULARY, model, ragged, reference_logits
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from perceiver import AutoregressiveEncoder, Perceiver, Tokens

FORMS = ("dense", "factored")


@pytest.fixture(scope="module")
def models() -> dict[str, Perceiver]:
    return {form: model(attention=form) for form in FORMS}


def logits_of(one: Perceiver, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        out: Tensor = one({"text": ids}, None if mask is None else {"text": mask})
    return out


@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 4, LATENTS, LATENTS + 1, CONTEXT])
def test_logits_are_those_of_the_dense_reference(form: str, length: int, rotary: bool) -> None:
    one = model(attention=form, rotary=rotary)
    ids = torch.randint(VOCABULARY, (2, length))
    logits = logits_of(one, ids)
    assert logits.shape == (2, min(LATENTS, length), VOCABULARY)
    for row in range(2):
        # Fourier features are float32 in every precision; both sides have them.
        np.testing.assert_allclose(logits[row].numpy(), reference_logits(one, ids[row].tolist()), atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_no_latent_depends_on_later_ids(models: dict[str, Perceiver], form: str) -> None:
    ids = torch.randint(VOCABULARY, (1, CONTEXT))
    before = logits_of(models[form], ids)
    for place in range(CONTEXT - LATENTS, CONTEXT):
        changed = ids.clone()
        changed[0, place] = (ids[0, place] + 1) % VOCABULARY
        after = logits_of(models[form], changed)
        own = place - (CONTEXT - LATENTS)
        torch.testing.assert_close(after[:, :own], before[:, :own], rtol=0, atol=1e-12)
        assert not torch.allclose(after[:, own], before[:, own])


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, CONTEXT), min_size=1, max_size=4),
    form=st.sampled_from(FORMS),
    padding=st.integers(0, 3),
)
def test_a_ragged_batch_equals_its_samples_alone(
    models: dict[str, Perceiver], lengths: list[int], form: str, padding: int
) -> None:
    ids, mask = ragged(lengths)
    ids, mask = torch.nn.functional.pad(ids, (0, padding), value=7), torch.nn.functional.pad(mask, (0, padding))
    logits = logits_of(models[form], ids, mask)
    for row, length in enumerate(lengths):
        alone = logits_of(models[form], ids[row : row + 1, :length])[0]
        torch.testing.assert_close(logits[row, -len(alone) :], alone, rtol=0, atol=1e-10)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_split_into_cached_steps_gives_the_latents_of_one_call(
    models: dict[str, Perceiver], data: st.DataObject
) -> None:
    one = models["dense"]
    encoder = one.encoder
    assert isinstance(encoder, AutoregressiveEncoder)
    lengths = data.draw(st.lists(st.integers(LATENTS + 1, CONTEXT), min_size=1, max_size=3), label="lengths")
    cuts = data.draw(st.lists(st.integers(1, LATENTS - 1), max_size=3, unique=True).map(sorted), label="cuts")
    ids, mask = ragged(lengths)
    whole = one.tokens({"text": ids}, {"text": mask})["text"]
    # Samples end together, as the encoder aligns them.
    rows = [one.tokens({"text": row[None, :length]})["text"] for row, length in zip(ids, lengths, strict=True)]
    with torch.no_grad():
        wanted = encoder([whole])
    for row, block in enumerate(rows):
        first = block.num_tokens - LATENTS
        pieces = [take(block, first + a, first + b) for a, b in zip([0, *cuts], [*cuts, LATENTS], strict=True)]
        head = take(block, 0, first + pieces[0].num_tokens)
        with torch.no_grad():
            out, cache = encoder.start(head, num_latents=pieces[0].num_tokens)
            latents = [out]
            for piece in pieces[1:]:
                out, cache = encoder.step(piece, cache)
                latents.append(out)
        torch.testing.assert_close(torch.cat(latents, dim=1)[0], wanted[row], rtol=0, atol=1e-10)
        assert cache.length == LATENTS


def take(block: Tokens, start: int, stop: int) -> Tokens:
    return block.take(torch.arange(start, stop))


def test_gradients_agree_between_the_forms(models: dict[str, Perceiver]) -> None:
    ids, mask = ragged([CONTEXT, 9, 3])
    found = []
    for form in FORMS:
        one = models[form]
        one.zero_grad()
        logits = one({"text": ids}, {"text": mask})
        torch.nn.functional.cross_entropy(logits[:, -2:].flatten(0, 1), torch.arange(6)).backward()
        found.append({name: parameter.grad for name, parameter in one.named_parameters()})
        one.zero_grad()
    assert all(grad is not None for grad in found[0].values())
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_masked_ids_change_nothing_and_are_not_read(models: dict[str, Perceiver], form: str) -> None:
    ids = torch.randint(VOCABULARY, (2, CONTEXT))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, : CONTEXT - LATENTS] = False  # no prefix
    other = torch.where(mask, ids, 3)
    torch.testing.assert_close(logits_of(models[form], ids, mask), logits_of(models[form], other, mask))
    with torch.no_grad():
        [weights] = models[form].attention_weights({"text": ids}, {"text": mask})
    assert float(weights["text"][..., : CONTEXT - LATENTS].abs().sum()) == 0


def test_attention_weights_are_causal_and_on_the_samples_own_places(models: dict[str, Perceiver]) -> None:
    ids, mask = ragged([CONTEXT, 9])
    with torch.no_grad():
        [weights] = models["dense"].attention_weights({"text": ids}, {"text": mask})
        [alone] = models["dense"].attention_weights({"text": ids[1:, :9]})
    shown = weights["text"]
    assert shown.shape == (2, 2, LATENTS, CONTEXT)
    torch.testing.assert_close(shown.sum(dim=-1), torch.ones(2, 2, LATENTS, dtype=shown.dtype))
    torch.testing.assert_close(shown[1:, :, :, :9], alone["text"])
    for latent in range(LATENTS):
        assert float(shown[0, :, latent, CONTEXT - LATENTS + latent + 1 :].sum()) == 0
    [shares] = models["dense"].attention_by_modality({"text": ids}, {"text": mask})
    assert shares["text"].tolist() == [1.0, 1.0]


def test_prefix_dropout_leaves_out_its_share_in_training_alone() -> None:
    one = model(prefix_dropout=0.5)
    ids = torch.randint(VOCABULARY, (2, CONTEXT))
    plain = logits_of(one, ids)
    torch.testing.assert_close(plain, logits_of(model(), ids))
    one.train()
    drawn = {tuple(logits_of(one, ids).flatten().tolist()) for _ in range(5)}
    assert len(drawn) > 1
    shortest = {tuple(logits_of(one, ids[:, :LATENTS]).flatten().tolist()) for _ in range(3)}  # no prefix to drop
    assert len(shortest) == 1


def test_autocast_stays_close(models: dict[str, Perceiver]) -> None:
    ids, mask = ragged([CONTEXT, 9])
    one = model().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = logits_of(one, ids, mask)
    exact = logits_of(models["dense"], ids, mask).float()
    assert float((rounded.float() - exact).abs().max()) < 0.1 * float(exact.abs().max())


def test_bad_settings_and_inputs_are_clear_errors() -> None:
    with pytest.raises(ValueError, match=r"AutoregressiveEncoder.num_latents: expected at least 1, got 0"):
        AutoregressiveEncoder(token_channels=4, num_latents=0, latent_channels=8)
    with pytest.raises(ValueError, match=r"prefix_dropout: expected a probability"):
        AutoregressiveEncoder(token_channels=4, num_latents=2, latent_channels=8, prefix_dropout=1.0)
    with pytest.raises(ValueError, match="rotary: expected heads of an even width"):
        AutoregressiveEncoder(token_channels=4, num_latents=2, latent_channels=6, num_self_heads=2)
    encoder = AutoregressiveEncoder(token_channels=4, num_latents=2, latent_channels=8, num_self_heads=2)
    block = Tokens(parts=(torch.rand(1, 5, 4),))
    with pytest.raises(ValueError, match="tokens of one modality on a one-axis grid"):
        encoder([block, block])
    with pytest.raises(ValueError, match=r"got the grids \[\(2, 3\)\]"):
        encoder([Tokens(parts=(torch.rand(1, 2, 3, 4),))])
