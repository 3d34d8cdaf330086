"""Perceiver: adapters, fusion, encoder and a head or decoder, composed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from perceiver.adapters.shared import with_shared
from perceiver.decoders.causal import CausalDecoder
from perceiver.decoders.decoder import SequenceDecoder, StateHead, outputs_of, target_index, target_name, target_output
from perceiver.decoders.decoding import Decoding
from perceiver.decoders.embedding import EmbeddingHead
from perceiver.decoders.memory import LATENTS, Memory
from perceiver.decoders.next_token import NextTokenHead
from perceiver.decoders.sequence_loss import SequenceLoss
from perceiver.decoders.sources import Sources
from perceiver.decoders.velocity import Velocity, VelocityHead
from perceiver.encoders.autoregressive import AutoregressiveEncoder
from perceiver.encoders.encoder import Encoder
from perceiver.encoders.fusion import Fusion
from perceiver.encoders.interface import Interface, Interfaced
from perceiver.generation import continue_sequences, generate_from_memory
from perceiver.masking.modality_dropout import ModalityDropout
from perceiver.runtime.evaluating import evaluating
from perceiver.runtime.regularising import regularising
from perceiver.targets.embeddings import by_similarity, embed, names_as_samples
from perceiver.targets.predict import predict
from perceiver.targets.predictions import Prediction
from perceiver.tokens.tokens import Tokens
from perceiver.tokens.zero_gradients import with_zero_gradients


@regularising(modality_dropout=None)
class Perceiver(nn.Module):
    """A model over a dict of modalities, of which any non-empty subset may be present, per batch and per sample.

    An absent modality is equivalent to a masked modality, also in gradients: every parameter gets a gradient in every step,
    zeros if its modality is absent, so that data-parallel processes may have batches with different modalities.

    Args:
        adapters: adapters by modality, each an `nn.Module` with `channels` and `forward(x, mask=None) -> Tokens`, or a
            `perceiver.adapters.SharedAdapter`.
        encoder: encoder for tokens of `Fusion.channels` (with a single modality, the adapter's `channels`); an
            `AutoregressiveEncoder` for a single text, with a `NextTokenHead`; an `Interface` to generate a modality, with a
            `VelocityHead`.
        head: `(B, N, D)` -> output, or a `perceiver.decoders.Decoder`, which also gets the tokens and an index of outputs.
        fusion: fusion of the modalities; None: the default fusion.
        modality_dropout: masks modalities of training samples; None: no dropout.
        reads: for each cross-attend of the encoder, in order, the modalities that it reads; None: all read all. Without any
            of its modalities in a batch, a cross-attend reads zeros, as if they were masked.
        spec: the data's spec of modalities and target; required by `predict`, set by `perceiver.load`.

    Raises:
        ValueError: without adapters, or if the fusion has other modalities, the encoder another width than the fused tokens,
            or `modality_dropout` or `reads` do not fit the modalities and the encoder.

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
        encoder: Encoder | AutoregressiveEncoder | Interface,
        head: nn.Module,
        fusion: Fusion | None = None,
        modality_dropout: ModalityDropout | None = None,
        reads: Sequence[Sequence[str]] | None = None,
        spec: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not adapters:
            raise ValueError("Perceiver.adapters: expected at least one modality, got none.")
        adapters = with_shared(adapters)
        if fusion is None:
            fusion = Fusion(channels={name: cast("Any", adapter).channels for name, adapter in adapters.items()})
        if fusion.modalities != tuple(sorted(adapters)):
            raise ValueError(
                f"Perceiver.fusion: expected a fusion of the modalities {sorted(adapters)}, got {list(fusion.modalities)}."
            )
        if encoder.token_channels != fusion.channels:
            raise ValueError(
                f"Perceiver.encoder: expected token_channels = {fusion.channels}, the width of the fused tokens, got "
                f"{encoder.token_channels}."
            )
        if hasattr(encoder, "state_channels") != isinstance(head, StateHead):
            raise ValueError(
                "Perceiver: an Interface needs a head for the tokens that it writes, such as VelocityHead, and such a head "
                f"an Interface; got {type(encoder).__name__} and {type(head).__name__}. model=interface sets both."
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
        """Configuration from which `perceiver.checkpoints.build.build_model` built the model; `perceiver.save` writes it."""

    def tokens(
        self,
        inputs: Mapping[str, Any],
        masks: Mapping[str, Tensor] | None = None,
        *,
        mask_rates: Mapping[str, float] | None = None,
    ) -> dict[str, Tokens]:
        """Convert raw inputs by modality to fused tokens by modality, in sorted order.

        Args:
            inputs: any non-empty subset of the model's modalities, each in the shape that its adapter takes.
            masks: optional, by modality: `(B,)` presence of samples or `(B, *raw grid)` validity of elements; True is valid.
                In training, modality dropout masks more.
            mask_rates: how often mask tokens replace the tokens of a modality, overriding the fusion's rates; see `Fusion`.

        Raises:
            ValueError: for an unknown modality, a mask without input, empty inputs, no samples, or different batch sizes.
        """
        masks = {} if masks is None else masks
        self._check_modalities(inputs, masks)
        if self.modality_dropout is not None:
            masks = self.modality_dropout(inputs, masks)
        adapted = {name: self.adapters[name](inputs[name], masks.get(name)) for name in sorted(inputs)}
        fused: dict[str, Tokens] = self.fusion(adapted, mask_rates=mask_rates)
        return fused

    def encode(
        self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, "batch latents channels"]:
        """Encode raw inputs by modality as latents `(B, N, D)`. See `tokens` for arguments and errors."""
        return self._latents(self.tokens(inputs, masks))

    def _latents(self, tokens: Mapping[str, Tokens]) -> Tensor:
        """Return latents `(B, N, D)` of fused tokens, with zero gradients for parameters of absent modalities."""
        if isinstance(self.head, StateHead):
            return self._interfaced(tokens).latents
        latents: Tensor = self.encoder(list(tokens.values()), **self._reads_of(tokens))
        return with_zero_gradients(latents, self._parameters_of_absent(tokens))

    def _interfaced(
        self, tokens: Mapping[str, Tokens], time: Tensor | None = None, previous: Tensor | None = None
    ) -> Interfaced:
        """Return what an `Interface` makes of fused tokens, with zero gradients for parameters of absent modalities."""
        done: Interfaced = self.encoder(list(tokens.values()), time=time, previous=previous, **self._reads_of(tokens))
        return replace(done, state=with_zero_gradients(done.state, self._parameters_of_absent(tokens)))

    def velocity(
        self,
        inputs: Mapping[str, Any],
        masks: Mapping[str, Tensor] | None = None,
        *,
        time: Float[Tensor, "batch"] | None = None,
        previous: Float[Tensor, "batch latents channels"] | None = None,
        self_condition: bool = False,
    ) -> Velocity:
        """Predict the velocity of noisy samples of the modality that the model generates, given the other modalities.

        Args:
            inputs, masks: see `tokens`; the generated modality is noisy, and must be present.
            time: `(B,)`, from 0, noise, to 1, data; None: 1 for all.
            previous: latents of an earlier call, for a model with latent self-conditioning; None: none.
            self_condition: start from the latents of a first pass, without gradients, over the same tokens: those that
                modality dropout left.

        Raises:
            ValueError: as `tokens`; if the head is not a `VelocityHead`, or the generated modality is absent.
        """
        if not isinstance(self.head, VelocityHead):
            raise ValueError(
                "Perceiver.velocity: expected a model that generates a modality, whose head is a VelocityHead, got "
                f"{type(self.head).__name__}."
            )
        tokens = self.tokens(inputs, masks)
        if self_condition:
            with torch.no_grad():
                previous = self._interfaced(tokens, time).latents
            # Some versions of torch would reuse weights that autocast cast without gradients.
            torch.clear_autocast_cache()
        done = self._interfaced(tokens, time, previous)
        noisy = self.head.noisy(self.adapters, inputs[self.head.modality], (masks or {}).get(self.head.modality))
        time = torch.ones(1, device=noisy.device) if time is None else time
        return Velocity(values=self.head(done.state, noisy=noisy, time=time), latents=done.latents)

    def forward(
        self,
        inputs: Mapping[str, Any],
        masks: Mapping[str, Tensor] | None = None,
        *,
        index: Any = None,
        query_mask: Any = None,
        mask_rates: Mapping[str, float] | None = None,
        target_ids: Int[Tensor, "batch length"] | None = None,
        target_loss: SequenceLoss | None = None,
    ) -> Any:
        """Map raw inputs by modality to the output of the head, e.g. logits `(B, num_classes)`.

        Args:
            inputs, masks, mask_rates: see `tokens`.
            index: for a `Decoder`: outputs to compute, as positions in the flattened output grid, `(k,)`, `(B, k)`, or a
                dict by output; None: all.
            query_mask: for a `Decoder`: validity of these outputs, True is valid; invalid outputs are zeros.
            target_ids: for a `CausalDecoder`: the ids before each predicted id, `(B, L)`, start ids first.
            target_loss: for a `CausalDecoder`: return this loss instead of logits.

        Raises:
            ValueError: as `tokens`, or for an index, a query mask or ids that the head does not take.
        """
        if isinstance(self.head, StateHead):
            _refuse_for_state(self.head, index=index, query_mask=query_mask, target_ids=target_ids, target_loss=target_loss)
            return self.velocity(inputs, masks).values
        tokens = self.tokens(inputs, masks, mask_rates=mask_rates)
        return self.from_tokens(tokens, index=index, query_mask=query_mask, target_ids=target_ids, target_loss=target_loss)

    def from_tokens(
        self,
        tokens: Mapping[str, Tokens],
        *,
        index: Any = None,
        query_mask: Any = None,
        target_ids: Int[Tensor, "batch length"] | None = None,
        target_loss: SequenceLoss | None = None,
    ) -> Any:
        """Map fused tokens from `tokens`, possibly with additional masks, to the output of the head; see `forward`."""
        if isinstance(self.head, StateHead):
            raise ValueError(
                f"from_tokens: {type(self.head).__name__} also needs the content of the tokens; use Perceiver.velocity."
            )
        latents = self._latents(tokens)
        return outputs_of(
            self.head,
            latents,
            tokens=tokens,
            adapters=self.adapters,
            index=index,
            mask=query_mask,
            target_ids=target_ids,
            target_loss=target_loss,
        )

    def memory(self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None) -> Memory:
        """Map raw inputs by modality to what a `CausalDecoder` reads at every step. See `tokens` for arguments and errors.

        Raises:
            ValueError: if the head is not a `CausalDecoder`.
        """
        if not isinstance(self.head, SequenceDecoder):
            raise ValueError(_no_memory("Perceiver.memory", self.head))
        tokens = self.tokens(inputs, masks)
        memory: Memory = self.head.memory(self._latents(tokens), tokens)
        return memory

    def rollout(
        self, tokens: Mapping[str, Tokens], *, by_norm: bool = False
    ) -> dict[str, Float[Tensor, "batch latents *grid"]]:
        """Return how much of each of the fused tokens reaches each latent, by modality; see `Encoder.rollout`.

        Raises:
            ValueError: for an `AutoregressiveEncoder`.
        """
        if not isinstance(self.encoder, Encoder):
            raise ValueError(f"rollout: expected a perceiver.Encoder, got {type(self.encoder).__name__}.")
        reached = self.encoder.rollout(list(tokens.values()), **self._reads_of(tokens), by_norm=by_norm)
        return dict(zip(tokens, reached, strict=True))

    def sources(self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None) -> Sources:
        """Return what turns a `CausalDecoder`'s attention to its memory into maps over the inputs.

        Examples:
            >>> import torch
            >>> from perceiver import CausalDecoder, Encoder, LatentMemory, Perceiver, generate
            >>> from perceiver.adapters import ImagePixels
            >>> from perceiver.tokens.positions import Fourier
            >>> image = ImagePixels(image_channels=1, position=Fourier(num_bands=4, resolution=(8, 8)))
            >>> encoder = Encoder(token_channels=image.channels, num_latents=4, latent_channels=32)
            >>> head = CausalDecoder(memory=LatentMemory(latent_channels=32), vocabulary_size=30, max_length=12)
            >>> model = Perceiver(adapters={"image": image}, encoder=encoder, head=head).eval()
            >>> inputs = {"image": torch.rand(2, 1, 8, 8)}
            >>> found = generate(model, inputs, num_beams=2, max_length=6, min_length=6, return_attention=True)
            >>> model.sources(inputs).maps(found.attention[-1])["image"].shape  # (batch, heads, length - 1, rows, columns)
            torch.Size([2, 4, 5, 8, 8])
        """
        with torch.no_grad():
            return Sources(latents=self.rollout(self.tokens(inputs, masks), by_norm=True))

    @torch.no_grad()
    def attention_of_ids(
        self,
        inputs: Mapping[str, Any],
        masks: Mapping[str, Tensor] | None = None,
        *,
        ids: Int[Tensor, "batch length"],
    ) -> dict[str, Float[Tensor, "batch length *grid"]]:
        """Return how much the prediction of the id after each of `ids` attends to each token of the inputs.

        Means over the layers and heads of a `CausalDecoder`, `(B, L, *grid)` by modality: directly for written tokens,
        through `rollout` by norms for latents. The weights of an id over all modalities sum to 1 if the sample has a valid
        token.

        Args:
            inputs, masks: see `tokens`.
            ids: sequences from their start id on.

        Raises:
            ValueError: if the head is not a `CausalDecoder`.
        """
        if not isinstance(self.head, CausalDecoder):
            raise ValueError(_no_memory("Perceiver.attention_of_ids", self.head))
        tokens = self.tokens(inputs, masks)
        memory = self.head.memory(self._latents(tokens), tokens)
        sources = Sources(latents=self.rollout(tokens, by_norm=True) if LATENTS in memory.blocks else {})
        return sources.averaged(self.head.attention_weights(memory, ids))

    def target_outputs(
        self,
        inputs: Mapping[str, Any],
        masks: Mapping[str, Tensor] | None = None,
        *,
        decoding: Decoding | None = None,
        alignments: bool = False,
    ) -> Any:
        """Map raw inputs by modality to the outputs for the target of the spec, e.g. logits `(B, num_classes)`.

        They are computed from inputs without the target. A decoder of several outputs decodes only its `target`; a
        `CausalDecoder` generates one sequence per sample, `perceiver.Generated`, and a `NextTokenHead` the continuation of a
        text.

        Args:
            inputs, masks: see `tokens`.
            decoding: how a `CausalDecoder` or `NextTokenHead` generates; None: as it is configured.
            alignments: for a `CausalDecoder`: also return `Generated.maps`, see `attention_of_ids`.

        Raises:
            ValueError: as `tokens`; if no output of several is the target; or for settings of text generation if the head
                is not a `CausalDecoder`.
        """
        if isinstance(self.head, EmbeddingHead):
            raise ValueError(
                "predict: this model embeds samples and has no output for a target. Use Perceiver.embed, or "
                "Perceiver.zero_shot with the names of the classes."
            )
        if isinstance(self.head, StateHead):
            raise ValueError(
                f"predict: this model generates {self.head.modality!r} and has no output for a target. Use "
                "perceiver.generation.flow.generate."
            )
        if isinstance(self.head, CausalDecoder):
            chosen = replace(decoding or self.head.decoding, num_return_sequences=1)
            generated = generate_from_memory(self.head, self.memory(inputs, masks), decoding=chosen)
            if alignments:
                maps = self.attention_of_ids(inputs, masks, ids=generated.ids[:, :-1])
                generated = replace(generated, maps=maps)
            return generated
        if isinstance(self.head, NextTokenHead) and not alignments:
            chosen = replace(decoding or self.head.decoding, num_return_sequences=1)
            return continue_sequences(self, inputs, masks, decoding=chosen).new()
        if decoding is not None or alignments:
            asked = "alignments" if alignments else "num_beams and other settings of generation"
            raise ValueError(
                f"{asked}: expected a model that generates texts, whose head is a perceiver.decoders.CausalDecoder; got "
                f"{type(self.head).__name__}."
            )
        index = target_index(self.head, device=next(self.parameters()).device)
        return target_output(self.head, self(**self.without_target(inputs, masks), index=index))

    def without_target(self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """Return arguments of `forward` without the target, for models that also take the target as an input.

        If the fusion has a mask token for the target (Perceiver IO, section 4.3), it replaces the absent target.
        """
        target = target_name(self.head)
        return {
            "inputs": {name: x for name, x in inputs.items() if name != target},
            "masks": {name: mask for name, mask in (masks or {}).items() if name != target},
            "mask_rates": {name: 1.0 for name in self.fusion.mask_rates if name == target},
        }

    def attention_weights(
        self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None
    ) -> list[dict[str, Float[Tensor, "batch heads latents *grid"]]]:
        """Return the latents' attention weights: for each cross-attend in order, `(B, h, N, *grid)` by modality.

        A latent's weights over all modalities sum to 1, or to 0 if the sample has no valid token that the cross-attend
        reads. Weights are zero for modalities that it does not read.
        """
        tokens = self.tokens(inputs, masks)
        steps = self.encoder.attention_weights(list(tokens.values()), **self._reads_of(tokens))
        return [dict(zip(tokens, step, strict=True)) for step in steps]

    def attention_by_modality(
        self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None
    ) -> list[dict[str, Float[Tensor, "batch"]]]:
        """Return each modality's share of the latents' attention: for each cross-attend in order, `(B,)` by modality.

        Shares are means over heads and latents. Per sample they sum to 1 over the modalities, or to 0 if the sample has no
        valid token that the cross-attend reads. They equal sums of `attention_weights`, but need bounded memory.
        """
        tokens = self.tokens(inputs, masks)
        steps = self.encoder.attention_by_block(list(tokens.values()), **self._reads_of(tokens))
        return [dict(zip(tokens, step, strict=True)) for step in steps]

    def predict(
        self,
        samples: Any,
        *,
        batch_size: int = 64,
        open_files: bool = True,
        generation: Mapping[str, Any] | None = None,
        alignments: bool = False,
    ) -> list[Any]:
        """Predict the target of the spec for raw samples, preprocessed as in training, in evaluation mode.

        Args:
            samples: one sample, or an iterable of samples. A sample is a dict of raw modalities, any non-empty subset, or,
                for a model of one modality, its raw value: see `perceiver.modalities.preprocess.preprocess`. Raw values
                of every kind may also be files: the bytes of a file, a `pathlib.Path` or, except for texts, a string with
                the path. The number of axes of an array determines whether it is one sample or several.
            batch_size: number of samples at a time.
            open_files: False refuses strings and paths that name files, for a service whose samples come from others.
            generation: how texts are generated, e.g. `{"num_beams": 5}`, as arguments of `perceiver.generation.Decoding`;
                None: as the model is configured.
            alignments: for texts: also return how much each word depends on each part of the inputs.

        Returns:
            A prediction for each sample: `Prediction` for classification, `LabelsPrediction` for multi-label classification,
            `ValuesPrediction` for regression, `SegmentationPrediction` or `FieldPrediction`, which hold arrays, for a class
            or values per pixel, `TextPrediction` for texts. See `perceiver.targets`.

        Raises:
            ValueError: without a spec of the target; for raw values that do not fit the spec, naming the sample; for
                settings of generation that are unknown, or if the model generates no text.
        """
        device = next(self.parameters()).device
        decoding = None if generation is None else Decoding.of(generation, where="generation")
        forward = partial(self.target_outputs, decoding=decoding, alignments=alignments)
        with evaluating(self):
            return predict(forward, self.spec, samples, batch_size=batch_size, device=device, open_files=open_files)

    def embed(self, samples: Any, *, batch_size: int = 64, open_files: bool = True) -> Float[Tensor, "samples embedding"]:
        """Embed raw samples of any modalities as points on one unit sphere, `(S, E)`, in evaluation mode.

        The model was trained with `task=contrastive`; `perceiver.Index` searches embeddings. See `predict` for arguments.

        Raises:
            ValueError: if the head is not an `EmbeddingHead`, without samples, or as `predict`.
        """
        self._embedding_head()
        device = next(self.parameters()).device
        with evaluating(self):
            return embed(self, self.spec, samples, batch_size=batch_size, device=device, open_files=open_files)

    def zero_shot(
        self,
        samples: Any,
        names: Sequence[Any],
        *,
        modality: str | None = None,
        batch_size: int = 64,
        open_files: bool = True,
    ) -> list[Prediction]:
        """Classify raw samples by the names of the classes alone, which the model embeds, too (CLIP, section 3.1).

        Args:
            samples: as for `embed`.
            names: for each class a raw value of `modality`: words, or any other example.
            modality: modality of the names; None: the model's only modality of kind text.
            batch_size: number of samples at a time.
            open_files: see `predict`.

        Raises:
            ValueError: as `embed`; without names, or if the modality is not clear.
        """
        head = self._embedding_head()
        classes = names_as_samples(self.spec, names, modality)
        known = self.embed(classes, batch_size=batch_size, open_files=False)
        found = self.embed(samples, batch_size=batch_size, open_files=open_files)
        device = head.log_scale.device
        with evaluating(self):
            return by_similarity(head.similarities(found.to(device), known.to(device)), names)

    def _embedding_head(self) -> EmbeddingHead:
        if not isinstance(self.head, EmbeddingHead):
            raise ValueError(
                "model.head: expected an EmbeddingHead, as task=contrastive trains it, got "
                f"{type(self.head).__name__}, whose outputs are not embeddings."
            )
        return self.head

    def _reads_of(self, tokens: Mapping[str, Tokens]) -> dict[str, Any]:
        """Return the encoder's arguments: positions of the modalities that each cross-attend reads, and that is written."""
        places = {name: place for place, name in enumerate(tokens)}
        arguments: dict[str, Any] = {}
        if self.reads is not None:
            arguments["reads"] = [[places[name] for name in names if name in places] for names in self.reads]
        if isinstance(self.head, StateHead):
            if self.head.modality not in places:
                raise ValueError(
                    f"inputs: expected {self.head.modality!r}, the modality that the model generates, got {sorted(tokens)}."
                )
            arguments["state"] = places[self.head.modality]
        return arguments

    def _parameters_of_absent(self, tokens: Mapping[str, Tokens]) -> list[Tensor]:
        """Return the parameters of modalities that are absent from this batch.

        They must get zero gradients, as if their modality were masked: data-parallel training waits for the gradient of
        every parameter in every process, and a modality may be absent in only some of the processes.
        """
        absent = [name for name in self.adapters if name not in tokens]
        parameters = [parameter for name in absent for parameter in self.adapters[name].parameters()]
        return parameters + [self.fusion.padding[name] for name in absent if name in self.fusion.padding]

    def _check_modalities(self, inputs: Mapping[str, Any], masks: Mapping[str, Tensor]) -> None:
        known = sorted(self.adapters)
        if not isinstance(inputs, Mapping):
            raise TypeError(
                f"inputs: expected a dict from modality to tensor, e.g. {{{known[0]!r}: x}}; got {type(inputs).__name__}."
            )
        if not inputs or set(inputs) - set(known):
            raise ValueError(f"inputs: expected one or more of the modalities {known}, got {sorted(inputs)}.")
        if set(masks) - set(inputs):
            raise ValueError(f"masks: got masks for {sorted(set(masks) - set(inputs))}, which are not among the inputs.")
        sizes: dict[str, int] = {}
        for name, x in inputs.items():
            parts = {f"{name}.{key}": part for key, part in x.items()} if isinstance(x, Mapping) else {name: x}
            sizes |= {key: part.shape[0] for key, part in parts.items() if isinstance(part, Tensor) and part.ndim}
        # Compared one by one: symbolic sizes of torch.export or torch.jit.trace cannot be put into a set.
        first = next(iter(sizes.values()), 1)
        if any(size != first for size in sizes.values()):
            raise ValueError(f"inputs: expected one batch size for all modalities, got {sizes}.")
        if first == 0:
            raise ValueError(f"inputs: expected at least one sample, got an empty batch: {sizes}.")


def _refuse_for_state(head: StateHead, **given: Any) -> None:
    unknown = [name for name, value in given.items() if value is not None]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: {type(head).__name__} takes the whole grid of written tokens only.")


def _no_memory(where: str, head: nn.Module) -> str:
    return (
        f"{where}: {type(head).__name__} reads no memory; expected a model whose head is a perceiver.decoders.CausalDecoder."
    )


def _check_reads(reads: Sequence[Sequence[str]], *, modalities: Sequence[str], num_cross_attends: int) -> None:
    """Raise ValueError unless each cross-attend has a list of modalities, and each modality is read."""
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
