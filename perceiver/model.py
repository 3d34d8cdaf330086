"""Perceiver: adapters, fusion, encoder and a head or decoder, composed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from perceiver.batch import Sample
from perceiver.collate import Collate
from perceiver.decoders import Decoder
from perceiver.encoder import Encoder
from perceiver.fusion import Fusion
from perceiver.masking.modality_dropout import ModalityDropout
from perceiver.modalities.preprocess import preprocess
from perceiver.targets.kinds import target_of
from perceiver.targets.pixels import cut_to_size
from perceiver.tokens import Tokens
from perceiver.zero_gradients import with_zero_gradients


class Perceiver(nn.Module):
    """A model over a dict of modalities, any non-empty subset of which may be present, per batch and per sample.

    What is absent counts as if it were there and masked, in gradients too: every parameter gets one in every step, zeros
    where its modality is absent, so that data-parallel processes may have batches with different modalities.

    Args:
        adapters: one for each modality, by name: an `nn.Module` with `channels` and `forward(x, mask=None) -> Tokens`.
        encoder: built for `Fusion.channels` (the one adapter's `channels` where there is a single modality).
        head: `(B, N, D)` -> output, or a `perceiver.decoders.Decoder`, which gets the tokens and the choice of outputs too.
        fusion: None makes the default one.
        modality_dropout: masks modalities of training samples; None masks none.
        reads: for each cross-attend of the encoder in order the modalities that it reads; None: all read all. One that finds
            none of its modalities in a batch computes what it would if they were there and masked: it reads zeros.
        spec: what the data said of modalities and target; `predict` needs it, and `perceiver.load` sets it.

    Raises:
        ValueError: if there is no adapter, the fusion was built for other modalities, the encoder for another width than
            the fused tokens have, or `modality_dropout` or `reads` do not fit the modalities and the encoder.

    Examples:
        >>> import torch
        >>> from perceiver import Encoder, Fourier, Perceiver, PooledHead
        >>> from perceiver.adapters import ImagePixels
        >>> image = ImagePixels(image_channels=1, position=Fourier(num_bands=4, resolution=(28, 28)))
        >>> encoder = Encoder(token_channels=image.channels, num_latents=8, latent_channels=32)
        >>> head = PooledHead(latent_channels=32, num_classes=10)
        >>> model = Perceiver(adapters={"image": image}, encoder=encoder, head=head)
        >>> model({"image": torch.rand(2, 1, 28, 28)}).shape
        torch.Size([2, 10])
        >>> model.encode({"image": torch.rand(2, 1, 28, 28)}).shape
        torch.Size([2, 8, 32])
    """

    def __init__(
        self,
        *,
        adapters: Mapping[str, nn.Module],
        encoder: Encoder,
        head: nn.Module,
        fusion: Fusion | None = None,
        modality_dropout: ModalityDropout | None = None,
        reads: Sequence[Sequence[str]] | None = None,
        spec: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not adapters:
            raise ValueError("Perceiver.adapters: expected at least one modality, got none.")
        if fusion is None:
            fusion = Fusion(channels={name: int(getattr(adapter, "channels")) for name, adapter in adapters.items()})  # noqa: B009
        if fusion.modalities != tuple(sorted(adapters)):
            raise ValueError(
                f"Perceiver.fusion: expected one for the modalities {sorted(adapters)}, got {list(fusion.modalities)}."
            )
        if encoder.token_channels != fusion.channels:
            raise ValueError(
                f"Perceiver.encoder: expected token_channels = {fusion.channels}, the width of the fused tokens, got "
                f"{encoder.token_channels}."
            )
        if modality_dropout is not None and not set(modality_dropout.rates) <= set(adapters):
            raise ValueError(
                f"Perceiver.modality_dropout.rates: expected any of the modalities {sorted(adapters)}, got "
                f"{sorted(modality_dropout.rates)}."
            )
        if reads is not None:
            _check_reads(reads, modalities=sorted(adapters), num_cross_attends=encoder.num_cross_attends)
        self.adapters = nn.ModuleDict({name: adapters[name] for name in sorted(adapters)})
        self.fusion = fusion
        self.encoder = encoder
        self.head = head
        self.modality_dropout = modality_dropout
        self.reads = None if reads is None else tuple(tuple(sorted(names)) for names in reads)
        self.spec: dict[str, Any] | None = None if spec is None else dict(spec)
        self.config: dict[str, Any] | None = None
        """What it was built from, where `perceiver.checkpoints.build.build_model` did; `perceiver.save` writes it."""

    def tokens(self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None) -> dict[str, Tokens]:
        """Raw inputs by modality -> fused tokens by modality, in sorted order.

        Args:
            inputs: any non-empty subset of the model's modalities, each of the shape that its adapter takes.
            masks: for any of them `(B,)` presence of samples or `(B, *raw grid)` validity of elements; True is valid. In
                training, modality dropout takes more away.

        Raises:
            ValueError: for an unknown modality, a mask without input, none at all, or different batch sizes.
        """
        masks = {} if masks is None else masks
        self._check_modalities(inputs, masks)
        if self.modality_dropout is not None:
            masks = self.modality_dropout(inputs, masks)
        adapted = {name: self.adapters[name](inputs[name], masks.get(name)) for name in sorted(inputs)}
        fused: dict[str, Tokens] = self.fusion(adapted)
        return fused

    def encode(
        self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "batch latents channels"]:
        """Raw inputs by modality -> latents `(B, N, D)`. See `tokens` for arguments and errors."""
        return self._latents(self.tokens(inputs, masks))

    def _latents(self, tokens: Mapping[str, Tokens]) -> Tensor:
        """Latents `(B, N, D)` of fused tokens, with a zero gradient for what learns from absent modalities."""
        latents: Tensor = self.encoder(list(tokens.values()), **self._reads_of(tokens))
        return with_zero_gradients(latents, self._parameters_of_absent(tokens))

    def forward(
        self,
        inputs: Mapping[str, Any],
        masks: Mapping[str, Tensor] | None = None,
        *,
        index: Any = None,
        query_mask: Any = None,
    ) -> Any:
        """Raw inputs by modality -> output of the head, e.g. logits `(B, num_classes)`.

        Args:
            inputs, masks: see `tokens`.
            index: for a `Decoder`, which outputs to compute, by their places in the flattened output grid: `(k,)`, `(B, k)`,
                or a dict of them by output; None: all.
            query_mask: for a `Decoder`, which of these are wanted, True is valid; others come out as zeros.

        Raises:
            ValueError: as `tokens` does, or for an index or a query mask where the head is no `Decoder`.
        """
        return self.from_tokens(self.tokens(inputs, masks), index=index, query_mask=query_mask)

    def from_tokens(self, tokens: Mapping[str, Tokens], *, index: Any = None, query_mask: Any = None) -> Any:
        """Fused tokens, as `tokens` makes them and perhaps with more of them masked -> output of the head; see `forward`."""
        latents = self._latents(tokens)
        if isinstance(self.head, Decoder):
            return self.head(latents, tokens=tokens, adapters=self.adapters, index=index, mask=query_mask)
        if index is not None or query_mask is not None:
            raise ValueError(
                f"index, query_mask: {type(self.head).__name__} has no outputs to choose from; expected a head that is a "
                "perceiver.decoders.Decoder, such as QueryDecoder."
            )
        return self.head(latents)

    def target_outputs(self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None) -> Any:
        """What the head says of the target of the spec, e.g. logits `(B, num_classes)`, from inputs that do not show it.

        That is the head's output; of a decoder of several outputs the one that it calls its `target`, and others are not
        decoded. See `tokens` for arguments and errors.

        Raises:
            ValueError: the head has several outputs, and none of them is the target.
        """
        target = getattr(self.head, "target", None)
        if target is None:
            outputs = self(inputs, masks)
            if isinstance(outputs, Mapping):
                raise ValueError(
                    f"{type(self.head).__name__}: its outputs are {sorted(outputs)}, none of which is the spec's target; "
                    "MultimodalDecoder has one where its argument target says so."
                )
            return outputs
        none = torch.zeros(0, dtype=torch.int64, device=next(self.parameters()).device)
        others = [name for name in getattr(self.head, "output_channels", ()) if name != target]
        read: Tensor = self(*self.without_target(inputs, masks), index=dict.fromkeys(others, none))[target]
        return read.flatten(1, -2).squeeze(1)

    def without_target(
        self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Inputs and masks of which none shows the target, for models that also take it as an input, to decode it.

        It is then absent. A model whose fusion has a mask token for it (Perceiver IO, section 4.3) gets zeros, in place of
        which that token is read, if the fusion's mask rate is 1.
        """
        target = getattr(self.head, "target", None)
        others = {name: x for name, x in inputs.items() if name != target}
        if isinstance(target, str) and target in self.adapters and target in self.fusion.mask_rates and others:
            first = next(iter(others.values()))
            batch = (first if isinstance(first, Tensor) else next(iter(first.values()))).shape[0]
            channels = int(getattr(self.adapters[target], "channels"))  # noqa: B009
            others[target] = next(self.parameters()).new_zeros(batch, channels)
        return others, {name: mask for name, mask in (masks or {}).items() if name != target}

    def attention_weights(
        self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None
    ) -> list[dict[str, Float[Tensor, "batch heads latents *grid"]]]:
        """What the latents look at: for each cross-attend in order, `(B, h, N, *grid)` by modality.

        A latent's weights over all modalities sum to 1, or to 0 where the sample has no valid token that the cross-attend
        reads; zeros for modalities that it does not read.
        """
        tokens = self.tokens(inputs, masks)
        steps = self.encoder.attention_weights(list(tokens.values()), **self._reads_of(tokens))
        return [dict(zip(tokens, step, strict=True)) for step in steps]

    def attention_by_modality(
        self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None
    ) -> list[dict[str, Float[Tensor, "batch"]]]:
        """How much of the latents' attention each modality gets: for each cross-attend in order, `(B,)` by modality.

        Means over heads and latents. For each sample they sum to 1 over the modalities, or to 0 where it has no valid token
        that the cross-attend reads. The same as sums of `attention_weights`, in bounded memory: for inputs of any size.
        """
        tokens = self.tokens(inputs, masks)
        steps = self.encoder.attention_by_block(list(tokens.values()), **self._reads_of(tokens))
        return [dict(zip(tokens, step, strict=True)) for step in steps]

    @torch.no_grad()
    def predict(self, samples: Iterable[Any], *, batch_size: int = 64) -> list[Any]:
        """What the model says of raw samples, preprocessed as in training.

        Args:
            samples: each a dict of raw modalities, any non-empty subset, or, for a model of one modality, its raw value. See
                `perceiver.modalities.preprocess.preprocess` for what a raw value may be.
            batch_size: samples at a time.

        Returns:
            One for each sample: a `Prediction` of a model that tells classes apart, a `LabelsPrediction` where samples have
            any number of labels, a `ValuesPrediction` of a regression; a `SegmentationPrediction` or a
            `FieldPrediction`, which hold arrays, where each pixel has a class or values. See `perceiver.targets.classes`.

        Raises:
            ValueError: without a spec of the target; for raw values that do not fit the spec, naming the sample.
        """
        target = target_of(self.spec)
        if self.spec is None or target is None:
            raise ValueError(
                "predict: this model has no spec with class names, labels or values; use a model that perceiver.load "
                "returned."
            )
        if batch_size < 1:
            raise ValueError(f"predict: batch_size must be at least 1, got {batch_size}.")
        collate = Collate(modalities=self.spec["modalities"])
        device = next(self.parameters()).device
        training = self.training
        self.eval()
        try:
            predictions: list[Any] = []
            prepared = (self._sample(number, raw) for number, raw in enumerate(samples))
            while rows := list(islice(prepared, batch_size)):
                batch = collate(rows).to(device)
                made = target.predict(self.target_outputs(batch.inputs, batch.masks))
                predictions.extend(cut_to_size(made, target=target, masks=batch.masks))
            return predictions
        finally:
            self.train(training)

    def _reads_of(self, tokens: Mapping[str, Tokens]) -> dict[str, list[list[int]]]:
        """The encoder's argument `reads` for these modalities: which of them each cross-attend reads, by their places."""
        if self.reads is None:
            return {}
        places = {name: place for place, name in enumerate(tokens)}
        return {"reads": [[places[name] for name in names if name in places] for names in self.reads]}

    def _parameters_of_absent(self, tokens: Mapping[str, Tokens]) -> list[Tensor]:
        """What learns from modalities that this batch lacks.

        They must get gradients, zeros, as if their modality were there and masked: data-parallel training waits for the
        gradient of every parameter in every process, and one process may have what another lacks.
        """
        absent = [name for name in self.adapters if name not in tokens]
        parameters = [parameter for name in absent for parameter in self.adapters[name].parameters()]
        return parameters + [self.fusion.padding[name] for name in absent if name in self.fusion.padding]

    def _sample(self, number: int, raw: Any) -> Sample:
        assert self.spec is not None
        modalities = self.spec["modalities"]
        if not isinstance(raw, Mapping):
            if len(modalities) != 1:
                raise ValueError(
                    f"sample {number}: expected a dict with any of {sorted(modalities)}, got {type(raw).__name__}."
                )
            raw = {next(iter(modalities)): raw}
        unknown = set(raw) - set(modalities)
        if unknown:
            raise ValueError(
                f"sample {number}: expected any of the modalities {sorted(modalities)}, got also {sorted(unknown)}."
            )
        inputs: dict[str, Tensor | dict[str, Tensor]] = {
            name: preprocess(value, modality=modalities[name], name=f"sample {number}, modality {name!r}")
            for name, value in raw.items()
        }
        return Sample(inputs=inputs, id=str(number))

    def _check_modalities(self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor]) -> None:
        known = sorted(self.adapters)
        if not isinstance(inputs, Mapping):
            raise TypeError(
                f"inputs: expected a dict from modality to tensor, e.g. {{{known[0]!r}: x}}; got {type(inputs).__name__}."
            )
        if not inputs or set(inputs) - set(known):
            raise ValueError(f"inputs: expected one or more of the modalities {known}, got {sorted(inputs)}.")
        if set(masks) - set(inputs):
            raise ValueError(f"masks: got masks for {sorted(set(masks) - set(inputs))}, of which there is no input.")
        sizes: dict[str, int] = {}
        for name, x in inputs.items():
            parts = {f"{name}.{key}": part for key, part in x.items()} if isinstance(x, Mapping) else {name: x}
            sizes |= {key: part.shape[0] for key, part in parts.items() if isinstance(part, Tensor) and part.ndim}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"inputs: expected one batch size for all modalities, got {sizes}.")


def _check_reads(reads: Sequence[Sequence[str]], *, modalities: Sequence[str], num_cross_attends: int) -> None:
    """Raise ValueError unless there is a list of modalities for each cross-attend, and one that reads each modality."""
    shown = [names if isinstance(names, str) else list(names) for names in reads]
    expected = f"expected a list of modalities for each of the {num_cross_attends} cross-attends, of {list(modalities)}"
    if isinstance(reads, str) or len(reads) != num_cross_attends:
        raise ValueError(f"Perceiver.reads: {expected}; got {len(reads)} entries: {shown}.")
    for step, names in enumerate(shown):
        if isinstance(names, str) or not names:
            raise ValueError(f"Perceiver.reads[{step}]: {expected}, with at least one in each; got {names!r}.")
        unknown = sorted(set(names) - set(modalities))
        if unknown or len(set(names)) < len(names):
            raise ValueError(f"Perceiver.reads[{step}]: {expected}, each at most once; got {names}.")
    unread = sorted(set(modalities).difference(*shown))
    if unread:
        raise ValueError(
            f"Perceiver.reads: no cross-attend reads {unread}. Add each to one of the lists, or build the model without its "
            "adapter."
        )
