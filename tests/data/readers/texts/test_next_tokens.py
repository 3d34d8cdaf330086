"""Long texts as windows: every id counts once, with all the context that the window has; splits; bad settings."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceiver.data import DataModule, LongTexts, PythonTexts, TextFiles
from perceiver.data.readers.texts.next_tokens import NextTokenWindows, stream_of
from perceiver.data.readers.texts.windows import Stretch
from perceiver.modalities.texts.text_bytes import decode_bytes


@given(size=st.integers(2, 90), context=st.integers(1, 30), data=st.data())
def test_windows_count_every_id_once_with_all_the_context_there_is(size: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    stream = torch.arange(size)
    windows = NextTokenWindows(stream, context=context, stride=stride)
    counted = []
    for number in range(len(windows)):
        sample = windows[number]
        ids, target, mask = sample.inputs["text"], sample.target, sample.target_mask
        assert isinstance(ids, torch.Tensor)
        assert isinstance(target, torch.Tensor)
        assert mask is not None
        assert target.equal(ids + 1)
        assert len(ids) == min(context, int(target[-1]))  # as long as the stream allows
        assert mask.tolist() == sorted(mask.tolist())  # the last ones
        counted += target[mask].tolist()
    assert counted == list(range(1, size))


@given(size=st.integers(2, 90), context=st.integers(1, 30), seed=st.integers(0, 9))
def test_training_windows_are_full_and_end_anywhere_in_their_stretch(size: int, context: int, seed: int) -> None:
    torch.manual_seed(seed)
    stride = max(1, context // 2)
    windows = NextTokenWindows(torch.arange(size), context=context, stride=stride, random=True)
    for number in range(len(windows)):
        target = windows[number].target
        assert isinstance(target, torch.Tensor)
        assert len(target) == min(context, size - 1)
        last = int(target[-1])
        assert last <= max((number + 1) * stride, min(context, size - 1))
        assert last > min(number * stride, size - 2)


def test_a_stream_has_an_end_before_and_after_each_text() -> None:
    texts = [Stretch(name=name, start=0, raw=name.encode()) for name in ("ab", "ü")]
    stream = stream_of(texts)
    assert stream.tolist() == [2, 6 + 97, 6 + 98, 2, 6 + 0xC3, 6 + 0xBC, 2]
    assert decode_bytes(stream) == "abü"


def test_files_become_streams_of_their_split(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"Text number {number}. " * 20)
    source = LongTexts(texts=TextFiles(files=tmp_path, split_by="document"), context=32, predicted=16, stride=8)
    data = DataModule(source, batch_size=4)
    data.prepare_data()
    data.setup()
    texts = {name: decode_bytes(data.split(name).stream) for name in ("train", "val", "test")}
    assert sorted(texts.values()) == [f"Text number {number}. " * 20 for number in range(3)]
    batch = next(iter(data.test_dataloader()))
    assert batch.target is not None
    assert batch.target_mask is not None
    assert batch.target_mask.sum(dim=1).tolist() == [8] * 4
    assert batch.inputs["text"].shape == (4, 32)  # type: ignore[union-attr]
    assert batch.masks["text"].sum(dim=1).tolist() == [8, 16, 24, 32]
    training = next(iter(data.train_dataloader()))
    assert training.masks == {}
    assert training.target_mask is None
    assert data.spec["target"]["kind"] == "text"
    again = LongTexts(texts=TextFiles(files=tmp_path), context=32, predicted=16)
    again.take(data.spec)
    assert again.unaltered(data.split("train"))[0].inputs["text"].equal(data.split("train").stream[:16])  # type: ignore[union-attr]


def test_docstrings_can_be_for_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from perceiver.data.datasets import python_texts
    from perceiver.data.readers.texts.windows import Document

    topics = python_texts.topics
    extra = [Document(name="a.py", text="A docstring."), Document(name="b.py", text=next(iter(topics.values())))]
    monkeypatch.setattr(python_texts, "docstrings_of_modules", lambda: extra)
    plain, more = (PythonTexts(docstrings=given).stretches() for given in (False, "training"))
    assert [one.name for one in more[0]] == [*(one.name for one in plain[0]), "a.py"]  # a topic is not repeated
    assert plain[1:] == more[1:]


@pytest.mark.usefixtures("unchecked")
def test_docstrings_for_another_split_are_an_error() -> None:
    with pytest.raises(ValueError, match="data.docstrings: expected true, false or training, got 'test'"):
        PythonTexts(docstrings="test")  # type: ignore[arg-type]


def test_bad_sizes_are_clear_errors() -> None:
    for sizes in ({"stride": 9}, {"stride": 0}, {"predicted": 40}):
        with pytest.raises(ValueError, match="expected 1 <= stride <= predicted <= context"):
            LongTexts(texts=PythonTexts(), **{"context": 32, "predicted": 8, **sizes})
