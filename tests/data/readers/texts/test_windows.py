"""Windows and splits of documents: nothing is lost, nothing is in two splits, cuts lie where words and characters end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver.data.readers.texts.windows import (
    Document,
    Stretch,
    TextWindows,
    distinct,
    split_by_document,
    split_by_stretch,
    windows,
)
from perceiver.modalities.texts.text_bytes import decode_bytes

TEXT = st.text(st.sampled_from("ab \nü漢🙂"), max_size=300)


def stretch(text: str) -> Stretch:
    return Stretch(name="it", start=0, raw=text.encode())


@given(text=TEXT, size=st.integers(8, 40), at_lines=st.booleans())
@settings(max_examples=80)
def test_windows_hold_the_whole_text(text: str, size: int, at_lines: bool) -> None:
    pieces = windows(stretch(text), size=size, at_lines=at_lines)
    raw = text.encode()
    place = 0
    for piece in pieces:
        assert 0 < len(piece.raw) <= size
        assert not raw[place : piece.start].strip(), "nothing but white space is left out"
        assert raw[piece.start : piece.start + len(piece.raw)] == piece.raw
        piece.raw.decode()  # whole characters
        place = piece.start + len(piece.raw)
    assert not raw[place:].strip()


def test_windows_end_where_words_and_lines_do() -> None:
    text = "one two three\nfour five six seven\neight"
    by_word = [piece.raw for piece in windows(stretch(text), size=16)]
    assert by_word == [b"one two three\n", b"four five six ", b"seven\neight"]
    by_line = [piece.raw for piece in windows(stretch(text), size=30, at_lines=True)]
    assert by_line == [b"one two three\nfour five six ", b"seven\neight"], "a line that is too long ends behind a word"
    by_line = [piece.raw for piece in windows(stretch(text), size=35, at_lines=True)]
    assert by_line == [b"one two three\nfour five six seven\n", b"eight"]
    assert [piece.raw for piece in windows(stretch("x" * 20), size=8)] == [b"x" * 8, b"x" * 8, b"x" * 4]


def test_samples_are_ids_of_bytes() -> None:
    data = TextWindows(windows(stretch("Grüße an alle"), size=8), modality="text")
    texts = [decode_bytes(data[number].inputs["text"]) for number in range(len(data))]  # type: ignore[arg-type]
    assert "".join(texts) == "Grüße an alle"
    assert texts == data.text()
    assert [data[number].id for number in range(len(data))] == ["it@0", "it@8"]
    assert data[0].target is None


def documents(count: int) -> list[Document]:
    return [Document(name=f"{number:03}", text=f"document {number}\n" * (1 + number % 7)) for number in range(count)]


@given(count=st.integers(3, 60), seed=st.integers(0, 5), share=st.floats(0.05, 0.4))
@settings(max_examples=40)
def test_documents_are_in_one_split_each(count: int, seed: int, share: float) -> None:
    docs = documents(count)
    splits = split_by_document(docs, validation_fraction=share, test_fraction=share, seed=seed)
    names = [[one.name for one in split] for split in splits]
    assert all(names)
    assert sorted(name for split in names for name in split) == [one.name for one in docs]
    sizes = [sum(len(one.raw) for one in split) for split in splits]
    for size in sizes[1:]:
        # Whole documents, of 91 bytes at most here.
        assert abs(size - share * sum(sizes)) <= 91 + share * sum(sizes) * (count < 10)
    other = split_by_document(docs, validation_fraction=0.01, test_fraction=share, seed=seed)
    assert other[2] == splits[2], "the test split does not depend on the validation split"


@given(text=TEXT.filter(lambda text: len(text) > 30))
@settings(max_examples=40)
def test_stretches_follow_one_another(text: str) -> None:
    raw = text.encode()
    splits = split_by_stretch([Document(name="it", text=text)], validation_fraction=0.2, test_fraction=0.3)
    place = 0
    for split in splits:
        for one in split:
            assert not raw[place : one.start].strip()
            assert raw[one.start : one.start + len(one.raw)] == one.raw
            one.raw.decode()
            place = one.start + len(one.raw)
    assert not raw[place:].strip()


def test_stretches_end_with_lines() -> None:
    text = "".join(f"line {number:02}\n" for number in range(100))
    training, validation, test = split_by_stretch(
        [Document(name="it", text=text)], validation_fraction=0.1, test_fraction=0.1
    )
    assert [split[0].raw.count(b"\n") for split in (training, validation, test)] == [80, 10, 10]
    assert all(split[0].raw.startswith(b"line") for split in (training, validation, test))


def test_the_same_text_counts_once() -> None:
    docs = [Document(name=name, text=text) for name, text in (("a", "x"), ("b", "y"), ("c", "x"))]
    assert [one.name for one in distinct(docs)] == ["a", "b"]


def test_too_few_documents() -> None:
    with pytest.raises(ValueError, match=r"there are 2 different documents.*data.split_by=stretch"):
        split_by_document(documents(2), validation_fraction=0.1, test_fraction=0.1, seed=0)
