"""Figure of masked-token predictions: the masked text, the filled-in text, and the original."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perceiver.decoders import QueryDecoder
from perceiver.inference.infilling import vocabulary_of
from perceiver.masking.text import PieceWords, TokenMasking
from perceiver.modalities.texts.text_bytes import NUM_SPECIAL, VOCABULARY_SIZE
from perceiver.model import Perceiver
from perceiver.plots.evaluation import modalities_of, on_device
from perceiver.plots.inputs import Single, singles
from perceiver.runtime.evaluating import evaluating
from perceiver.runtime.random_streams import stream_of
from perceiver.samples.batch import Batch

GAP = "▯"
_SHOWN = {"\n": "↵", "\t": "→", "\r": "↵"}
_COLOURS = {True: "seagreen", False: "firebrick", None: "black"}
_GREY = "0.6"
_POINTS, _WIDTH, _LEADING = 7.0, 0.6021, 1.25  # DejaVu Sans Mono: font size; character width and line height relative to it


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A character of a text of bytes, or a token of another text.

    Args:
        seen, filled, original: text to show in the three lines.
        right: whether it was filled in correctly; None if it was not masked.
    """

    seen: str
    filled: str
    original: str
    right: bool | None


@dataclass(frozen=True, kw_only=True)
class FilledText:
    """Filled-in text of one sample.

    Args:
        id: id of the sample.
        pieces: pieces of the whole text.
    """

    id: str
    pieces: list[Piece]

    def lines(self, width: int) -> list[list[Piece]]:
        """Split the pieces into lines of at most `width` characters."""
        lines: list[list[Piece]] = [[]]
        used = 0
        for piece in self.pieces:
            if used and used + len(piece.original) > width:
                lines.append([])
                used = 0
            lines[-1].append(piece)
            used += len(piece.original)
        return lines

    def plain_text(self) -> str:
        """Return plain text: three rows for each line, and marks below errors."""
        lines = [f"{self.id}: {sum(piece.right is True for piece in self.pieces)} of {self._hidden()} correct"]
        for line in self.lines(100):
            marks = "".join((" " if piece.right is not False else "^") * len(piece.original) for piece in line)
            lines += [
                "  seen      " + "".join(piece.seen for piece in line),
                "  filled in " + "".join(piece.filled for piece in line),
                "  original  " + "".join(piece.original for piece in line),
                ("  wrong     " + marks).rstrip(),
                "",
            ]
        return "\n".join(lines)

    def _hidden(self) -> int:
        return sum(piece.right is not None for piece in self.pieces)


