"""Mapping between the weights of transformers' Perceiver and those of this package, with the order of channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perceiver.attention import SelfAttend
from perceiver.encoders.encoder import Encoder
from perceiver.model import Perceiver


@dataclass(frozen=True)
class Pair:
    """A tensor of this package (ours) and the tensors of transformers (theirs) that it consists of.

    Args:
        ours, theirs: names in the two state dicts.
        shapes: shapes of their tensors; joined along the first axis they have as many values as ours.
        order: indices of their channels, along the last axis, in our order; None: the same order.
    """

    ours: str
    theirs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    order: Tensor | None = None

    def join(self, tensors: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """Join their tensors to ours, of the given shape."""
        whole = tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
        if self.order is not None:
            whole = whole[..., self.order]
        return whole.reshape(tuple(shape)).contiguous()

    def split(self, whole: Tensor) -> list[Tensor]:
        """Split our tensor into theirs."""
        if self.order is not None:
            whole = whole[..., torch.argsort(self.order)]
        if len(self.shapes) == 1:
            return [whole.reshape(self.shapes[0]).clone()]
        pieces = whole.split([shape[0] for shape in self.shapes])
        return [piece.reshape(shape).clone() for piece, shape in zip(pieces, self.shapes, strict=True)]


def correspondence(name: str, model: Perceiver) -> list[Pair]:
    """Return all pairs for the class `name` of transformers and our model of the same architecture."""
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    return list(_Pairs(model, shapes).of(name))


def fourier_order(content: int, coordinates: int, bands: int) -> Tensor:
    """Return the indices of their channels in our order: content, then each coordinate with its sines and cosines.

    Their order is content, all coordinates, all sines, all cosines.
    """
    places = list(range(content))
    for axis in range(coordinates):
        sines = content + coordinates + axis * bands
        cosines = sines + coordinates * bands
        places += [content + axis, *range(sines, sines + bands), *range(cosines, cosines + bands)]
    return torch.tensor(places)


class _Pairs:
    """Generator of pairs; their shapes equal ours unless given."""

    def __init__(self, model: Perceiver, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.model = model
        self.shapes = shapes

    def of(self, name: str) -> Iterator[Pair]:
        rest, order = _REST[name]
        yield self.same("encoder.latents", "perceiver.embeddings.latents")
        yield from self.cross_attend("encoder.cross_attends.0", "perceiver.encoder.cross_attention", token_order=order)
        assert isinstance(self.model.encoder, Encoder)
        block = self.model.encoder.blocks[0]
        assert isinstance(block, nn.Sequential)
        for index, layer in enumerate(block):
            assert isinstance(layer, SelfAttend)
            yield from self.self_attend(
                f"encoder.blocks.0.{index}", f"perceiver.encoder.self_attends.{index}", widths=layer.attention.widths
            )
        yield from rest(self)

    def same(self, ours: str, theirs: str, *, order: Tensor | None = None, shape: tuple[int, ...] | None = None) -> Pair:
        return Pair(ours, (theirs,), (self.shapes[ours] if shape is None else shape,), order)

    def module(self, ours: str, theirs: str, *, order: Tensor | None = None) -> Iterator[Pair]:
        """Yield weight and bias of a linear map or a norm; `order` applies to the last axis of the weight."""
        yield self.same(f"{ours}.weight", f"{theirs}.weight", order=order)
        is_norm = len(self.shapes[f"{ours}.weight"]) == 1
        yield self.same(f"{ours}.bias", f"{theirs}.bias", order=order if is_norm else None)

    def cross_attend(
        self, ours: str, theirs: str, *, token_order: Tensor | None = None, query_order: Tensor | None = None
    ) -> Iterator[Pair]:
        attention, inner = f"{ours}.attention", f"{theirs}.attention.self"
        yield from self.module(f"{attention}.query_norm", f"{inner}.layernorm1", order=query_order)
        yield from self.module(f"{attention}.query", f"{inner}.query", order=query_order)
        yield from self.module(f"{attention}.tokens.norm", f"{inner}.layernorm2", order=token_order)
        yield from self.module(f"{attention}.tokens.key", f"{inner}.key", order=token_order)
        yield from self.module(f"{attention}.tokens.value", f"{inner}.value", order=token_order)
        yield from self.module(f"{attention}.output", f"{theirs}.attention.output.dense")
        yield from self.feed_forward(ours, theirs)

    def self_attend(self, ours: str, theirs: str, *, widths: Sequence[int]) -> Iterator[Pair]:
        attention, inner = f"{ours}.attention", f"{theirs}.attention.self"
        yield from self.module(f"{attention}.norm", f"{inner}.layernorm1")
        for kind in ("weight", "bias"):
            rest = self.shapes[f"{attention}.qkv.{kind}"][1:]
            names = tuple(f"{inner}.{part}.{kind}" for part in ("query", "key", "value"))
            yield Pair(f"{attention}.qkv.{kind}", names, tuple((width, *rest) for width in widths))
        yield from self.module(f"{attention}.output", f"{theirs}.attention.output.dense")
        yield from self.feed_forward(ours, theirs)

    def feed_forward(self, ours: str, theirs: str) -> Iterator[Pair]:
        yield from self.module(f"{ours}.feed_forward.norm", f"{theirs}.layernorm")
        yield from self.module(f"{ours}.feed_forward.expand", f"{theirs}.mlp.dense1")
        yield from self.module(f"{ours}.feed_forward.contract", f"{theirs}.mlp.dense2")

    def classifier(self) -> Iterator[Pair]:
        decoder = "perceiver.decoder.decoder"
        yield self.same("head.query", f"{decoder}.output_position_encodings.position_embeddings")
        yield from self.cross_attend("head.cross_attend", f"{decoder}.decoding_cross_attention")
        yield from self.module("head.output", f"{decoder}.final_layer")


def _fourier_model(pairs: _Pairs) -> Iterator[Pair]:
    yield from pairs.classifier()


def _learned_model(pairs: _Pairs) -> Iterator[Pair]:
    ours, theirs = "adapters.image", "perceiver.input_preprocessor"
    width, channels = pairs.shapes[f"{ours}.embed.weight"]
    yield pairs.same(f"{ours}.embed.weight", f"{theirs}.convnet_1x1.weight", shape=(width, channels, 1, 1))
    yield pairs.same(f"{ours}.embed.bias", f"{theirs}.convnet_1x1.bias")
    rows, columns, channels = pairs.shapes[f"{ours}.position.position.table"]
    yield pairs.same(
        f"{ours}.position.position.table",
        f"{theirs}.position_embeddings.position_embeddings",
        shape=(rows * columns, channels),
    )
    yield from pairs.module(f"{ours}.position.projection", f"{theirs}.positions_projection")
    yield from pairs.classifier()


def _conv_model(pairs: _Pairs) -> Iterator[Pair]:
    ours, theirs = "adapters.image", "perceiver.input_preprocessor.convnet"
    yield pairs.same(f"{ours}.conv.weight", f"{theirs}.conv.weight")
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        yield pairs.same(f"{ours}.norm.{name}", f"{theirs}.batchnorm.{name}")
    yield from pairs.classifier()


def _flow_model(pairs: _Pairs) -> Iterator[Pair]:
    yield from pairs.module("adapters.frames.embed", "perceiver.input_preprocessor.conv_after_patches")
    decoder = "perceiver.decoder.decoder"
    # The queries are tokens in their channel order. The output is not affected, because there is no residual.
    yield from pairs.cross_attend("head.cross_attend", f"{decoder}.decoding_cross_attention", query_order=_FLOW_ORDER)
    yield from pairs.module("head.output", f"{decoder}.final_layer")


def _text_model(pairs: _Pairs) -> Iterator[Pair]:
    yield pairs.same("adapters.text.embedding.weight", "perceiver.input_preprocessor.embeddings.weight")
    yield pairs.same("adapters.text.position.table", "perceiver.input_preprocessor.position_embeddings.weight")
    yield pairs.same("head.queries.queries", "perceiver.decoder.output_position_encodings.position_embeddings")
    yield from pairs.cross_attend("head.cross_attend", "perceiver.decoder.decoding_cross_attention")
    yield pairs.same("head.tied_logits.bias", "embedding_decoder.bias")


def _multimodal_model(pairs: _Pairs) -> Iterator[Pair]:
    decoder = "perceiver.decoder"
    for ours, theirs in (("audio", "audio"), ("label", "label"), ("video", "image")):
        for kind in ("padding", "mask"):
            (width,) = pairs.shapes[f"fusion.{kind}.{ours}"]
            yield pairs.same(f"fusion.{kind}.{ours}", f"perceiver.input_preprocessor.{kind}.{theirs}", shape=(1, width))
        (width,) = pairs.shapes[f"head.fusion.padding.{ours}"]
        yield pairs.same(f"head.fusion.padding.{ours}", f"{decoder}.padding.{theirs}", shape=(1, width))
        yield from pairs.module(f"head.outputs.{ours}", f"perceiver.output_postprocessor.modalities.{theirs}.classifier")
    yield pairs.same(
        "head.queries.label.queries",
        f"{decoder}.modalities.label.decoder.output_position_encodings.position_embeddings",
    )
    yield from pairs.cross_attend("head.cross_attend", f"{decoder}.decoder.decoding_cross_attention")
    yield from pairs.module("head.hidden", f"{decoder}.decoder.final_layer")


_FLOW_ORDER = fourier_order(64, 2, 64)
_REST: dict[str, tuple[Callable[[_Pairs], Iterator[Pair]], Tensor | None]] = {
    "PerceiverForImageClassificationFourier": (_fourier_model, fourier_order(3, 2, 64)),
    "PerceiverForImageClassificationLearned": (_learned_model, None),
    "PerceiverForImageClassificationConvProcessing": (_conv_model, fourier_order(64, 2, 64)),
    "PerceiverForOpticalFlow": (_flow_model, _FLOW_ORDER),
    "PerceiverForMaskedLM": (_text_model, None),
    # All modalities share a key projection, so our adapters use their order of channels.
    "PerceiverForMultimodalAutoencoding": (_multimodal_model, None),
}
"""The pairs of each class besides those of the encoder, and the order of its tokens' channels."""
