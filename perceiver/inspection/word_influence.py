"""Where each word of a prompt changes a sample while it is generated: words are left out along the path to the sample."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from perceiver.decoders.velocity import VelocityHead
from perceiver.generation.flow import solver_times
from perceiver.modalities.preprocess import preprocess, unnormalised
from perceiver.modalities.texts.tokenizers import tokenizer_of
from perceiver.model import Perceiver
from perceiver.runtime.evaluating import evaluating
from perceiver.targets.words import words_of


@dataclass(frozen=True, kw_only=True)
class WordInfluence:
    """What `word_influence` found.

    Args:
        words: words of the prompt.
        times: time of each step, from 0, noise, towards 1, data.
        maps: `(words, steps, *grid)`: how much the velocity changes at each place if the word is left out, as a root mean
            square over channels.
        samples: `(steps, …)`: the estimate of the sample at each step, normalisation undone.
    """

    words: list[str]
    times: list[float]
    maps: Float[Tensor, "words steps *grid"]
    samples: Tensor


def word_influence(
    model: Perceiver, prompt: str, *, modality: str = "text", steps: int = 12, seed: int = 0
) -> WordInfluence:
    """Generate one sample for a prompt, and at each step leave out each word in turn.

    Leaving out is exact: a masked word is read like one that is not there. Unlike attention, the change is an effect of the
    word on the sample.

    Args:
        model: a model that generates images or other samples with channels first, with its spec.
        prompt: the prompt.
        modality: name of the modality of the prompt, of kind text.
        steps: number of Euler steps.
        seed: seed of the noise.

    Raises:
        ValueError: for a model that generates nothing or has no such modality, or an empty prompt.

    Examples:
        >>> from perceiver import Fourier, Fusion, Interface, Perceiver, VelocityHead
        >>> from perceiver.adapters import ImagePatches, TextTokens
        >>> from perceiver.inspection import word_influence
        >>> image = ImagePatches(image_channels=1, patch=4, position=Fourier(num_bands=4, resolution=(7, 7)))
        >>> text = TextTokens(vocabulary_size=262, embedding_channels=16, position=Fourier(num_bands=4, resolution=(32,)))
        >>> adapters = {"image": image, "text": text}
        >>> fusion = Fusion(channels={name: adapter.channels for name, adapter in adapters.items()})
        >>> encoder = Interface(token_channels=fusion.channels, num_latents=4, latent_channels=32, state_channels=16)
        >>> head = VelocityHead(state_channels=16, adapters=adapters)
        >>> spec = {"modalities": {
        ...     "image": {"kind": "image", "shape": [1, 28, 28], "mean": [0.5], "std": [0.5]},
        ...     "text": {"kind": "text", "vocabulary_size": 262},
        ... }}
        >>> model = Perceiver(adapters=adapters, encoder=encoder, head=head, fusion=fusion, spec=spec)
        >>> found = word_influence(model, "a large seven", steps=3)
        >>> found.words, found.maps.shape
        (['a', 'large', 'seven'], torch.Size([3, 3, 28, 28]))
    """
    head = model.head
    modalities = (model.spec or {}).get("modalities") or {}
    if not isinstance(head, VelocityHead) or head.modality not in modalities:
        raise ValueError("model: expected one of task=flow_matching with its spec, such as one from perceiver.load.")
    if modality not in modalities or modality == head.modality:
        raise ValueError(f"modality: expected a text among {sorted(set(modalities) - {head.modality})}, got {modality!r}.")
    ids = preprocess(prompt, spec=modalities[modality], name="prompt")
    assert isinstance(ids, Tensor)
    words = words_of(tokenizer_of(modalities[modality].get("tokenizer")).pieces(ids.tolist()))
    if not words:
        raise ValueError("prompt: expected one word or more, got spaces.")
    kept = torch.ones(len(words) + 1, len(ids), dtype=torch.bool)
    for row, word in enumerate(words, start=1):
        kept[row, word.start : word.end] = False
    device = next(model.parameters()).device
    spec = modalities[head.modality]
    shape = [1, *(int(size) for size in spec["shape"])]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    texts, masks = ids.to(device).expand(len(kept), -1), {modality: kept.to(device)}
    times = solver_times(steps, shift=head.time_shift)
    maps, samples = [], []
    with evaluating(model):
        for time, after in pairwise(times):
            every = x.expand(len(kept), *x.shape[1:])
            at = torch.full((len(kept),), time, device=device)
            found = model.velocity({head.modality: every, modality: texts}, masks, time=at)
            velocity = head.raw(model.adapters, every, found.values)
            maps.append((velocity[1:] - velocity[:1]).square().mean(dim=1).sqrt())
            samples.append(x + (1 - time) * velocity[:1])
            x = x + (after - time) * velocity[:1]
    return WordInfluence(
        words=[word.text for word in words],
        times=times[:-1],
        maps=torch.stack(maps, dim=1).cpu(),
        samples=unnormalised(torch.cat(samples).cpu(), spec),
    )
