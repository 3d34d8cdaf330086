"""The decoder of an exported model that generates texts: its step in onnxruntime, and the facts of both files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perceiver.exported.decoding import Decoding
from perceiver.exported.onnx_file import ExportedFileError, OnnxFile, read_onnx, step_path
from perceiver.exported.sequences import Cache, Generated, generate_ids, memory_names, past_names, present_names
from perceiver.exported.session import Session

Array = NDArray[Any]

_MOST = 2**16
"""Upper bound of layers, heads and channels in a file; the largest models have hundreds."""


_LONGEST, _MOST_SEQUENCES = 2**20, 2**10
"""Bounds of ids and of beams, for which memory is allocated."""


class TextDecoder:
    """Generates ids from a memory.

    Args:
        file: the checked file of the encoder; the step lies beside it.
        threads: see `perceiver.exported.load`.
        providers: see `perceiver.exported.load`.

    Raises:
        FileNotFoundError: if the file of the step is missing.
        ExportedFileError: if a file is damaged, or both are not of the same export.
    """

    def __init__(self, file: OnnxFile, *, threads: int | None, providers: Sequence[str]) -> None:
        self.facts = _checked(file)
        self.settings = _settings(file, self.facts.get("settings"))
        path = step_path(file.path)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: the step of this model is missing; mode=export writes it beside {file.path.name}."
            )
        step = read_onnx(path)
        if step.metadata.get("interpretation") != "step" or step.metadata.get("generation") != file.metadata["generation"]:
            raise ExportedFileError(f"{path}: does not belong to {file.path.name}: they are of two exports. Export again.")
        self._session = Session(step, threads=threads, providers=providers)
        layers = self.facts["layers"]
        inputs = ["ids", *memory_names(layers), *past_names(layers)]
        outputs = ["logits", *present_names(layers)]
        types = ["tensor(int64)", "tensor(bool)"] + ["tensor(float)"] * 4 * layers
        if (self._session.inputs, self._session.outputs, self._session.types) != (inputs, outputs, types):
            raise ExportedFileError(f"{path}: its metadata does not fit its graph. The file is damaged, or was changed.")

    def start(self, memory: Mapping[str, Array]) -> Cache:
        """Return the cache before the first id, for the encoder's outputs by name."""
        names = memory_names(self.facts["layers"])
        rows = len(memory[names[0]])
        past = {
            name: np.zeros((rows, heads, 0, channels), dtype=np.float32)
            for name, (heads, channels) in zip(past_names(self.facts["layers"]), self.facts["past"], strict=True)
        }
        return Cache(memory={name: memory[name] for name in names}, past=past)

    def step(self, ids: Array, cache: Cache) -> tuple[Array, Cache]:
        """Return logits `(R, L, V)` of the ids that follow ids `(R, L)`, and the cache after them."""
        logits = []
        for place in range(ids.shape[1]):
            found = self._session.run({"ids": ids[:, place : place + 1], **cache.memory, **cache.past})
            logits.append(found["logits"])
            cache = dataclasses.replace(cache, past={name: found[name.replace("past", "present")] for name in cache.past})
        return np.concatenate(logits, axis=1), cache

    def generate(
        self,
        memory: Mapping[str, Array],
        *,
        prompt: Array | None = None,
        generator: np.random.Generator | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Generated:
        """Generate a sequence for each sample of a memory.

        Args:
            memory: outputs of the encoder, by name.
            prompt: ids `(B, P)` that every sequence starts with; None: the start id.
            generator: random state for `do_sample`.
            settings: settings of `Decoding`; None: those of the file.

        Raises:
            ValueError: for a prompt that does not fit, or invalid settings.
        """
        decoding = self.settings if settings is None else Decoding(**settings)
        rows, facts = len(memory["memory.mask"]), self.facts
        prompt = np.full((rows, 1), facts["start_id"]) if prompt is None else np.asarray(prompt)
        most = decoding.most(prompt.shape[-1], otherwise=facts["max_length"])
        if most > facts["max_length"]:
            raise ValueError(
                f"max_length: expected at most {facts['max_length']}, what the decoder was built for; got {most}."
            )
        if prompt.ndim != 2 or len(prompt) != rows or not 1 <= prompt.shape[1] < most or prompt.dtype.kind not in "iu":
            raise ValueError(
                f"prompt: expected ids ({rows}, length) with a length of 1 to max_length - 1 = {most - 1}, got "
                f"{prompt.dtype} {prompt.shape}."
            )
        if prompt.min() < 0 or prompt.max() >= facts["vocabulary_size"]:
            raise ValueError(
                f"prompt: expected ids from 0 to {facts['vocabulary_size'] - 1}, got {prompt.min()} to {prompt.max()}."
            )
        return generate_ids(
            self.step,
            self.start(memory),
            prompt.astype(np.int64),
            decoding=decoding,
            max_length=most,
            end_id=facts["end_id"],
            pad_id=facts["pad_id"],
            generator=generator,
        )


def _checked(file: OnnxFile) -> dict[str, Any]:
    """Return the facts of generation, so that later errors concern arguments only."""
    facts = file.metadata.get("generation")
    if not isinstance(facts, dict) or not _is_consistent(facts):
        raise ExportedFileError(f"{file.path}: its metadata is damaged: generation.")
    return facts


def _is_consistent(facts: Mapping[str, Any]) -> bool:
    names = ("layers", "vocabulary_size", "max_length", "start_id", "end_id", "pad_id")
    if not all(type(facts.get(name)) is int and 0 <= facts[name] <= _MOST**2 for name in names):
        return False
    layers, past = facts["layers"], facts.get("past")
    if (
        not 2 <= facts["max_length"] <= _LONGEST
        or not 1 <= layers <= _MOST
        or not isinstance(past, list)
        or len(past) != 2 * layers
    ):
        return False
    sizes = [size for shape in past for size in (shape if isinstance(shape, list) and len(shape) == 2 else [None])]
    fits = all(type(size) is int and 1 <= size <= _MOST for size in sizes)
    return fits and max(facts["start_id"], facts["end_id"], facts["pad_id"]) < facts["vocabulary_size"]


def _settings(file: OnnxFile, settings: Any) -> Decoding:
    try:
        return Decoding(**{key: _of_its_type(key, value) for key, value in settings.items()})
    except (TypeError, ValueError, AttributeError) as error:
        raise ExportedFileError(f"{file.path}: its metadata is damaged: generation.settings: {str(error)[:200]}") from None


def _of_its_type(key: str, value: Any) -> Any:
    """Return the value of a setting; ValueError for one of another type than that of its default."""
    counts = (
        "max_length",
        "max_new_tokens",
        "min_length",
        "num_beams",
        "top_k",
        "no_repeat_ngram_size",
        "num_return_sequences",
    )
    types = (int,) if key in counts else (bool,) if key == "do_sample" else (int, float, bool, str)
    most = _MOST_SEQUENCES if key in ("num_beams", "num_return_sequences") else _LONGEST
    if value is not None and (type(value) not in types or (type(value) is int and abs(value) > most)):
        raise ValueError(f"{key}: {str(value)[:40]!r}")
    return value
