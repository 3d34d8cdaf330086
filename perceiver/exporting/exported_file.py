"""`export`: a trained model with its preprocessing and class names as a file that runs without this package's code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from perceiver.adapters import Backbone
from perceiver.decoders import CausalDecoder, LearnedQueries, NextTokenHead, SequenceDecoder
from perceiver.decoders.decoder import target_name
from perceiver.exported.onnx_file import FORMAT, KEY, step_path
from perceiver.exported.sequences import memory_names
from perceiver.exporting.onnx_file import onnx_of, quantised, require_opset, write_onnx
from perceiver.exporting.program import INDEX, ExportError, Outputs, program_of
from perceiver.exporting.signature import Input, inputs_of
from perceiver.exporting.step import past_shapes, step_names, step_program
from perceiver.inference.infilling import vocabulary_of
from perceiver.model import Perceiver
from perceiver.runtime.files import temporary_beside
from perceiver.runtime.plain import plain
from perceiver.targets.kinds import target_of

__all__ = ["ExportError", "export"]

Format = Literal["onnx", "torch"]


def export(
    model: Perceiver,
    path: str | Path,
    *,
    format: Format | None = None,  # noqa: A002  (the name of the setting)
    modalities: Sequence[str] | None = None,
    outputs: Outputs | None = None,
    int8: bool = False,
    opset: int | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model as an ONNX file or a `torch.export` program, with its spec, and return the path.

    Batch size and all sizes that the spec leaves open stay free. Every modality of the file has a mask as an input, so
    samples may lack it. `perceiver.exported.load` runs ONNX files with onnxruntime and NumPy alone. A program is loaded
    with `torch.export.load(path).module()`; its inputs are those of the metadata, in order.

    A model that generates texts becomes two files: `path`, from inputs to what the decoder reads at every step, and beside
    it the step (`model.step.onnx` for `model.onnx`), from an id and the keys and values of earlier ids to the logits of the
    next id and the keys and values including it.

    Args:
        model: a model with a spec, such as `perceiver.load` returns.
        path: target file, `.onnx` or `.pt2`.
        format: `onnx` or `torch`; None: by the suffix of the path.
        modalities: modalities of the file, any subset; None: all that the outputs allow.
        outputs: `target`, the outputs for the spec's target, which `predict` interprets (of a causal decoder: encoder
            and step); `all`, all outputs of the head; or `latents`. None: `target`, or `all` if the spec has no target.
            Masked language models have an additional input, the positions to predict.
        int8: quantise the weights of linear layers outside the adapters to 8 bits (ONNX only).
        opset: version of the ONNX operators; None: that of torch.
        inputs: example inputs by modality, for kinds of modality of which none can be made from the spec.

    Raises:
        ExportError: if a layer cannot be exported; names it. For a network that cannot ignore padding, see `Backbone`, if
            samples differ in size. For `all` outputs of a model that generates texts.
        ValueError: for a model without a spec, or an unknown modality, format, output or opset.
        ModuleNotFoundError: without the extra `export`.

    Examples:
        >>> import tempfile
        >>> import perceiver
        >>> from perceiver import Encoder, Fourier, Perceiver, PooledHead
        >>> from perceiver.adapters import ImagePixels
        >>> image = ImagePixels(image_channels=1, position=Fourier(num_bands=2, resolution=(8, 8)))
        >>> spec = {
        ...     "modalities": {"image": {"kind": "image", "shape": [1, 8, 8]}},
        ...     "target": {"kind": "classes", "names": ["cat", "dog"]},
        ... }
        >>> model = Perceiver(
        ...     adapters={"image": image},
        ...     encoder=Encoder(token_channels=image.channels, num_latents=4, latent_channels=16, num_layers_per_block=1),
        ...     head=PooledHead(latent_channels=16, num_classes=2),
        ...     spec=spec,
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = perceiver.export(model, f"{folder}/model.pt2")
        ...     program = torch.export.load(path).module()
        >>> program(torch.rand(5, 1, 8, 8), torch.ones(5, dtype=torch.bool)).shape
        torch.Size([5, 2])
    """
    file = Path(path)
    _require_format(file, format, int8=int8)
    require_opset(opset)
    spec = _spec(model)
    wanted = _outputs(model, spec, outputs)
    names = _modalities(model, spec, modalities, outputs=wanted)
    longest = {one.modality: min(one.queries.shape[:-1]) for one in _learned_queries(model)}
    signature = inputs_of({name: spec["modalities"][name] for name in names}, inputs, longest=longest)
    _require_exportable_networks(model, signature)
    metadata: dict[str, Any] = {
        "format": FORMAT,
        "versions": {"perceiver": _version(), "torch": torch.__version__},
        "spec": {**spec, "modalities": {name: spec["modalities"][name] for name in names}},
        "inputs": [place.plain() for place in signature],
        "outputs": _output_names(model, wanted),
        "interpretation": wanted,
        "text": None,
        "int8": int8,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    if wanted == "memory":
        metadata["generation"] = _generation(model.head)
        _write_step(model.head, step_path(file), metadata, int8=int8, opset=opset)
    text = _text(model) if wanted == "all" else None
    metadata["text"] = text
    program = program_of(model, signature, outputs=wanted, indexed=text is not None)
    flat = [place.name for place in signature] + ([INDEX] if text is not None else [])
    return _write(program, file, metadata, names=flat, int8=int8, opset=opset)


def _require_exportable_networks(model: Perceiver, signature: Sequence[Input]) -> None:
    """Refuse a network that runs once per size of a sample: how often that is, a graph cannot decide."""
    for place in signature:
        for module in model.adapters[place.modality].modules() if place.axes else ():
            if isinstance(module, Backbone) and not module.network.reads_masks:
                raise ExportError(
                    f"export: modality {place.modality!r} has samples of different sizes, and its network, "
                    f"{type(module.network).__name__}, cannot ignore padding, so the model runs it once per size, which an "
                    "exported file cannot do. Train with one size for all samples (images: adapter.image_size), or with a "
                    f"network that reads masks, or leave {place.modality} out of export.modalities."
                )


def _generation(decoder: Any) -> dict[str, Any]:
    """Return what generation needs besides the two graphs."""
    return {
        "layers": len(decoder.layers),
        "past": past_shapes(decoder),
        "vocabulary_size": decoder.output_channels,
        "max_length": decoder.max_length,
        "start_id": decoder.start_id,
        "end_id": decoder.end_id,
        "pad_id": decoder.pad_id,
        "settings": asdict(decoder.decoding),
        # The same in both files, which are of no use with those of another export.
        "weights": _digest(decoder),
    }


def _digest(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _write_step(decoder: Any, path: Path, metadata: Mapping[str, Any], *, int8: bool, opset: int | None) -> None:
    """Write the step before the encoder: loading starts with the encoder, which then is never older than its step."""
    names, outputs = step_names(decoder)
    own = {
        "format": metadata["format"],
        "versions": metadata["versions"],
        "interpretation": "step",
        "inputs": names,
        "outputs": outputs,
        "generation": metadata["generation"],
        "int8": int8,
    }
    _write(step_program(decoder), path, own, names=names, int8=int8, opset=opset)


def _write(
    program: Any, path: Path, metadata: Mapping[str, Any], *, names: Sequence[str], int8: bool, opset: int | None
) -> Path:
    if path.suffix == ".pt2":
        return _write_program(program, path, metadata)
    graph = onnx_of(program, names=names, outputs=metadata["outputs"], opset=opset)
    return write_onnx(quantised(graph) if int8 else graph.model, path, metadata=metadata)


def _require_format(path: Path, given: str | None, *, int8: bool) -> None:
    known = {".onnx": "onnx", ".pt2": "torch"}
    chosen = given or known.get(path.suffix)
    if chosen is None or known.get(path.suffix) != chosen:
        raise ValueError(
            f"export: expected a file ending in .onnx (format onnx) or .pt2 (format torch), got {path.name!r} with the "
            f"format {given!r}."
        )
    if int8 and chosen == "torch":
        raise ValueError("export.int8: expected the format onnx, whose runtime has products of 8-bit integers; got torch.")


def _spec(model: Perceiver) -> dict[str, Any]:
    spec = model.spec
    if not spec or not isinstance(spec.get("modalities"), Mapping):
        raise ValueError(
            "export: the model has no spec, so the file could not say how to prepare its inputs. Use a model that "
            "perceiver.load returned, or set model.spec = {'modalities': {NAME: {'kind': …, 'shape': […]}}}."
        )
    values = plain(spec, path="spec")
    assert isinstance(values, dict)
    # The file must be JSON.
    json.dumps(values, allow_nan=False)
    return values


def _outputs(model: Perceiver, spec: Mapping[str, Any], given: str | None) -> Outputs:
    if given not in (None, "target", "all", "latents"):
        raise ValueError(f"export.outputs: expected target, all or latents, got {given!r}.")
    if isinstance(model.head, SequenceDecoder | NextTokenHead):
        if given == "latents":
            return "latents"
        decodes = isinstance(model.head, CausalDecoder)
        if given == "all" or not decodes:
            raise ExportError(
                f"export: {type(model.head).__name__} generates a text id by id, so it has no outputs of a single program. "
                f"Use {'outputs=target, which exports encoder and step, or ' if decodes else ''}outputs=latents."
            )
        return "memory"
    predicts = target_of(spec) is not None and (isinstance(_channels(model), int) or target_name(model.head) is not None)
    if given is None:
        return "target" if predicts else "all"
    if given == "target" and not predicts:
        raise ValueError(
            "export.outputs: expected all or latents, because the model has no output for a target of its spec; got target."
        )
    return given  # type: ignore[return-value]


def _channels(model: Perceiver) -> Any:
    return getattr(model.head, "output_channels", 0)


def _modalities(model: Perceiver, spec: Mapping[str, Any], given: Sequence[str] | None, *, outputs: str) -> list[str]:
    aside = {target_name(model.head)} if outputs == "target" else set()
    known = [name for name in model.adapters if name not in aside]
    described = [name for name in known if name in spec["modalities"]]
    if isinstance(given, str) or (given is not None and (not given or not set(given) <= set(described))):
        raise ValueError(f"export.modalities: expected a list of some of {described}, got {given!r}.")
    if given is None and (missing := set(known) - set(described)) and outputs != "all":
        raise ValueError(f"export: the spec does not describe the modalities {sorted(missing)} of the model.")
    return sorted(described if given is None else set(given))


def _text(model: Perceiver) -> str | None:
    """Return the text modality whose ids the head predicts; None for other heads."""
    name = getattr(model.head, "modality", None)
    try:
        vocabulary_of(model, str(name))
    except ValueError:
        return None
    return str(name)


def _learned_queries(model: Perceiver) -> list[Any]:
    """Return the query providers with a learned query for each token of a modality."""
    return [one for one in model.head.modules() if isinstance(one, LearnedQueries) and one.modality is not None]


def _output_names(model: Perceiver, outputs: str) -> list[str]:
    if outputs == "memory":
        return memory_names(len(model.head.layers))  # type: ignore[arg-type]
    if outputs == "latents":
        return ["latents"]
    channels = _channels(model)
    if outputs == "all" and isinstance(channels, Mapping):
        return [f"output.{name}" for name in channels]
    return ["output"]


def _write_program(program: Any, path: Path, metadata: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path).with_suffix(".pt2")
    try:
        torch.export.save(program, temporary, extra_files={f"{KEY}.json": json.dumps(metadata)})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _version() -> str:
    try:
        return version("perceiver-multimodal")
    except PackageNotFoundError:
        return "unknown"
