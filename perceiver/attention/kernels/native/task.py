"""Arguments of native code in C layout: keep in sync with `part` and `task` in kernel.c, and with moments.c."""

from __future__ import annotations

import ctypes
from enum import IntEnum

MOST_CONTENT = 8
"""Most channels of full-size parts that the kernel's loops over tokens handle; wider parts use matrix products."""


class Kind(IntEnum):
    """The grid axes along which a part varies."""

    CONSTANT = 0
    OUTER = 1
    INNER = 2
    FULL = 3


class Part(ctypes.Structure):
    """A part of the tokens."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("data", "grad")),
        *((name, ctypes.c_int64) for name in ("kind", "channels", "column", "stride", "grad_stride")),
    )


class Task(ctypes.Structure):
    """Arguments of a forward or backward call. Fields that are not set are zero."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in (
                *("batch", "rows", "outer", "inner", "channels", "num_parts", "num_content", "level", "threads"),
                *("queries_stride", "rstd_stride", "content_stride", "mask_stride"),
                *("rstd_grad_stride", "content_grad_stride"),
            )
        ),
        ("content_column", ctypes.c_int64 * MOST_CONTENT),
        *((name, ctypes.c_void_p) for name in ("queries", "rstd", "content", "mask")),
        ("parts", ctypes.POINTER(Part)),
        *((name, ctypes.c_void_p) for name in ("sums", "lse", "grad_sums", "grad_lse")),
        *((name, ctypes.c_void_p) for name in ("queries_grad", "rstd_grad", "content_grad")),
        *((name, ctypes.c_void_p) for name in ("shared", "partial", "bounds", "seen")),
        *((name, ctypes.c_int64) for name in ("blocks", "groups", "grads", "wave", "first", "team")),
        ("has_inner", ctypes.c_int),
        ("has_full", ctypes.c_int),
    )


class Source(ctypes.Structure):
    """A part of the tokens whose moments are wanted."""

    _fields_ = (("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("kind", "channels", "stride")))


class MomentsTask(ctypes.Structure):
    """Arguments of a call for moments. Fields that are not set are zero."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "outer", "inner", "num_parts", "threads")),
        *((name, ctypes.c_int64) for name in ("steady", "offsets", "masks")),
        ("parts", ctypes.POINTER(Source)),
        *((name, ctypes.c_void_p) for name in ("mask", "offset", "mean", "rstd", "tables")),
        *((name, ctypes.c_int64) for name in ("channels", "offset_stride")),
        ("eps", ctypes.c_float),
    )
