"""Text encoders of transformers, with their tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from perceiver.adapters.backbones.network import FeatureNetwork
from perceiver.interop.backbones.request import BackboneError, BackboneRequest
from perceiver.interop.backbones.transformers_models import Directory, made
from perceiver.modalities.texts.tokenizers import LibraryTokenizer

TOKENIZER = "tokenizer.json"
_LARGEST = 64 * 1024 * 1024


@final
class TransformersTextNetwork(FeatureNetwork):
    """A text encoder of transformers with random weights: the last hidden state, a feature per id. Reads no files.

    Args:
        model_type, config: see `perceiver.interop.backbones.transformers_models.FAMILIES`.

    Examples:
        >>> import torch
        >>> from perceiver.interop.backbones.transformers_texts import TransformersTextNetwork
        >>> sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        >>> network = TransformersTextNetwork(model_type="bert", config={**sizes, "vocab_size": 100})
        >>> network(torch.tensor([[5, 6, 7]])).shape
        torch.Size([1, 3, 16])
    """

    def __init__(self, *, model_type: str, config: Mapping[str, Any]) -> None:
        model, settings = made(model_type, config, kind="text")
        super().__init__(channels=int(settings.hidden_size), strides=(1,), channels_last=True, reads_masks=True)
        self.model = model
        self.model_type = model_type
        self.vocabulary_size = int(settings.vocab_size)
        self.padding_id = int(settings.pad_token_id or 0)

    def forward(
        self, x: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length features"]:
        """Return the features of ids; masked ids are ignored."""
        if x.ndim != 2 or x.is_floating_point():
            raise ValueError(f"TransformersTextNetwork: expected ids (batch, length), got {x.dtype} {tuple(x.shape)}.")
        if mask is None:
            return self.model(input_ids=x).last_hidden_state  # type: ignore[no-any-return]
        ids = torch.where(mask, x, x.new_full((), self.padding_id))
        # Attention over nothing would be NaN; the features of absent texts are replaced afterwards.
        seen = torch.cat([mask[:, :1] | ~mask.any(dim=1, keepdim=True), mask[:, 1:]], dim=1)
        return self.model(input_ids=ids, attention_mask=seen.to(torch.int64)).last_hidden_state  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"model_type={self.model_type!r}"


@final
class TransformersTexts(BackboneRequest):
    """A text encoder of transformers for a modality of texts. Padding is by masks, so tokenizers need no padding token.

    Args:
        model_name: a directory with `config.json`, `model.safetensors` and `tokenizer.json`, or `owner/name` on the Hub.
        pretrained: False for random weights.
        layers: number of layers to keep; None: all.
        max_length: longer texts are cut to this number of ids.
        frozen, lr_multiplier, embed_channels, num_bands: see `BackboneRequest`.

    Raises:
        BackboneError: the model is missing, of an unknown type, or has no tokenizer.
    """

    kind: ClassVar[str] = "text"

    def __init__(
        self,
        *,
        model_name: str,
        pretrained: bool = True,
        layers: int | None = None,
        max_length: int = 128,
        frozen: bool = True,
        lr_multiplier: float = 1.0,
        embed_channels: int | None = None,
        num_bands: int = 8,
    ) -> None:
        super().__init__(frozen=frozen, lr_multiplier=lr_multiplier, embed_channels=embed_channels, num_bands=num_bands)
        if max_length < 2:
            raise ValueError(f"max_length: expected 2 or more ids, got {max_length}.")
        self.pretrained = pretrained
        self.layers = layers
        self.max_length = max_length
        self._directory = Directory.find(model_name, kind="text", files=(TOKENIZER,))

    def facts(self) -> dict[str, Any]:
        """Return the tokenizer, as plain data, and its limits."""
        config = self._directory.config()
        positions = int(config.get("max_position_embeddings", self.max_length))
        # Their position ids start behind the padding id.
        reserved = int(config.get("pad_token_id") or 0) + 1 if self._directory.model_type() in _OFFSET else 0
        length = min(self.max_length, positions - reserved)
        json = self._tokenizer()
        try:
            known = LibraryTokenizer(json, length).vocabulary_size
        except ValueError as error:
            raise BackboneError(f"{self._directory.folder / TOKENIZER}: {error}") from error
        size = int(config.get("vocab_size", known))
        if known > size:
            raise BackboneError(
                f"{self._directory.folder}: its tokenizer has {known:,} ids, but its model {size:,}; they belong to "
                "different models."
            )
        return {
            "tokenizer": {"kind": "library", "json": json, "max_length": length},
            "vocabulary_size": size,
            "max_length": length,
        }

    def _tokenizer(self) -> str:
        file: Path = self._directory.folder / TOKENIZER
        if not file.is_file():
            raise BackboneError(
                f"{self._directory.folder}: has no {TOKENIZER}. Write it with transformers: "
                "AutoTokenizer.from_pretrained(NAME).save_pretrained(DIR), and set model_name=DIR."
            )
        if file.stat().st_size > _LARGEST:
            raise BackboneError(f"{file}: expected at most {_LARGEST:,} bytes.")
        return file.read_text(encoding="utf-8")

    def network(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """See `BackboneRequest.network`."""
        return {
            "_target_": "perceiver.interop.backbones.transformers_texts.TransformersTextNetwork",
            "model_type": self._directory.model_type(),
            "config": self._directory.config(layers=self.layers, pretrained=bool(self.pretrained)),
        }

    def places(self, spec: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[float]]:
        """See `BackboneRequest.places`."""
        length = max(2, int(spec.get("max_length") or self.max_length))
        return {"_target_": "perceiver.adapters.backbones.axes.Words", "reference_length": length}, [length]

    def weights(self, spec: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """See `BackboneRequest.weights`."""
        if not self.pretrained:
            return None
        return {f"model.{name}": value for name, value in self._directory.weights(layers=self.layers).items()}


_OFFSET = ("roberta", "xlm-roberta", "mpnet")
