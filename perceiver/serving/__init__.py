"""A model as a service over HTTP: `perceiver-serve`, on LitServe (extra `serve`).

A request goes through `request` (bytes of the body -> parts by modality), `decoding` (parts -> a raw sample, within
`limits`), `models` (raw sample -> prediction) and `answers` (prediction -> JSON). `service` runs these steps in LitServe's
processes, `schema` describes them as OpenAPI, and `main` is the command line.
"""

from perceiver.serving.limits import Limits, RefusedError

__all__ = ["Limits", "RefusedError"]
