"""Small autoregressive models with random weights, and their logits by the dense formula, a position at a time."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perceiver import AutoregressiveEncoder, Fourier, NextTokenHead, Perceiver
from perceiver.adapters import LocalContext, TextTokens

Array = np.ndarray[Any, Any]

VOCABULARY = 13
CONTEXT = 20
LATENTS = 6
WIDTH = 8


def model(
    *, attention: str = "dense", rotary: bool = True, local: bool = True, spec: dict[str, Any] | None = None,
    vocabulary: int = VOCABULARY, **settings: Any,
) -> Perceiver:  # fmt: skip
    """Return a model in float64, in evaluation mode, whose weights are large enough to matter."""
    torch.manual_seed(0)
    text = TextTokens(
        vocabulary_size=vocabulary,
        embedding_channels=WIDTH,
        position=Fourier(num_bands=2, resolution=(CONTEXT,)),
        reference_length=CONTEXT,
        local=LocalContext(channels=WIDTH, ngrams=[2, 3], num_buckets=40, width=3) if local else None,
    )
    encoder = AutoregressiveEncoder(
        token_channels=text.channels,
        num_latents=LATENTS,
        latent_channels=8,
        num_layers=2,
        num_cross_heads=2,
        num_self_heads=2,
        rotary=rotary,
        attention=attention,
        **settings,
    )
    head = NextTokenHead(latent_channels=8, channels=WIDTH, vocabulary_size=vocabulary, context=CONTEXT)
    whole = Perceiver(adapters={"text": text}, encoder=encoder, head=head, spec=spec)
    for parameter in whole.parameters():
        nn.init.normal_(parameter, std=0.4)
    return whole.double().eval()


def reference_logits(one: Perceiver, ids: list[int], *, latents: int = LATENTS) -> Array:
    """Return logits `(min(latents, M), V)` of one sequence in float64 NumPy: explicit loops over positions and heads."""
    weights = {name: x.detach().numpy() for name, x in one.state_dict().items()}
    with torch.no_grad():
        tokens = one.adapters["text"](torch.tensor([ids])).dense()[0].double().numpy()
    first = max(0, len(ids) - latents)

    def linear(name: str, x: Array) -> Array:
        return np.asarray(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])

    def norm(name: str, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"])

    def forward(name: str, x: Array) -> Array:
        hidden = torch.from_numpy(linear(f"{name}.expand", norm(f"{name}.norm", x)))
        return linear(f"{name}.contract", nn.functional.gelu(hidden).numpy())

    def attend(query: Array, keys: Array, values: Array) -> Array:
        heads = []
        for q, k, v in zip(np.split(query, 2), np.split(keys, 2, axis=1), np.split(values, 2, axis=1), strict=True):
            scores = k @ q / np.sqrt(len(q))
            shares = np.exp(scores - scores.max())
            heads.append(shares / shares.sum() @ v)
        return np.concatenate(heads)

    def rotated(x: Array, place: int) -> Array:
        turned = []
        for head in np.split(x, 2):
            pairs = head[: len(head) // 2] + 1j * head[len(head) // 2 :]
            pairs = pairs * np.exp(1j * place * 10_000.0 ** (-np.arange(len(pairs)) / len(pairs)))
            turned += [pairs.real, pairs.imag]
        return np.concatenate(turned)

    cross = "encoder.cross_attend.attention"
    normed = norm(f"{cross}.tokens.norm", tokens)
    keys, values = linear(f"{cross}.tokens.key", normed), linear(f"{cross}.tokens.value", normed)
    x = linear("encoder.latents", tokens[first:])
    queries = linear(f"{cross}.query", norm(f"{cross}.query_norm", x))
    seen = range(first + 1, len(ids) + 1)
    x = x + linear(
        f"{cross}.output", np.stack([attend(q, keys[:m], values[:m]) for q, m in zip(queries, seen, strict=True)])
    )
    x = x + forward("encoder.cross_attend.feed_forward", x)
    for layer, module in enumerate(one.encoder.layers):
        own = f"encoder.layers.{layer}"
        q, k, v = np.split(linear(f"{own}.attention.qkv", norm(f"{own}.attention.norm", x)), 3, axis=1)
        if module.attention.rotary:  # type: ignore[union-attr]
            q, k = (np.stack([rotated(row, place) for place, row in enumerate(rows)]) for rows in (q, k))
        read = np.stack([attend(q[i], k[: i + 1], v[: i + 1]) for i in range(len(x))])
        x = x + linear(f"{own}.attention.output", read)
        x = x + forward(f"{own}.feed_forward", x)
    out = linear("head.output", norm("head.norm", x))
    return np.asarray(out @ weights["adapters.text.embedding.weight"].T + weights["head.tied_logits.bias"])


def ragged(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Return ids and mask of random sequences of these lengths, padded at the end with an id that would matter."""
    ids = torch.randint(3, VOCABULARY, (len(lengths), max(lengths)))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ids, mask
