"""`explain`: the tokens of a raw sample that a prediction depends on, by modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perceiver.decoders.decoder import SequenceDecoder, target_output
from perceiver.decoders.next_token import NextTokenHead
from perceiver.inspection.gradients import integrated_gradients, require_vector
from perceiver.inspection.rollout import attention_rollout
from perceiver.model import Perceiver
from perceiver.runtime.evaluating import evaluating
from perceiver.samples.collate import Collate
from perceiver.targets.kinds import target_of
from perceiver.targets.predict import prepare

Method = Literal["rollout", "integrated_gradients"]


@dataclass(frozen=True, eq=False)
class Explanation:
    """The tokens that a prediction depends on.

    Args:
        prediction: the prediction for the sample; a text has an `alignment` with a map for every word.
        output: index of the explained output: a class, or a word of a text.
        method: the method.
        tokens: contribution of each token, on the grid of its modality: `(rows, columns)` of an image, `(time,)` of a sound.
            Shares of attention are at least 0; gradients have signs.
    """

    prediction: Any
    output: int | None
    method: str
    tokens: dict[str, NDArray[np.float32]]

    @property
    def modalities(self) -> dict[str, float]:
        """The share of each modality in the sum of all magnitudes."""
        sums = {name: float(np.abs(values).sum()) for name, values in self.tokens.items()}
        total = sum(sums.values()) or 1.0
        return {name: value / total for name, value in sums.items()}


def explain(
    model: Perceiver, sample: Any, *, method: Method = "rollout", output: int | None = None, steps: int = 32
) -> Explanation:
    """Explain the prediction for a raw sample by the tokens of its modalities.

    Args:
        model: a model with a spec, such as `perceiver.load` returns.
        sample: a raw sample, as `Perceiver.predict` takes it.
        method: `rollout`, attention followed from the output to the tokens, for every head and in one forward pass; or
            `integrated_gradients` (extra `explain`), for outputs `(B, c)`, `steps` forward and backward passes.
        output: index of the output to explain. A class number; None: the largest output. Attention of a pooled head or of
            a single query is the same for all outputs. For a text, the number of a word; None: the mean over all words.
        steps: steps of the integral of `integrated_gradients`.

    Raises:
        ValueError: without a spec, for an unknown method or output, or for gradients of a model that generates texts.

    Examples:
        >>> import numpy as np
        >>> import perceiver
        >>> from perceiver import Encoder, Fourier, Perceiver, PooledHead
        >>> from perceiver.adapters import ImagePixels
        >>> image = ImagePixels(image_channels=1, position=Fourier(num_bands=2, resolution=(8, 8)))
        >>> spec = {
        ...     "modalities": {"image": {"kind": "image", "shape": [1, 8, 8]}},
        ...     "target": {"kind": "classes", "names": ["cat", "dog"]},
        ... }
        >>> model = Perceiver(
        ...     adapters={"image": image},
        ...     encoder=Encoder(token_channels=image.channels, num_latents=4, latent_channels=16, num_layers_per_block=1),
        ...     head=PooledHead(latent_channels=16, num_classes=2),
        ...     spec=spec,
        ... )
        >>> found = perceiver.explain(model, np.zeros((8, 8), np.uint8))
        >>> found.tokens["image"].shape, found.modalities
        ((8, 8), {'image': 1.0})
    """
    if method not in ("rollout", "integrated_gradients"):
        raise ValueError(f"explain.method: expected rollout or integrated_gradients, got {method!r}.")
    modalities = (model.spec or {}).get("modalities")
    if not modalities:
        raise ValueError("explain: the model has no spec to prepare samples with; use a model that perceiver.load returned.")
    if isinstance(model.head, NextTokenHead):
        raise ValueError("explain: expected a model that predicts a target from its inputs; NextTokenHead continues a text.")
    if isinstance(model.head, SequenceDecoder):
        return _of_text(model, sample, method=method, output=output)
    device = next(model.parameters()).device
    batch = Collate(modalities=modalities)([prepare(sample, modalities, number=0)]).to(device)
    given = model.without_target(batch.inputs, batch.masks)
    with evaluating(model):
        tokens = model.tokens(given["inputs"], given["masks"], mask_rates=given["mask_rates"])
        outputs = target_output(model.head, model.from_tokens(tokens))
        target = target_of(model.spec)
        prediction = None if target is None else target.predict(outputs)[0]
        chosen = _output(outputs, output)
        if method == "integrated_gradients":
            require_vector(outputs)
            assert chosen is not None
            with torch.enable_grad():
                found = integrated_gradients(model, tokens, output=chosen, steps=steps)
        else:
            reached = attention_rollout(model, tokens)
            found = {name: _of_output(one, outputs, chosen) for name, one in reached.items()}
    return Explanation(prediction, chosen, method, {name: one[0].float().cpu().numpy() for name, one in found.items()})


def _of_text(model: Perceiver, sample: Any, *, method: Method, output: int | None) -> Explanation:
    """Explain a generated text, or one of its words, by the decoder's attention; see `Perceiver.attention_of_ids`."""
    if method != "rollout":
        raise ValueError(
            f"explain.method: expected rollout for {type(model.head).__name__}, which generates a text id by id; got "
            f"{method!r}."
        )
    samples = [sample] if isinstance(sample, Mapping) else sample
    [prediction] = model.predict(samples, alignments=True)
    maps = prediction.alignment.maps
    count = len(prediction.alignment.words)
    if output is not None and not 0 <= output < count:
        raise ValueError(f"explain.output: expected a word of the text, 0 to {count - 1}, got {output}.")
    chosen = slice(None) if output is None else slice(output, output + 1)
    tokens = {name: one[chosen].sum(axis=0) / max(len(one[chosen]), 1) for name, one in maps.items()}
    return Explanation(prediction, output, method, tokens)


def _output(outputs: Any, given: int | None) -> int | None:
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        return given
    if given is not None and not 0 <= given < outputs.shape[1]:
        raise ValueError(f"explain.output: expected 0 to {outputs.shape[1] - 1}, got {given}.")
    return int(outputs[0].argmax()) if given is None else given


def _of_output(reached: Tensor, outputs: Any, chosen: int | None) -> Tensor:
    """Return the tokens' shares in one output, `(1, *grid)`: of its query if each output has one, else the mean over all."""
    queries = reached.shape[1]
    if chosen is not None and isinstance(outputs, Tensor) and outputs.ndim == 2 and queries == outputs.shape[1] > 1:
        return reached[:, chosen]
    return reached.mean(dim=1)
