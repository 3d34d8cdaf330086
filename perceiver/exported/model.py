"""Exported models in onnxruntime: raw samples in, predictions out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perceiver.exported.batches import batch_of
from perceiver.exported.interpretation import KINDS, predictions_of, softmax, texts_of
from perceiver.exported.onnx_file import MAX_ELEMENTS, ExportedFileError, OnnxFile, read_onnx
from perceiver.exported.preprocess import KINDS as MODALITY_KINDS
from perceiver.exported.preprocess import encode_bytes, ids_of_text, is_plain_array, preprocess
from perceiver.exported.sequences import Generated
from perceiver.exported.session import Session
from perceiver.exported.text_decoder import TextDecoder
from perceiver.exported.tokenizers import BYTES, NUM_SPECIAL, decoder_of
from perceiver.modalities.facts import check_facts
from perceiver.modalities.texts.cut_texts import CutTexts
from perceiver.runtime.plain import PlainError, plain
from perceiver.targets.decoding_settings import DecodingSettings

Array = NDArray[Any]

_NEEDED: dict[Any, tuple[str, ...]] = {
    "image": ("shape",),
    "video": ("shape",),
    "audio": ("shape", "sample_rate"),
    "text": ("vocabulary_size",),
    "timeseries": ("num_values",),
}
"""Entries of the spec that are needed to prepare samples of a kind."""

_MASK_ID = 3
_TYPES = {"float32": "tensor(float)", "float64": "tensor(double)", "int64": "tensor(int64)", "bool": "tensor(bool)"}


def load(
    path: str | Path, *, threads: int | None = None, providers: Sequence[str] = ("CPUExecutionProvider",)
) -> ExportedModel:
    """Load an ONNX file of `perceiver.export`.

    The file is data: it can name no other file, operator library or class. It may still ask for much memory or time; for
    files of strangers, limit both for the process.

    Args:
        path: the file, or a run directory with `export/model.onnx`.
        threads: threads of a call; None: onnxruntime's choice.
        providers: execution providers of onnxruntime, in order of preference.

    Raises:
        FileNotFoundError: if there is no such file.
        ExportedFileError: if the file is damaged, of another version, or not of `perceiver.export`.
        ModuleNotFoundError: without onnxruntime.
    """
    return ExportedModel(read_onnx(path), threads=threads, providers=providers)


class ExportedModel:
    """A model in onnxruntime, with its spec; made by `load`.

    Args:
        file: a checked file.
        threads: see `load`.
        providers: see `load`.

    Attributes:
        spec: spec of modalities and target.
        modalities: names of the modalities.
        inputs: names of the graph's inputs.
        outputs: names of the graph's outputs.
        versions: versions that wrote the file, by package.
    """

    def __init__(self, file: OnnxFile, *, threads: int | None, providers: Sequence[str]) -> None:
        self._facts = _checked(file)
        self.path = file.path
        self.spec: dict[str, Any] = self._facts["spec"]
        self.modalities: list[str] = sorted(self.spec["modalities"])
        self.versions: dict[str, str] = self._facts["versions"]
        self._session = Session(file, threads=threads, providers=providers)
        self.inputs: list[str] = self._session.inputs
        self.outputs: list[str] = self._session.outputs
        self._check_graph()
        generates = self._facts["interpretation"] == "memory"
        self._decoder = TextDecoder(file, threads=threads, providers=providers) if generates else None

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute the outputs by name for prepared inputs by name.

        Args:
            inputs: arrays `(B, …)`; modalities and masks may be left out. Without a mask, everything is valid. A mask may be
                `(B,)`, the presence of samples.

        Raises:
            ValueError: for an unknown name, or inputs without an array.
        """
        known = {entry["name"]: entry for entry in self._facts["inputs"]}
        text = self._facts["text"]
        if unknown := set(inputs) - set(self.inputs):
            raise ValueError(f"run: expected any of the inputs {self.inputs}, got also {sorted(unknown)}.")
        tensors = [name for name in inputs if name in known and known[name]["part"] != "mask"]
        if not tensors:
            raise ValueError(f"run: expected an array of at least one modality of {self.modalities}, got {sorted(inputs)}.")
        count = len(inputs[tensors[0]])
        given = dict(inputs)
        present = {known[name]["modality"] for name in tensors}
        for modality in self.modalities:
            own = [entry for entry in known.values() if entry["modality"] == modality]
            absent = {} if modality in present else batch_of([{}] * count, own, names=[])
            for entry in own:
                if entry["name"] in given:
                    x = np.asarray(given[entry["name"]], dtype=entry["dtype"])
                    if entry["part"] == "mask" and x.ndim == 1 and entry["axes"]:
                        # Presence of samples, where the file takes elements.
                        valid = self._all_valid(own, entry, given, count)
                        x = valid & x.reshape(-1, *[1] * (valid.ndim - 1))
                    given[entry["name"]] = x
                elif modality not in present:
                    given[entry["name"]] = absent[entry["name"]]
                elif entry["part"] in ("mask", "present"):
                    given[entry["name"]] = self._all_valid(own, entry, given, count)
                else:
                    raise ValueError(
                        f"run: {entry['name']} is missing; the modality {modality!r} has the inputs "
                        f"{[one['name'] for one in own]}."
                    )
        if text is not None and "index" not in given:
            length = given[text].shape[1]
            given["index"] = np.broadcast_to(np.arange(length), (count, length)).astype(np.int64)
        return self._session.run(given)

    def compute(self, samples: Any, *, batch_size: int = 64) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
        """Yield inputs and outputs by name for batches of raw samples; see `predict`. Warn at the end of cut texts."""
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}.")
        modalities = {name: self.spec["modalities"][name] for name in self.modalities}
        texts = {name: CutTexts(own.get("max_length")) for name, own in modalities.items() if own.get("kind") == "text"}
        numbered = enumerate(self._samples(samples))
        while rows := list(islice(numbered, batch_size)):
            prepared = [self._prepared(raw, number, texts) for number, raw in rows]
            batch = batch_of(prepared, self._facts["inputs"], names=[f"sample {number}" for number, _ in rows])
            yield batch, self.run(batch)
        for name, counted in texts.items():
            counted.warn(f"predict, modality {name!r}")

    def predict(self, samples: Any, *, batch_size: int = 64) -> list[Any]:
        """Predict the target of the spec for raw samples; arguments and predictions as in `perceiver.Perceiver.predict`.

        Args:
            samples: one sample, or an iterable of samples: dicts of raw modalities, any non-empty subset, or raw values for
                a model of one modality. Arrays, texts, rows as dicts, images of Pillow, files as `Path` or bytes.
            batch_size: number of samples at a time.

        Raises:
            ValueError: if the file has no outputs for a target, or a raw value does not fit the spec; names the sample.
        """
        self.require_predictions()
        predictions: list[Any] = []
        for batch, outputs in self.compute(samples, batch_size=batch_size):
            predictions += self._interpreted(batch, outputs)
        return predictions

    def require_predictions(self) -> None:
        """Raise ValueError unless the file has outputs for the target of the spec."""
        if self._decoder is not None:
            if (self.spec.get("target") or {}).get("kind") != "text":
                raise ValueError(f"predict: {self.path} has no target of texts; use generate, which returns ids.")
            return
        if self._facts["interpretation"] != "target":
            raise ValueError(
                f"predict: {self.path} has the outputs {self.outputs}, which are no predictions. Export with "
                "outputs=target, or use compute."
            )

    def prepare(self, raw: Any) -> dict[str, Mapping[str | None, Array]]:
        """Convert and check one raw sample for `predict_prepared`: arrays by modality and part. See `predict` for errors."""
        prepared = self._prepared(raw, 0, {})
        batch_of([prepared], self._facts["inputs"], names=["sample 0"])
        return prepared

    def predict_prepared(self, samples: Sequence[Mapping[str, Mapping[str | None, Array]]]) -> list[Any]:
        """Predict the target of the spec for samples from `prepare`, as one batch; see `predict`."""
        self.require_predictions()
        names = [f"sample {number}" for number in range(len(samples))]
        batch = batch_of(samples, self._facts["inputs"], names=names)
        return self._interpreted(batch, self.run(batch))

    def _interpreted(self, batch: Mapping[str, Array], outputs: Mapping[str, Array]) -> list[Any]:
        target = self.spec.get("target") or {}
        if self._decoder is not None:
            text_of = decoder_of(target.get("tokenizer"))
            return list(texts_of(self._decoder.generate(outputs), text_of, count=len(outputs["memory.mask"])))
        return self._cut(predictions_of(outputs[self.outputs[0]], target), target, batch)

    def generate(
        self,
        inputs: Mapping[str, Array],
        *,
        prompt: Array | None = None,
        generator: np.random.Generator | None = None,
        **settings: Any,
    ) -> Generated:
        """Generate a sequence of ids for each sample; as `perceiver.generate`.

        Args:
            inputs: prepared arrays by name, see `run`.
            prompt: ids `(B, P)` that every sequence starts with, the start id first; None: the start id.
            generator: random state for `do_sample`.
            settings: `max_length`, `num_beams` and the others of `perceiver.generate`; greedy without any.

        Raises:
            ValueError: if the file's model generates no texts, for an unknown setting, or one out of range.
        """
        if self._decoder is None:
            raise ValueError(f"generate: {self.path} generates no texts; its outputs are {self.outputs}.")
        known = [field.name for field in fields(DecodingSettings)]
        if unknown := sorted(set(settings) - set(known)):
            raise ValueError(f"generate: expected some of the settings {known}, got also {unknown}.")
        return self._decoder.generate(self.run(inputs), prompt=prompt, generator=generator, settings=settings)

    def fill_in(self, text: str, *, marker: str = "[MASK]", one_by_one: bool = False) -> str:
        """Fill the gaps of a text with a masked language model of bytes; see `perceiver.fill_in`.

        Raises:
            ValueError: if the model predicts no text of bytes, or the text has no gap.
        """
        name = self._facts["text"]
        spec = self.spec["modalities"].get(name) or {}
        if name is None or spec.get("vocabulary_size") != BYTES:
            raise ValueError(f"fill_in: {self.path} predicts no text of UTF-8 bytes; its outputs are {self.outputs}.")
        pieces = text.split(marker) if marker else [text]
        if len(pieces) < 2:
            raise ValueError(f"fill_in.text: expected at least one gap: {marker!r}. Mark one.")
        gap = np.array([_MASK_ID])
        parts = [part for piece in pieces for part in (encode_bytes(piece, "fill_in.text"), gap)][:-1]
        ids = np.concatenate(parts)
        left = np.flatnonzero(ids == _MASK_ID)
        while len(left):
            [logits] = self.run({name: ids[None], "index": left[None]}).values()
            shares = softmax(logits[0][:, NUM_SPECIAL:])
            chosen = np.array([shares.max(axis=-1).argmax()]) if one_by_one else np.arange(len(left))
            ids[left[chosen]] = shares[chosen].argmax(axis=-1) + NUM_SPECIAL
            left = np.delete(left, chosen)
        return bytes((ids - NUM_SPECIAL).clip(0).astype(np.uint8)).decode("utf-8", errors="replace")

    def __repr__(self) -> str:
        target = (self.spec.get("target") or {}).get("kind", "no target")
        return f"ExportedModel({str(self.path)!r}, modalities={self.modalities}, target={target!r}, outputs={self.outputs})"

    def _samples(self, samples: Any) -> Iterable[Any]:
        """Iterate over the samples; a single sample counts as one."""
        pillow = type(samples).__module__.startswith("PIL.")
        if isinstance(samples, Mapping | str | Path | bytes | bytearray) or pillow:
            return [samples]
        if isinstance(samples, np.ndarray) and len(self.modalities) == 1:
            return [samples] if _is_one(samples, self.spec["modalities"][self.modalities[0]]) else samples
        if not isinstance(samples, Iterable):
            raise TypeError(f"predict: expected a sample or an iterable of samples, got {type(samples).__name__}.")
        return samples

    def _prepared(self, raw: Any, number: int, texts: Mapping[str, CutTexts]) -> dict[str, Mapping[str | None, Array]]:
        """Convert a raw sample, and count those of its texts that are cut."""
        if not isinstance(raw, Mapping):
            if len(self.modalities) != 1:
                raise ValueError(
                    f"sample {number}: expected a dict with any of {self.modalities}, got {type(raw).__name__}."
                )
            raw = {self.modalities[0]: raw}
        if not raw or set(raw) - set(self.modalities):
            raise ValueError(
                f"sample {number}: expected one or more of the modalities {self.modalities}, got {sorted(raw)}."
            )
        modalities = self.spec["modalities"]
        prepared: dict[str, Mapping[str | None, Array]] = {}
        for name, value in raw.items():
            where = f"sample {number}, modality {name!r}"
            prepared[name] = preprocess(value, modalities[name], where)
            if name in texts:
                most = texts[name].max_length
                texts[name].add(most is not None and len(ids_of_text(value, modalities[name], where)) > most)
        return prepared

    def _all_valid(
        self, own: Sequence[Mapping[str, Any]], entry: Mapping[str, Any], given: Mapping[str, Array], count: int
    ) -> Array:
        """Return a mask or `present` that is True everywhere, in the sizes of the other inputs."""
        first = next(one for one in own if one["part"] not in ("mask", "present"))
        if entry["part"] == "present" and entry["shape"] and entry["shape"][0] is not None:
            return np.ones((count, *entry["shape"]), dtype=np.bool_)
        if entry["part"] == "present":
            return np.ones(np.asarray(given[first["name"]]).shape, dtype=np.bool_)
        sizes = np.asarray(given[first["name"]]).shape
        return np.ones((count, *(sizes[axis + 1] for axis in entry["axes"])), dtype=np.bool_)

    def _cut(self, predictions: list[Any], target: Mapping[str, Any], batch: Mapping[str, Array]) -> list[Any]:
        """Remove padding from predictions on grids."""
        mask = batch.get(f"{target.get('modality', '')}.mask")
        if mask is None or mask.ndim < 3:
            return predictions
        sizes = []
        for axis in (-2, -1):
            others = tuple(other for other in range(1, mask.ndim) if other != mask.ndim + axis)
            sizes.append((mask.any(axis=others) * np.arange(1, mask.shape[axis] + 1)).max(axis=1).tolist())
        return [one.cut(height, width) for one, height, width in zip(predictions, *sizes, strict=True)]

    def _check_graph(self) -> None:
        """Compare the metadata with the graph."""
        names = [entry["name"] for entry in self._facts["inputs"]] + (["index"] if self._facts["text"] is not None else [])
        types = [_TYPES[entry["dtype"]] for entry in self._facts["inputs"]]
        fits = self.inputs == names and self.outputs == self._facts["outputs"]
        if not fits or any(one != wanted for one, wanted in zip(self._session.types, types, strict=False)):
            raise ExportedFileError(
                f"{self.path}: its metadata names the inputs {names} and outputs {self._facts['outputs']}; the graph has "
                f"{self.inputs} and {self.outputs}. The file is damaged, or was changed."
            )