class FilledTexts:
    """Figure and plain text of several texts with hidden tokens, the same tokens as in validation.

    Args:
        masking: chooses the hidden tokens.
        modality: name of the text modality.
        seed: seed for the hidden tokens, as in the task.
        num_samples: number of samples in the figure, spread evenly over the first `out_of` samples.
        out_of: number of samples to choose from.
        width: characters per line.
    """

    def __init__(
        self,
        *,
        masking: TokenMasking,
        modality: str = "text",
        seed: int = 0,
        num_samples: int = 6,
        out_of: int = 240,
        width: int = 100,
    ) -> None:
        if not 1 <= num_samples <= out_of:
            raise ValueError(f"FilledTexts: expected 1 <= num_samples <= out_of, got {num_samples} and {out_of}.")
        if width < 20:
            raise ValueError(f"FilledTexts.width: expected at least 20 characters per line, got {width}.")
        self.masking = masking
        self.modality = modality
        self.seed = seed
        self.num_samples = num_samples
        self.out_of = out_of
        self.width = width

    def __call__(self, model: Perceiver, batches: Iterable[Batch]) -> dict[str, Figure | str]:
        """Return `{"filled_in": figure, "filled_in_text": text}`; an empty dict for other models, or without texts.

        Args:
            model: model that predicts masked tokens.
            batches: batches as in training, read only as far as needed.
        """
        if not isinstance(model.head, QueryDecoder) or self.modality not in model.adapters:
            return {}
        specs = modalities_of(model)
        available = [
            one for one in islice(singles(on_device(model, batches), specs), self.out_of) if self.modality in one.inputs
        ]
        step = max(1, len(available) // self.num_samples)
        with evaluating(model):
            texts = [self.fill(model, single) for single in available[::step][: self.num_samples]]
        if not texts:
            return {}
        return {"filled_in": self._figure(texts), "filled_in_text": "\n".join(text.plain_text() for text in texts)}

    def fill(self, model: Perceiver, single: Single) -> FilledText:
        """Hide tokens of one sample and let the model, in evaluation mode, fill them in."""
        ids, mask = single.inputs[self.modality], single.masks.get(self.modality)
        size = vocabulary_of(model, self.modality, asker="FilledTexts")
        generator = torch.Generator().manual_seed(stream_of(self.seed, single.id))
        masked = self.masking(ids, mask, vocabulary_size=size, generators=[generator])
        index = masked.index[:, masked.real[0]]
        filled = ids.clone()
        hidden = torch.zeros_like(ids, dtype=torch.bool)
        if index.shape[1]:
            logits = model({**single.inputs, self.modality: masked.ids}, single.masks, index=index)
            filled[0, index[0]] = logits[0].argmax(dim=-1).to(ids.dtype)
            hidden[0, index[0]] = True
        cells = (ids[0].tolist(), filled[0].tolist(), hidden[0].tolist())
        if size == VOCABULARY_SIZE:
            return FilledText(id=single.id, pieces=_characters(*cells))
        words = self.masking.words
        names = words.pieces if isinstance(words, PieceWords) else [str(one) for one in range(size)]
        pieces = []
        for own, made, gone in zip(*cells, strict=True):
            width = max(len(names[own]), len(names[made])) + 1
            seen = GAP * (width - 1) + " " if gone else names[own].ljust(width)
            pieces.append(
                Piece(
                    seen=seen,
                    filled=names[made].ljust(width),
                    original=names[own].ljust(width),
                    right=made == own if gone else None,
                )
            )
        return FilledText(id=single.id, pieces=pieces)

    def _figure(self, texts: Sequence[FilledText]) -> Figure:
        rows = sum(1 + 4 * len(text.lines(self.width)) for text in texts) + 1
        longest = max(sum(len(piece.original) for piece in line) for text in texts for line in text.lines(self.width))
        columns = max(longest, 40) + 14
        width, height = (columns + 2) * _WIDTH * _POINTS / 72, rows * _POINTS * _LEADING / 72 + 0.1
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        axes.set_xlim(-2, columns)
        axes.set_ylim(rows, 0)
        row = 1.0
        for text in texts:
            right, hidden = (sum(piece.right in counted for piece in text.pieces) for counted in ((True,), (True, False)))
            _write(axes, 0, row, f"{text.id}: {right} of {hidden} correct", "0.4")
            row += 1
            for line in text.lines(self.width):
                for label, name in (("seen", "seen"), ("filled in", "filled"), ("original", "original")):
                    _write(axes, 0, row, label, _GREY)
                    column = 12
                    for piece in line:
                        shown = getattr(piece, name)
                        colour = "darkorange" if name == "seen" else _COLOURS[piece.right]
                        if name == "original" and piece.right is not None:
                            colour = "black"
                        if piece.right is None:
                            colour = _GREY
                        for place, character in enumerate(shown):
                            if character != " ":
                                _write(axes, column + place, row, character, colour)
                        column += len(shown)
                    row += 1
                row += 1
        return figure


def _write(axes: Axes, column: float, row: float, text: str, colour: str) -> None:
    axes.text(column, row, text, family="DejaVu Sans Mono", fontsize=_POINTS, color=colour, va="center", parse_math=False)


def _characters(ids: Sequence[int], filled: Sequence[int], hidden: Sequence[bool]) -> list[Piece]:
    """Join the bytes of each character into a piece."""
    pieces = []
    start = 0
    while start < len(ids):
        end = start + 1
        while end < len(ids) and NUM_SPECIAL + 0x80 <= ids[end] < NUM_SPECIAL + 0xC0:
            end += 1
        gone = any(hidden[start:end])
        original, made = (_shown(some[start:end], gone) for some in (ids, filled))
        right = list(ids[start:end]) == list(filled[start:end])
        pieces.append(
            Piece(
                seen=GAP if gone else original,
                filled=made,
                original=original,
                right=right if gone else None,
            )
        )
        start = end
    return pieces


def _shown(ids: Sequence[int], gone: bool) -> str:
    """Return the character for its bytes; a filled-in space is made visible."""
    raw = bytes(one - NUM_SPECIAL for one in ids if one >= NUM_SPECIAL)
    text = raw.decode("utf-8", errors="replace")[:1]
    text = "␣" if text == " " and gone else _SHOWN.get(text, text)
    return text if text.isprintable() and text else "�"
