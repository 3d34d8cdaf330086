"""Which rows of a data set are for training, validation and test: its own splits, or those that the user names."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perceiver.data.hf.backend import datasets
from perceiver.data.loading.splits import SPLIT_NAMES

Piece = tuple[str, int, int]
"""Rows of a split of the data set: its name, the first row, and one past the last."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The rows in use.

    Args:
        pieces: rows of each split: train, val, test.
        divided: whether these are splits; False: rows whose splits are still to be cut.
        unused: splits of the data set that are not used.
    """

    pieces: Mapping[str, list[Piece]]
    divided: bool
    unused: list[str] = field(default_factory=list)


def chosen(split: str | Mapping[str, str] | None, *, lengths: Mapping[str, int | None]) -> Choice:
    """Return the rows in use.

    Args:
        split: split of the data set, `train` or `train[:10%]`; or those for train, val and test:
            `{train: train, val: validation_matched}`. None: those named like train, validation and test.
        lengths: number of rows of each split of the data set; None in a stream, of which there are only whole splits.

    Raises:
        ValueError: the data set has no such split, or a row would be used twice.
    """
    if split is None:
        return _by_names(lengths)
    if isinstance(split, str):
        pieces = _pieces(split, lengths, setting="data.split")
        _require_disjoint([("data.split", piece) for piece in pieces])
        own = {SPLIT_NAMES.get(name.lower(), "train") for name, _, _ in pieces}
        place = own.pop() if len(own) == 1 else "train"
        unused = [name for name in lengths if name not in {name for name, _, _ in pieces}]
        return Choice(pieces={place: pieces}, divided=place != "train", unused=unused)
    if not isinstance(split, Mapping) or not split:
        raise ValueError(f"data.split: expected a split such as train, or a mapping {{val: validation}}, got {split!r}.")
    found: dict[str, list[Piece]] = {}
    settings: list[tuple[str, Piece]] = []
    for key, value in split.items():
        name = SPLIT_NAMES.get(str(key).lower())
        if name is None:
            raise ValueError(f"data.split: expected the keys train, val and test, got {key!r}.")
        if name in found:
            raise ValueError(f"data.split.{key}: expected one key for each split, but {', '.join(split)} repeat {name}.")
        found[name] = _pieces(str(value), lengths, setting=f"data.split.{key}")
        settings += [(f"data.split.{key}", piece) for piece in found[name]]
    _require_disjoint(settings)
    used = {name for pieces in found.values() for name, _, _ in pieces}
    return Choice(pieces=found, divided=True, unused=[name for name in lengths if name not in used])


def _by_names(lengths: Mapping[str, int | None]) -> Choice:
    pieces: dict[str, list[Piece]] = {}
    unused = []
    for name, length in lengths.items():
        own = SPLIT_NAMES.get(name.lower())
        if own is None and len(lengths) == 1:
            own = "train"
        if own is None or own in pieces:
            unused.append(name)
        else:
            pieces[own] = [(name, 0, -1 if length is None else length)]
    if not pieces:
        raise ValueError(
            f"data.split: expected a split that is named train, validation or test, got {', '.join(lengths)}. Name those to "
            "use: data.split=NAME, or 'data.split={train: NAME, val: NAME}'."
        )
    ordered: dict[str, list[Piece]] = {name: pieces[name] for name in ("train", "val", "test") if name in pieces}
    return Choice(pieces=ordered, divided=list(pieces) != ["train"], unused=unused)


def _require_disjoint(settings: Sequence[tuple[str, Piece]]) -> None:
    """Refuse pieces that share rows, which would be both trained on and tested, or count twice.

    Args:
        settings: each piece with the setting that names it.
    """
    for (setting, (name, start, end)), (other, (same, first, last)) in itertools.combinations(settings, 2):
        whole = -1 in (end, last)  # in a stream, whose length is unknown
        if name == same and (whole or max(start, first) < min(end, last)):
            rows = "all" if whole else f"{max(start, first) + 1} to {min(end, last)}"
            raise ValueError(f"{other}: expected each row once, but {setting} also names rows of the split {name}: {rows}.")


def _pieces(text: str, lengths: Mapping[str, int | None], *, setting: str) -> list[Piece]:
    known = ", ".join(lengths)
    if text in lengths:
        length = lengths[text]
        return [(text, 0, -1 if length is None else length)]
    if None in lengths.values():
        raise ValueError(f"{setting}: expected a whole split, one of {known}, since data.streaming is true; got {text!r}.")
    library: Any = datasets()
    try:
        instructions = library.ReadInstruction.from_spec(text).to_absolute(dict(lengths))
        return [(str(one.splitname), int(one.from_), int(one.to)) for one in instructions]
    except (ValueError, AssertionError, KeyError) as error:
        reason = str(error).strip("'\"")
        raise ValueError(f"{setting}: expected a split such as {known}, or 'NAME[:10%]', got {text!r}: {reason}.") from None
