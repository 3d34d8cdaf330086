"""Text: ids of bytes, words or pieces of words `(B, L)`, from any tokenizer; for bytes see `modalities/text_bytes.py`."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from perceiver.runtime.data_checks import is_any
from perceiver.runtime.initial_values import truncated_normal_
from perceiver.runtime.ranges import check_positive
from perceiver.tokens.masks import grid_mask
from perceiver.tokens.positions import PositionEncoding, index_coordinates
from perceiver.tokens.tokens import Tokens


class TextTokens(nn.Module):
    """One token per id: its learned embedding, and its position in the text (Perceiver IO, section 4.1).

    Positions count from the first id, the same in every text, so they are shared by the batch.

    Args:
        vocabulary_size: ids are in [0, vocabulary_size); 262 for bytes.
        embedding_channels: width of the embedding.
        position: encoding of one coordinate. A `LearnedTable` with `reference_length` rows has a row for each position and
            repeats the last row for longer texts; Fourier features extrapolate.
        reference_length: positions 0 to reference_length - 1 become coordinates in [-1, 1], later positions exceed 1.
        std: standard deviation of the initial embeddings, truncated at two.
        add_position: add the position to the embedding instead of appending it, as in the published masked language model;
            both must have the same width.
        local: adds to the embedding of an id what precedes it, such as `LocalContext`; its result has `output_channels`.
            None: nothing.

    Examples:
        >>> import torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import TextTokens
        >>> adapter = TextTokens(vocabulary_size=262, embedding_channels=32, position=Fourier(num_bands=4, resolution=(64,)))
        >>> tokens = adapter(torch.randint(6, 262, (2, 50)))
        >>> tokens.grid, tokens.channels
        ((50,), 41)
    """

    def __init__(
        self,
        *,
        vocabulary_size: int,
        embedding_channels: int,
        position: PositionEncoding,
        reference_length: int = 2048,
        std: float = 0.02,
        add_position: bool = False,
        local: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if vocabulary_size < 1 or embedding_channels < 1:
            raise ValueError(
                "TextTokens: expected vocabulary_size and embedding_channels of at least 1, got "
                f"{vocabulary_size} and {embedding_channels}."
            )
        if reference_length < 2:
            raise ValueError(f"TextTokens.reference_length: expected at least 2 positions, got {reference_length}.")
        check_positive("TextTokens", std=std)
        self.vocabulary_size = vocabulary_size
        self.reference_length = reference_length
        self.embedding = nn.Embedding(vocabulary_size, embedding_channels)
        truncated_normal_(self.embedding.weight, std=std)
        self.local = local
        self.position = position
        self.add_position = add_position
        width = int(getattr(local, "output_channels", embedding_channels))
        if add_position and position.channels != width:
            raise ValueError(
                f"TextTokens.add_position: expected a position of embedding_channels = {width} channels, got "
                f"{position.channels}."
            )
        self.channels = width if add_position else width + position.channels

    def forward(self, x: Int[Tensor, "batch length"], mask: Bool[Tensor, "batch *length"] | None = None) -> Tokens:
        """Convert ids to Tokens on the grid `(L,)`.

        Args:
            x: `(B, L)`, int64 or int32; masked ids are arbitrary.
            mask: True where valid: `(B,)` presence, `(B, L)`, or None.

        Raises:
            ValueError: for another shape, no ids at all, valid ids outside the vocabulary (unchecked in compiled code).
            TypeError: for ids of another type or a mask that is not boolean.
        """
        self._check(x)
        mask = grid_mask(mask, batch=x.shape[0], grid=x.shape[1:], name="TextTokens mask")
        coordinates = index_coordinates(x.shape[1], reference_length=self.reference_length, device=x.device)
        return self._tokens(self._embedded(x, mask), coordinates, mask)

    @property
    def reach(self) -> int:
        """Number of earlier ids on which the token of an id depends."""
        return 0 if self.local is None else int(self.local.reach)  # type: ignore[arg-type]

    def following(
        self,
        x: Int[Tensor, "batch length"],
        *,
        earlier: Int[Tensor, "batch reach"],
        earlier_mask: Bool[Tensor, "batch reach"],
        start: Int[Tensor, "batch"],
    ) -> Tokens:
        """Convert ids that follow others, as `forward` converts them within the whole text.

        Args:
            x: `(B, L)`, all valid.
            earlier: the last `reach` ids before them, padding first.
            earlier_mask: True where these are valid.
            start: `(B,)`, position of the first id of `x` in each text.
        """
        self._check(x)
        whole = torch.cat([earlier, x], dim=1)
        mask = torch.cat([earlier_mask, torch.ones_like(x, dtype=torch.bool)], dim=1)
        embedded = self._embedded(whole, mask)[:, self.reach :]
        places = start[:, None] + torch.arange(x.shape[1], device=x.device)
        coordinates = (-1 + 2 * places.to(torch.float32) / (self.reference_length - 1))[..., None]
        return self._tokens(embedded, coordinates, None)

    def _embedded(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the embeddings of ids with their local context."""
        ids = x if mask is None else torch.where(mask, x, x.new_zeros(()))
        self._check_range(ids)
        embedded: Tensor = self.embedding(ids)
        if self.local is not None:
            embedded = self.local(embedded, ids, mask)
        return embedded

    def _tokens(self, embedded: Tensor, coordinates: Tensor, mask: Tensor | None) -> Tokens:
        parts = self.position((coordinates,))
        if self.add_position:
            return Tokens(parts=(embedded + torch.cat(parts, dim=-1).to(embedded.dtype),), mask=mask)
        return Tokens(parts=(embedded, *parts), mask=mask)

    def _check(self, x: Tensor) -> None:
        """Check shape and type of the input."""
        if x.dtype not in (torch.int64, torch.int32):
            raise TypeError(
                f"TextTokens: expected ids of type int64, got {x.dtype}; "
                "`perceiver.modalities.texts.text_bytes.encode_bytes` converts a text to ids."
            )
        if x.ndim != 2 or x.shape[1] == 0:
            hint = " Add the missing dimension with x.unsqueeze(0)." if x.ndim == 1 else ""
            if x.ndim == 2:
                hint = " Leave an absent text's key out, or pass one id with a mask that is all False."
            raise ValueError(
                f"TextTokens: expected ids (batch, length), length at least 1, got shape {tuple(x.shape)}.{hint}"
            )

    def _check_range(self, ids: Tensor) -> None:
        """Raise for an id outside the vocabulary: torch's error does not name it, and on a GPU ends the process."""
        outside = (ids < 0) | (ids >= self.vocabulary_size)
        if is_any(outside, message="TextTokens: an id is outside the vocabulary."):
            sample, place = outside.nonzero()[0].tolist()
            raise ValueError(
                f"TextTokens: sample {sample}, position {place}: id {int(ids[sample, place])} is not in "
                f"[0, {self.vocabulary_size}). Tokenize as in training, or set vocabulary_size to that of the tokenizer."
            )

    def extra_repr(self) -> str:
        """Return the summary that `print(model)` shows."""
        return f"reference_length={self.reference_length}"
