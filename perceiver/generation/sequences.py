"""Generate sequences from a model with a causal decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from perceiver.decoders.causal import CausalDecoder
from perceiver.decoders.decoding import Decoding
from perceiver.decoders.memory import Memory
from perceiver.decoders.next_token import NextTokenHead
from perceiver.generation.beams import beam_search
from perceiver.generation.step import Caching, Step, Streamer


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Generated sequences, `num_return_sequences` for each sample, beside one another.

    Args:
        ids: `(S, L)`, prompts included; after the end id come padding ids.
        scores: `(S,)`, sums of log probabilities of the generated ids; for beams divided by the length penalty.
        lengths: `(S,)`, number of ids with prompt and end id.
        attention: for each layer, `(S, h, L - 1, *grid)` by block of the memory: row i belongs to the prediction of
            `ids[:, i + 1]`. None unless asked for.
        prompt: number of ids of the prompts.
        length_penalty: power of the number of generated ids by which the scores are divided; 0 for sums.
        maps: the same over the inputs, averaged over layers and heads: `(S, L - 1, *grid)` by modality. None unless asked
            for; see `perceiver.Perceiver.target_outputs`.

    Examples:
        >>> import torch
        >>> from perceiver import Generated
        >>> ids = torch.tensor([[1, 70, 71, 2], [1, 80, 2, 0]])
        >>> Generated(ids=ids, scores=torch.zeros(2), lengths=torch.tensor([4, 3])).sequences(end_id=2)
        [[70, 71], [80]]
    """

    ids: Tensor
    scores: Tensor
    lengths: Tensor
    attention: list[dict[str, Tensor]] | None = None
    maps: dict[str, Tensor] | None = None
    prompt: int = 1
    length_penalty: float = 0.0

    def cpu(self) -> Generated:
        """Return the same in main memory."""
        return replace(
            self,
            ids=self.ids.cpu(),
            scores=self.scores.cpu(),
            lengths=self.lengths.cpu(),
            attention=None if self.attention is None else [_cpu(layer) for layer in self.attention],
            maps=None if self.maps is None else _cpu(self.maps),
        )

    def new(self) -> Generated:
        """Return the same without the prompts."""
        assert self.attention is None
        return replace(self, ids=self.ids[:, self.prompt :], lengths=self.lengths - self.prompt, prompt=0)

    def sequences(self, end_id: int) -> list[list[int]]:
        """Return the generated ids of each sequence, without prompt, end id and padding."""
        rows = zip(self.ids.tolist(), self.lengths.tolist(), strict=True)
        return [[number for number in ids[self.prompt : length] if number != end_id] for ids, length in rows]


@runtime_checkable
class Generator(Protocol):
    """A model with a memory for a causal decoder; `perceiver.Perceiver` is one."""

    head: Any

    def memory(self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None) -> Memory:
        """Return what the decoder reads."""
        ...


