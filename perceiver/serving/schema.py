"""What a service accepts and returns, from the spec of its model: `GET /spec`, and OpenAPI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from perceiver.serving.limits import Limits

Spec = Mapping[str, Any]

_PUBLIC = (
    *("kind", "shape", "channel_axis", "range", "sample_rate", "max_seconds", "vocabulary_size", "max_length"),
    *("num_values", "names", "step_seconds", "features", "numbers", "categories", "dates"),
)
"""Entries of a modality's spec that a sender needs. Others, such as columns and paths, stay on the server."""


def public_spec(spec: Spec, *, limits: Limits) -> dict[str, Any]:
    """Return the modalities, the target and the limits.

    Examples:
        >>> image = {"kind": "image", "shape": [1, 8, 8], "column": "x"}
        >>> public_spec({"modalities": {"image": image}}, limits=Limits())["modalities"]
        {'image': {'kind': 'image', 'shape': [1, 8, 8]}}
    """
    target = spec.get("target") or {}
    return {
        "modalities": {
            name: {key: modality[key] for key in _PUBLIC if key in modality} for name, modality in spec["modalities"].items()
        },
        "target": {key: target[key] for key in ("kind", "names", "modality", "threshold") if key in target},
        "limits": asdict(limits),
    }


def openapi(spec: Spec, *, limits: Limits) -> dict[str, Any]:
    """Return the description of the service in OpenAPI 3.1."""
    modalities: Mapping[str, Spec] = spec["modalities"]
    about = f"Modalities: {', '.join(sorted(modalities))}; any subset. At most {limits.request_bytes:,} bytes."
    body = {
        "application/json": {"schema": _object({name: _json(modality) for name, modality in modalities.items()})},
        "multipart/form-data": {"schema": _object({name: _part(modality) for name, modality in modalities.items()})},
    }
    errors = {
        "400": "The request or a sample is invalid.",
        "408": "The body came too slowly.",
        "413": "The request, an image or a recording is too large.",
        "415": "The body is neither JSON nor a form.",
        "503": "Too many requests at a time.",
        "504": "The answer takes too long.",
    }
    predict = {
        "summary": "Predict for one sample",
        "description": about,
        "requestBody": {"required": True, "content": body},
        "responses": {
            "200": _response("The prediction.", _answer(spec.get("target") or {})),
            **{status: _response(text, _ERROR) for status, text in errors.items()},
        },
    }
    spec_get = {"summary": "Modalities, target and limits", "responses": {"200": _response("The spec.", {"type": "object"})}}
    health = {
        "summary": "Readiness of the workers",
        "responses": {"200": {"description": "All workers are ready."}, "503": {"description": "Workers are loading."}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "perceiver-serve", "version": _version()},
        "paths": {"/predict": {"post": predict}, "/spec": {"get": spec_get}, "/health": {"get": health}},
    }


_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_NUMBER: dict[str, Any] = {"type": "number"}
_STRING: dict[str, Any] = {"type": "string"}
_ARRAY: dict[str, Any] = {"type": "array", "description": "Numbers in nested lists."}
_FILE = {
    "type": "object",
    "properties": {"bytes": {"type": "string", "contentEncoding": "base64"}},
    "required": ["bytes"],
    "description": "A file in base 64.",
}


def _json(modality: Spec) -> dict[str, Any]:
    match modality.get("kind"):
        case "text":
            return {"anyOf": [_STRING, {**_ARRAY, "description": "Token ids."}, _FILE]}
        case "table":
            return _row(modality)
        case "timeseries":
            series = _object({"values": _ARRAY, "times": {**_ARRAY, "description": "Seconds."}, "present": _ARRAY})
            return {"anyOf": [series, _ARRAY, _FILE]}
        case "audio":
            sound = _object({"array": _ARRAY, "sampling_rate": {"type": "integer"}})
            return {"anyOf": [_FILE, sound, _ARRAY]}
        case "video":
            return {"anyOf": [_FILE, _ARRAY]}
    return {"anyOf": [_FILE, _ARRAY]}


def _part(modality: Spec) -> dict[str, Any]:
    if modality.get("kind") == "text":
        return _STRING
    if modality.get("kind") == "table":
        return _row(modality)
    return {"type": "string", "contentMediaType": "application/octet-stream", "description": "A file, or a field of JSON."}


def _row(modality: Spec) -> dict[str, Any]:
    numbers = {column: {"type": ["number", "string", "null"]} for column in modality.get("numbers") or ()}
    categories = {
        column: {"type": ["string", "number", "boolean", "null"], "examples": list(names)[:8]}
        for column, names in (modality.get("categories") or {}).items()
    }
    return _object({**numbers, **categories})


def _answer(target: Spec) -> dict[str, Any]:
    names = [str(name) for name in target.get("names") or ()]
    table = {**_object(dict.fromkeys(names, _NUMBER)), "required": names}
    match target.get("kind"):
        case "classes":
            label = {"type": "string", "enum": names} if names else _STRING
            return _object({"kind": _STRING, "label": label, "probability": _NUMBER, "probabilities": table})
        case "labels":
            return _object({"kind": _STRING, "labels": {"type": "array", "items": _STRING}, "probabilities": table})
        case "values":
            return _object({"kind": _STRING, "values": table})
        case "text":
            tokens = {"type": "array", "items": _STRING}
            return _object({"kind": _STRING, "text": _STRING, "score": _NUMBER, "tokens": tokens})
        case "segmentation":
            png = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/png"}
            return _object({"kind": _STRING, "names": _ARRAY, "shares": table, "size": _ARRAY, "png": png})
    npy = {"type": "string", "contentEncoding": "base64", "description": "An array (values, rows, columns) of NumPy."}
    return _object({"kind": _STRING, "names": _ARRAY, "size": _ARRAY, "npy": npy})


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _response(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": dict(schema)}}}


def _version() -> str:
    try:
        return version("perceiver-multimodal")
    except PackageNotFoundError:
        return "0"