def _checked(file: OnnxFile) -> dict[str, Any]:
    """Check the structure of the metadata, so that later errors concern samples only."""
    facts = file.metadata

    def require(condition: bool, what: str) -> None:
        if not condition:
            raise ExportedFileError(f"{file.path}: its metadata is damaged: {what}.")

    versions, spec = facts.get("versions"), facts.get("spec")
    require(isinstance(versions, dict) and all(isinstance(one, str) for one in versions.values()), "versions")
    require(isinstance(spec, dict) and isinstance(spec.get("modalities"), dict), "spec.modalities")
    entries = list(spec["modalities"].values())  # type: ignore[index]
    require(bool(entries) and all(isinstance(one, dict) for one in entries), "spec.modalities")
    try:
        plain(spec, path="spec")  # numbers of 64 bits, bounded depth
        check_facts(spec, path="spec", modality_kinds=MODALITY_KINDS.keys(), target_kinds=[*KINDS, "text"])
        # Samples of other kinds are arrays of the spec's shape here, whatever their own code makes of its facts.
        named = dict(spec["modalities"])  # type: ignore[index]
        others = {name: entry for name, entry in named.items() if entry.get("kind") not in MODALITY_KINDS}
        read = {name: {**entry, "kind": "array"} for name, entry in others.items() if is_plain_array(entry)}
        check_facts({"modalities": read}, path="spec", modality_kinds=["array"], target_kinds=[])
    except PlainError as error:
        raise ExportedFileError(f"{file.path}: its metadata is damaged: {error}.") from None
    for entry in entries:
        for key in _NEEDED.get(entry.get("kind"), ()):
            require(entry.get(key) is not None, f"spec.modalities: a modality of kind {entry['kind']} without {key}")
    inputs, outputs = facts.get("inputs"), facts.get("outputs")
    require(isinstance(inputs, list) and bool(inputs), "inputs")
    require(isinstance(outputs, list) and bool(outputs) and all(isinstance(one, str) for one in outputs), "outputs")
    require(facts.get("interpretation") in ("target", "all", "latents", "memory"), "interpretation")
    text = facts.setdefault("text", None)
    require(text is None or (isinstance(text, str) and text in spec["modalities"]), "text")  # type: ignore[index]
    for entry in inputs:  # type: ignore[union-attr]
        require(isinstance(entry, dict), "inputs")
        require(all(isinstance(entry.get(key), str) for key in ("name", "modality", "dtype")), "inputs")
        require(entry["modality"] in spec["modalities"] and entry["dtype"] in _TYPES, "inputs")  # type: ignore[index]
        require("part" in entry and (entry["part"] is None or isinstance(entry["part"], str)), "inputs")
        shape, example = entry.get("shape"), entry.get("example")
        require(isinstance(shape, list) and isinstance(example, list) and len(shape) == len(example), "inputs")
        require(all(type(size) is int and size > 0 for size in example), "inputs")
        require(all(own is None or own == size for own, size in zip(shape, example, strict=True)), "inputs")
        require(math.prod(example) <= MAX_ELEMENTS, "inputs are too large")
        require(isinstance(entry.get("axes"), list) and len(entry["axes"]) in (0, len(shape)), "inputs")
    for name in spec["modalities"]:  # type: ignore[index]
        parts = [entry["part"] for entry in inputs if entry["modality"] == name]  # type: ignore[union-attr]
        require(len(parts) > 1 and parts[-1] == "mask" and len(set(parts)) == len(parts), "inputs")
        *tensors, mask = [entry for entry in inputs if entry["modality"] == name]  # type: ignore[union-attr]
        axes = mask["axes"] if all(type(axis) is int for axis in mask["axes"]) else [-1]
        require(all(0 <= axis < len(tensors[0]["shape"]) for axis in axes), "inputs")
        require([tensors[0]["shape"][axis] for axis in axes] == mask["shape"], "inputs")
    if facts["interpretation"] == "target":
        target = spec.get("target")  # type: ignore[union-attr]
        require(isinstance(target, dict) and target.get("kind") in KINDS, "spec.target")
        names = target.get("names")
        require(isinstance(names, list) and bool(names), "spec.target.names")
        for key in ("mean", "std"):
            numbers = target.get(key, [])
            require(isinstance(numbers, list) and len(numbers) in (0, len(names)), f"spec.target.{key}")
            require(all(type(one) in (int, float) and math.isfinite(one) for one in numbers), f"spec.target.{key}")
    return facts


def _is_one(x: Array, modality: Mapping[str, Any]) -> bool:
    """Return whether an array is one sample of a modality; see `perceiver.targets.predict`."""
    kind, shape = modality.get("kind"), modality.get("shape")
    if kind == "text":
        return x.ndim == 1
    if kind == "timeseries":
        return bool(x.ndim == 1 or (x.ndim == 2 and x.shape[-1] == modality["num_values"]))
    if shape is None or x.ndim > len(shape):
        return False
    alone = kind in ("image", "video", "audio") and shape[0] == 1 and x.ndim == len(shape)
    return not alone or 1 in (x.shape[0], x.shape[-1])