@torch.no_grad()
def generate(
    model: Generator,
    inputs: Mapping[str, Any],
    masks: Mapping[str, Tensor] | None = None,
    *,
    prompt: Int[Tensor, "batch length"] | None = None,
    prompt_mask: Bool[Tensor, "batch length"] | None = None,
    max_length: int | None = None,
    max_new_tokens: int | None = None,
    min_length: int = 0,
    num_beams: int = 1,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    length_penalty: float = 1.0,
    early_stopping: Any = False,
    num_return_sequences: int = 1,
    generator: torch.Generator | None = None,
    streamer: Streamer | None = None,
    return_attention: bool = False,
) -> Generated:
    """Generate a sequence of ids for each sample. Call `model.eval()` first.

    Names and meanings are those of `transformers`' `generate`; see `Decoding`.

    Args:
        model: a model whose head is a `perceiver.decoders.CausalDecoder`, or a `perceiver.decoders.NextTokenHead`, which
            continues the text in `inputs`.
        inputs: any non-empty subset of the model's modalities; see `Perceiver.tokens`.
        masks: see `Perceiver.tokens`.
        prompt: ids `(B, P)` that every sequence starts with, the start id first; None: the start id.
        prompt_mask: `(B, P)`, True where an id of the prompt is valid, for prompts of different lengths. Padding comes
            first: the last id of each row is valid.
        generator: random state for `do_sample`; None: torch's own.
        streamer: receives ids while they are generated; not for beam search.
        return_attention: also return which tokens of the memory each step reads.
        max_length, max_new_tokens, min_length, num_beams, do_sample, temperature, top_k, top_p, min_p, repetition_penalty,
            no_repeat_ngram_size, length_penalty, early_stopping, num_return_sequences: see `Decoding`.

    Raises:
        ValueError: for a head that is no causal decoder, a prompt that is as long as the context, or settings out of range.

    Examples:
        >>> import torch
        >>> from perceiver import Encoder, Fourier, Perceiver, generate
        >>> from perceiver.adapters import ImagePixels
        >>> from perceiver.decoders import CausalDecoder, LatentMemory
        >>> image = ImagePixels(image_channels=1, position=Fourier(num_bands=4, resolution=(8, 8)))
        >>> encoder = Encoder(token_channels=image.channels, num_latents=4, latent_channels=32)
        >>> head = CausalDecoder(memory=LatentMemory(latent_channels=32), vocabulary_size=30, max_length=12)
        >>> model = Perceiver(adapters={"image": image}, encoder=encoder, head=head).eval()
        >>> generate(model, {"image": torch.rand(2, 1, 8, 8)}, num_beams=3).ids.shape[0]
        2
    """
    decoding = Decoding(
        max_length=max_length,
        max_new_tokens=max_new_tokens,
        min_length=min_length,
        num_beams=num_beams,
        do_sample=do_sample,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram_size=no_repeat_ngram_size,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        num_return_sequences=num_return_sequences,
    )
    if isinstance(model.head, NextTokenHead):
        if prompt is not None or prompt_mask is not None or return_attention:
            raise ValueError(
                "prompt, prompt_mask, return_attention: expected none of them for a NextTokenHead; it continues the texts "
                "in `inputs`."
            )
        from perceiver.generation.continuation import continue_sequences  # which uses this module

        return continue_sequences(model, inputs, masks, decoding=decoding, generator=generator, streamer=streamer)
    return generate_from_memory(
        model.head,
        model.memory(inputs, masks),
        decoding=decoding,
        prompt=prompt,
        prompt_mask=prompt_mask,
        generator=generator,
        streamer=streamer,
        return_attention=return_attention,
    )


@torch.no_grad()
def generate_from_memory(
    decoder: CausalDecoder,
    memory: Memory,
    *,
    decoding: Decoding,
    prompt: Int[Tensor, "batch length"] | None = None,
    prompt_mask: Bool[Tensor, "batch length"] | None = None,
    generator: torch.Generator | None = None,
    streamer: Streamer | None = None,
    return_attention: bool = False,
) -> Generated:
    """Generate a sequence for each sample of a memory; see `generate`."""
    if prompt is None:
        prompt = torch.full((memory.batch, 1), decoder.start_id, device=decoder.embedding.weight.device)
    most = decoding.most(prompt.shape[1], otherwise=decoder.max_length)
    if most > decoder.max_length:
        raise ValueError(f"max_length: expected at most {decoder.max_length}, what the decoder was built for; got {most}.")
    if prompt.ndim != 2 or prompt.shape[0] != memory.batch or not 1 <= prompt.shape[1] < most:
        raise ValueError(
            f"prompt: expected ids ({memory.batch}, length) with a length of 1 to max_length - 1 = {most - 1}, got "
            f"{tuple(prompt.shape)}. Shorten the prompt, or raise max_length."
        )
    cache, cached = decoder.start(memory), 0
    if prompt_mask is not None:
        if prompt_mask.shape != prompt.shape or not bool(prompt_mask[:, -1].all()):
            raise ValueError(
                f"prompt_mask: expected {tuple(prompt.shape)} with valid last ids (padding comes first), got "
                f"{tuple(prompt_mask.shape)}."
            )
        cached = prompt.shape[1] - 1
        if cached:
            _, cache = decoder.step(prompt[:, :-1], cache, prompt_mask[:, :-1])
    ids, scores = generate_ids(
        decoder.step,
        cache,
        prompt,
        cached=cached,
        decoding=decoding,
        max_length=most,
        end_id=decoder.end_id,
        pad_id=decoder.pad_id,
        generator=generator,
        streamer=streamer,
    )
    lengths = generated_lengths(ids, prompt.shape[1], end_id=decoder.end_id)
    attention = None
    if return_attention:
        rows = torch.arange(memory.batch, device=ids.device).repeat_interleave(decoding.num_return_sequences)
        seen = None if prompt_mask is None else _extended(prompt_mask, ids.shape[1] - 1)[rows]
        attention = decoder.attention_weights(memory.rows(rows), ids[:, :-1], seen)
    return Generated(
        ids=ids,
        scores=scores,
        lengths=lengths,
        attention=attention,
        prompt=prompt.shape[1],
        length_penalty=decoding.power_of_scores,
    )


