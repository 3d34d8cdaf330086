"""Exported models that generate texts: logits at every step, texts of all ways to choose ids, and files that do not fit."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exported_models import captioning_model, text_generating_model

import perceiver
from perceiver import exported
from perceiver.exported import ExportedFileError, ExportedModel
from perceiver.exported.onnx_file import KEY
from perceiver.modalities.texts.tokenizers import train_pairs

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
TEXTS = ["a dog runs", "two dogs run on a beach", "zwei Hunde laufen", "grün", "a cat"]


@pytest.fixture(scope="module")
def model() -> perceiver.Perceiver:
    return captioning_model({"kind": "pairs", "json": train_pairs(TEXTS, vocabulary_size=280)})


@pytest.fixture(scope="module")
def folder(model: perceiver.Perceiver, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caption")
    perceiver.export(model, folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def graph(folder: Path) -> ExportedModel:
    return exported.load(folder / "model.onnx", threads=1)


def inputs() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Four samples; the second has no image, and the texts of the others are of different lengths."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.arange(9) < torch.tensor([[9], [4], [7], [1]])
    text = torch.randint(6, 262, (4, 9), generator=generator)
    image = torch.rand(4, 1, 5, 6, generator=generator)
    return {"table_pixels": image, "text": text}, {"table_pixels": torch.tensor([True, False, True, True]), "text": mask}


def arrays() -> dict[str, Any]:
    given, masks = inputs()
    return {name: x.numpy() for name, x in given.items()} | {f"{name}.mask": mask.numpy() for name, mask in masks.items()}


def test_logits_of_every_step(model: perceiver.Perceiver, graph: ExportedModel) -> None:
    """Whatever the split into steps, and after rows have been reordered, repeated or dropped."""
    ids = torch.randint(3, 280, (4, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model.head(model.memory(*inputs()), ids).numpy()  # type: ignore[operator]
    decoder = graph._decoder
    assert decoder is not None
    cache, found = decoder.start(graph.run(arrays())), []
    for start, end in ((0, 1), (1, 2), (2, 7), (7, 12)):
        logits, cache = decoder.step(ids[:, start:end].numpy(), cache)
        found.append(logits)
    np.testing.assert_allclose(np.concatenate(found, axis=1), wanted, rtol=0, atol=TOLERANCE)
    index = np.array([2, 0, 2])
    _, cache = decoder.step(ids[:, :5].numpy(), decoder.start(graph.run(arrays())))
    logits, _ = decoder.step(ids[index, 5:6].numpy(), cache.reorder(index))
    np.testing.assert_allclose(logits, wanted[index, 5:6], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_length": 5},
        {"min_length": 9, "repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 2},
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.3, "no_repeat_ngram_size": 1},
        {"num_beams": 2, "early_stopping": True, "min_length": 4},
        {"num_beams": 3, "early_stopping": "never", "length_penalty": 2.0, "max_length": 8},
    ],
)
@pytest.mark.parametrize("prompted", [False, True])
def test_the_same_ids_as_the_model(
    settings: dict[str, Any], prompted: bool, model: perceiver.Perceiver, graph: ExportedModel
) -> None:
    prompt = torch.tensor([[1, 20, 21], [1, 22, 23], [1, 30, 31], [1, 3, 3]]) if prompted else None
    wanted = perceiver.generate(model, *inputs(), prompt=prompt, **settings)
    found = graph.generate(arrays(), prompt=None if prompt is None else prompt.numpy(), **settings)
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_array_equal(found.lengths, wanted.lengths)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4, atol=1e-4)


def test_samples_follow_the_probabilities(graph: ExportedModel) -> None:
    """Ids that the settings exclude are never drawn; the same state draws the same."""
    drawn = graph.generate(
        arrays(), generator=np.random.default_rng(0), do_sample=True, num_return_sequences=50, max_length=2, top_k=2
    )
    again = graph.generate(
        arrays(), generator=np.random.default_rng(0), do_sample=True, num_return_sequences=50, max_length=2, top_k=2
    )
    np.testing.assert_array_equal(drawn.ids, again.ids)
    first = drawn.ids[:, 1].reshape(4, 50)
    assert all(1 <= len(set(row)) <= 2 for row in first.tolist())
    assert max(len(set(row)) for row in first.tolist()) == 2


def test_texts(model: perceiver.Perceiver, graph: ExportedModel) -> None:
    """Raw samples with any of the modalities; byte pairs are read in plain Python."""
    samples = [
        {"table_pixels": np.full((5, 6), 80, np.uint8), "text": "abc"},
        {"text": "another text"},
        {"table_pixels": np.eye(5, 6, dtype=np.uint8) * 255},
    ]
    wanted = model.predict(samples)
    found = graph.predict(samples, batch_size=2)
    assert [one.text for one in found] == [one.text for one in wanted]
    assert [one.tokens for one in found] == [one.tokens for one in wanted]
    np.testing.assert_allclose([one.score for one in found], [one.score for one in wanted], rtol=1e-4)
    assert len({one.text for one in found}) > 1


def test_programs(tmp_path: Path) -> None:
    """The format torch: both programs, chained by hand, from an empty cache and for a single row; a memory of latents."""
    model = text_generating_model()
    path = perceiver.export(model, tmp_path / "model.pt2")
    encoder, step = (torch.export.load(one).module() for one in (path, tmp_path / "model.step.pt2"))
    ids, text = torch.tensor([[1, 40, 41]]), torch.tensor([[104, 107, 114, 20]])
    with torch.no_grad():
        wanted = model.head(model.memory({"text": text}), ids)  # type: ignore[operator]
        memory = encoder(text, torch.ones_like(text, dtype=torch.bool))
        past = [torch.zeros(1, 2, 0, 4)] * 2
        for place in range(3):
            logits, *past = step(ids[:, place : place + 1], *memory, *past)
            torch.testing.assert_close(logits[:, 0], wanted[:, place], rtol=0, atol=TOLERANCE)


def test_bad_calls(graph: ExportedModel) -> None:
    for prompt, words in (
        (np.ones((3, 1), np.int64), r"prompt: expected ids \(4, length\)"),
        (np.full((4, 1), 280), "prompt: expected ids from 0 to 279, got 280 to 280"),
        (np.ones((4, 12), np.int64), "with a length of 1 to max_length - 1 = 11"),
    ):
        with pytest.raises(ValueError, match=words):
            graph.generate(arrays(), prompt=prompt)
    with pytest.raises(ValueError, match="max_length: expected at most 12"):
        graph.generate(arrays(), max_length=13)
    with pytest.raises(ValueError, match=r"expected some of the settings .* got also \['beams'\]"):
        graph.generate(arrays(), beams=3)
    with pytest.raises(ValueError, match="num_beams: expected at least 1"):
        graph.generate(arrays(), num_beams=0)


def changed(file: Path, change: Any) -> None:
    """Change the metadata of a file."""
    content = onnx.load(file)
    [pair] = [pair for pair in content.metadata_props if pair.key == KEY]
    metadata = json.loads(pair.value)
    change(metadata)
    pair.value = json.dumps(metadata)
    onnx.save(content, file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda facts: facts.pop("generation"), "metadata is damaged: generation"),
        (lambda facts: facts["generation"].update(layers=10**9), "metadata is damaged: generation"),
        (lambda facts: facts["generation"].update(past=[[3, 2**40]] * 4), "metadata is damaged: generation"),
        (lambda facts: facts["generation"].update(end_id=280), "metadata is damaged: generation"),
        (lambda facts: facts["generation"].update(settings={"num_beams": -1}), "generation.settings: num_beams"),
        (lambda facts: facts["generation"].update(settings={"__class__": 1}), "generation.settings"),
        (lambda facts: facts["generation"].update(weights="0"), "they are of two exports"),
        (lambda facts: facts.update(interpretation="latents"), None),
    ],
)
def test_a_changed_file(change: Any, words: str | None, folder: Path, tmp_path: Path) -> None:
    for name in ("model.onnx", "model.step.onnx"):
        shutil.copy(folder / name, tmp_path / name)
    changed(tmp_path / "model.onnx", change)
    if words is None:
        assert exported.load(tmp_path / "model.onnx")._decoder is None
        return
    with pytest.raises(ExportedFileError, match=words):
        exported.load(tmp_path / "model.onnx")


def test_the_step_must_be_there(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "model.onnx", tmp_path / "model.onnx")
    with pytest.raises(FileNotFoundError, match=r"model\.step\.onnx: the step of this model is missing"):
        exported.load(tmp_path / "model.onnx")
    shutil.copy(folder / "model.onnx", tmp_path / "model.step.onnx")
    with pytest.raises(ExportedFileError, match="does not belong to model.onnx"):
        exported.load(tmp_path / "model.onnx")
    with pytest.raises(ExportedFileError, match="metadata is damaged"):
        exported.load(folder / "model.step.onnx")
