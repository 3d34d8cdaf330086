"""Which weight of transformers' Perceiver is which of ours, and in which order of channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from perceiver.attention import SelfAttend
from perceiver.model import Perceiver


@dataclass(frozen=True)
class Pair:
    """One tensor of ours and the one or several of theirs that it consists of.

    Args:
        ours, theirs: names in the two state dicts.
        shapes: of theirs, which joined along the first axis have as many values as ours.
        order: ours along the last axis are theirs at these places; None: the same order.
    """

    ours: str
    theirs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    order: Tensor | None = None

    def join(self, tensors: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """Theirs -> ours, of the shape of ours."""
        whole = tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
        if self.order is not None:
            whole = whole[..., self.order]
        return whole.reshape(tuple(shape)).contiguous()

    def split(self, whole: Tensor) -> list[Tensor]:
        """Ours -> theirs."""
        if self.order is not None:
            whole = whole[..., torch.argsort(self.order)]
        if len(self.shapes) == 1:
            return [whole.reshape(self.shapes[0]).clone()]
        pieces = whole.split([shape[0] for shape in self.shapes])
        return [piece.reshape(shape).clone() for piece, shape in zip(pieces, self.shapes, strict=True)]


def correspondence(name: str, model: Perceiver) -> list[Pair]:
    """All pairs for the class `name` of transformers and our model of the same architecture."""
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    return list(_Pairs(model, shapes).of(name))


def fourier_order(content: int, coordinates: int, bands: int) -> Tensor:
    """Places in their channels of content, then coordinates one by one, each with its sines and cosines.

    Theirs are content, all coordinates, all sines, all cosines.
    """
    places = list(range(content))
    for axis in range(coordinates):
        sines = content + coordinates + axis * bands
        cosines = sines + coordinates * bands
        places += [content + axis, *range(sines, sines + bands), *range(cosines, cosines + bands)]
    return torch.tensor(places)


class _Pairs:
    """Lists pairs; shapes of theirs are those of ours unless said otherwise."""

    def __init__(self, model: Perceiver, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.model = model
        self.shapes = shapes

    def of(self, name: str) -> Iterator[Pair]:
        rest, order = _REST[name]
        yield self.same("encoder.latents", "perceiver.embeddings.latents")
        yield from self.cross_attend("encoder.cross_attends.0", "perceiver.encoder.cross_attention", token_order=order)
        block = self.model.encoder.blocks[0]
        assert isinstance(block, nn.Sequential)
        for index, layer in enumerate(block):
            assert isinstance(layer, SelfAttend)
            yield from self.self_attend(
                f"encoder.blocks.0.{index}", f"perceiver.encoder.self_attends.{index}", widths=layer.attention.widths
            )
        yield from rest(self)

    def same(
        self, ours: str, theirs: str, *, order: Tensor | None = None, shape: tuple[int, ...] | None = None
    ) -> Pair:
        return Pair(ours, (theirs,), (self.shapes[ours] if shape is None else shape,), order)

    def module(self, ours: str, theirs: str, *, order: Tensor | None = None) -> Iterator[Pair]:
        """Weight and bias of a linear map or a norm; the order is that of the last axis of the weight."""
        yield self.same(f"{ours}.weight", f"{theirs}.weight", order=order)
        is_norm = len(self.shapes[f"{ours}.weight"]) == 1
        yield self.same(f"{ours}.bias", f"{theirs}.bias", order=order if is_norm else None)

    def cross_attend(
        self, ours: str, theirs: str, *, token_order: Tensor | None = None, query_order: Tensor | None = None
    ) -> Iterator[Pair]:
        attention, own = f"{ours}.attention", f"{theirs}.attention.self"
        yield from self.module(f"{attention}.query_norm", f"{own}.layernorm1", order=query_order)
        yield from self.module(f"{attention}.query", f"{own}.query", order=query_order)
        yield from self.module(f"{attention}.tokens.norm", f"{own}.layernorm2", order=token_order)
        yield from self.module(f"{attention}.tokens.key", f"{own}.key", order=token_order)
        yield from self.module(f"{attention}.tokens.value", f"{own}.value", order=token_order)
        yield from self.module(f"{attention}.output", f"{theirs}.attention.output.dense")
        yield from self.feed_forward(ours, theirs)

    def self_attend(self, ours: str, theirs: str, *, widths: Sequence[int]) -> Iterator[Pair]:
        attention, own = f"{ours}.attention", f"{theirs}.attention.self"
        yield from self.module(f"{attention}.norm", f"{own}.layernorm1")
        for kind in ("weight", "bias"):
            rest = self.shapes[f"{attention}.qkv.{kind}"][1:]
            names = tuple(f"{own}.{part}.{kind}" for part in ("query", "key", "value"))
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
    # The queries are tokens; what they read has an order of its own, since no residual carries them on.
    yield from pairs.cross_attend("head.cross_attend", f"{decoder}.decoding_cross_attention", query_order=_FLOW_ORDER)
    yield from pairs.module("head.output", f"{decoder}.final_layer")


def _text_model(pairs: _Pairs) -> Iterator[Pair]:
    yield pairs.same("adapters.text.embedding.weight", "perceiver.input_preprocessor.embeddings.weight")
    yield pairs.same("adapters.text.position.table", "perceiver.input_preprocessor.position_embeddings.weight")
    yield pairs.same(
        "head.queries.queries", "perceiver.decoder.output_position_encodings.position_embeddings"
    )
    yield from pairs.cross_attend("head.cross_attend", "perceiver.decoder.decoding_cross_attention")
    yield pairs.same("head.tied_logits.bias", "embedding_decoder.bias")


def _multimodal_model(pairs: _Pairs) -> Iterator[Pair]:
    decoder = "perceiver.decoder"
    for own, their in (("audio", "audio"), ("label", "label"), ("video", "image")):
        for kind in ("padding", "mask"):
            (width,) = pairs.shapes[f"fusion.{kind}.{own}"]
            yield pairs.same(f"fusion.{kind}.{own}", f"perceiver.input_preprocessor.{kind}.{their}", shape=(1, width))
        (width,) = pairs.shapes[f"head.fusion.padding.{own}"]
        yield pairs.same(f"head.fusion.padding.{own}", f"{decoder}.padding.{their}", shape=(1, width))
        yield from pairs.module(
            f"head.outputs.{own}", f"perceiver.output_postprocessor.modalities.{their}.classifier"
        )
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
    # Its modalities share one key projection, so that the adapters have the channels in their order.
    "PerceiverForMultimodalAutoencoding": (_multimodal_model, None),
}
"""What each class has besides the encoder, and the order of its tokens' channels."""