def generate_ids(
    step: Step,
    cache: Caching,
    prompt: Int[Tensor, "batch length"],
    *,
    decoding: Decoding,
    max_length: int,
    end_id: int,
    pad_id: int,
    cached: int = 0,
    generator: torch.Generator | None = None,
    streamer: Streamer | None = None,
) -> tuple[Int[Tensor, "sequences all"], Float[Tensor, "sequences"]]:
    """Generate from any step function.

    Args:
        step: ids and cache -> logits of the next ids, and the cache after them.
        cache: the cache before the prompt (after its first `cached` ids), a row for each sample.
        prompt: ids `(B, P)`.
        decoding: settings.
        max_length: most ids, those of the prompt included.
        end_id: id that ends a sequence.
        pad_id: id that fills shorter sequences.
        cached: number of ids of the prompt that the cache already has, fewer than P.
        generator: random state for `do_sample`.
        streamer: receives ids while they are generated.

    Returns:
        ids `(B * num_return_sequences, L)` and scores of the sequences.

    Raises:
        ValueError: for a streamer with beam search, whose ids are known only at the end.
    """
    count = decoding.num_beams if decoding.num_beams > 1 else decoding.num_return_sequences
    if count > 1:
        cache = cache.reorder(torch.arange(prompt.shape[0], device=prompt.device).repeat_interleave(count))
    if decoding.num_beams > 1:
        if streamer is not None:
            raise ValueError("streamer: expected none for beam search, which knows its ids only at the end.")
        ids, scores = beam_search(
            step, cache, prompt, decoding=decoding, max_length=max_length, end_id=end_id, pad_id=pad_id, cached=cached
        )
        return ids.flatten(0, 1), scores.flatten()
    prompt = prompt.repeat_interleave(count, dim=0)
    return _one_by_one(step, cache, prompt, decoding, max_length, end_id, pad_id, cached, generator, streamer)


def _one_by_one(
    step: Step,
    cache: Any,
    prompt: Tensor,
    decoding: Decoding,
    max_length: int,
    end_id: int,
    pad_id: int,
    cached: int,
    generator: torch.Generator | None,
    streamer: Streamer | None,
) -> tuple[Tensor, Tensor]:
    """Take the most probable id, or draw one, until all sequences have ended."""
    rows = prompt.shape[0]
    ids = prompt.new_full((rows, max_length), pad_id)
    ids[:, : prompt.shape[1]] = prompt
    scores = torch.zeros(rows, device=prompt.device)
    running = torch.arange(rows, device=prompt.device)
    open_ = torch.ones(rows, dtype=torch.bool, device=prompt.device)
    new, length = prompt[:, cached:], prompt.shape[1]
    if streamer is not None:
        streamer.put(prompt)
    while length < max_length:
        logits, cache = step(new, cache)
        ranked = decoding.scores(logits[:, -1].float(), ids[running, :length], end_id=end_id)
        if decoding.do_sample:
            token = torch.multinomial(ranked.softmax(dim=-1), 1, generator=generator)[:, 0]
        else:
            token = ranked.argmax(dim=-1)
        gained = ranked.gather(1, token[:, None])[:, 0] - ranked.logsumexp(dim=-1)
        token = torch.where(open_, token, pad_id)
        scores[running] += torch.where(open_, gained, 0.0)
        ids[running, length] = token
        length += 1
        if streamer is not None:
            streamer.put(ids[:, length - 1])
        open_ = open_ & (token != end_id)
        remaining = int(open_.sum())
        if remaining == 0:
            break
        if remaining <= 0.7 * len(open_):
            # Rows that have ended are left behind.
            keep = open_.nonzero()[:, 0]
            cache, running, token, open_ = cache.reorder(keep), running[keep], token[keep], open_[keep]
        new = token[:, None]
    if streamer is not None:
        streamer.end()
    return ids[:, :length], scores


def _cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def generated_lengths(ids: Tensor, prompt: int, *, end_id: int) -> Tensor:
    """Return how many ids each row has up to its first end id after the prompt."""
    ends = ids[:, prompt:] == end_id
    first = torch.where(ends.any(dim=1), ends.int().argmax(dim=1) + 1, ends.shape[1])
    return first + prompt


def _extended(mask: Tensor, length: int) -> Tensor:
    """Append valid places to a mask `(B, P)`, up to a length."""
    return torch.cat([mask, mask.new_ones(mask.shape[0], length - mask.shape[1])], dim=1)
