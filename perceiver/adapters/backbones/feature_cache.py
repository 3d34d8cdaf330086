"""Features of frozen networks on the disk, each computed once: by any epoch, run or process that uses the same folder.

A file belongs to one network: its name is a digest of the weights, the architecture, the device, the precision and torch's
version. The key of a sample is a digest of the network's input, after all preprocessing. So nothing stale is ever found:
other weights have another file, other preprocessing or content has another key.

Two files per network: `NAME.features` holds features, one after another, `NAME.index` a record of fixed size for each. Both
only grow. A process appends under a lock: first the features, then their record, with checksums of both. Readers take no
lock; they use whole records only, and check the features at the first use, so that neither a killed process nor a power
failure can leave features that are read.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from perceiver.adapters.backbones.network import FeatureNetwork
from perceiver.runtime.files import FULL, free_bytes

_RECORD = struct.Struct("<16sQQQB7I8s8s")
"""Key, offset and size in bytes, type of numbers, number of axes, sizes, checksums of features and record."""

_MOST_AXES = 7
_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_ALIGNMENT = 64


class FeatureCache:
    """A folder of features of frozen networks.

    Args:
        folder: created when the first features are stored; several processes may share it.
        most_bytes: no more features are stored beyond this size of the folder's files of a network; None: half of the free
            disk space.

    Attributes:
        computed: number of features computed by this object.
        read: number of features read from the disk.
        seconds: time taken by computing.

    Examples:
        >>> import tempfile, torch
        >>> from perceiver import Fourier
        >>> from perceiver.adapters import Backbone
        >>> from perceiver.adapters.backbones.axes import RowsAndColumns
        >>> from perceiver.adapters.backbones.feature_cache import FeatureCache
        >>> from perceiver.adapters.backbones.network import DescribedNetwork
        >>> network = DescribedNetwork(module=torch.nn.Conv2d(3, 8, kernel_size=4, stride=4), channels=8, strides=(4, 4))
        >>> adapter = Backbone(network=network, axes=RowsAndColumns(), position=Fourier(num_bands=4, resolution=(8, 8)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = FeatureCache(folder)
        ...     adapter.use_cache(cache)
        ...     images = torch.rand(2, 3, 32, 32)
        ...     _ = adapter(images), adapter(images)
        >>> cache.computed, cache.read
        (2, 2)
    """

    def __init__(self, folder: str | os.PathLike[str], *, most_bytes: int | None = None) -> None:
        self.folder = Path(folder)
        self.most_bytes = most_bytes
        self.computed = self.read = 0
        self.seconds = 0.0
        self._stores: dict[str, _Store] = {}
        self._digests: dict[int, tuple[tuple[Any, ...], str]] = {}

    def of(self, network: FeatureNetwork, *, device: str, autocast: torch.dtype | None) -> _Store:
        """Return the features of a network with its present weights."""
        name = hashlib.blake2b(
            f"{self._digest(network)} {device} {autocast} {torch.__version__}".encode(), digest_size=16
        ).hexdigest()
        if name not in self._stores:
            self._stores[name] = _Store(self, name)
        return self._stores[name]

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Count and time the computation of features within the context."""
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start
        self.computed += 1

    def _digest(self, network: FeatureNetwork) -> str:
        tensors = [*network.parameters(), *network.buffers()]
        # Every change in place counts up a version; other tensors have other addresses.
        state = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)
        known = self._digests.get(id(network))
        if known is None or known[0] != state:
            known = self._digests[id(network)] = (state, network_digest(network))
        return known[1]

    def __getstate__(self) -> dict[str, Any]:
        # A copy opens the files itself.
        return {**self.__dict__, "_stores": {}, "_digests": {}}


def network_digest(network: FeatureNetwork) -> str:
    """Return a digest of a network's weights, buffers and architecture."""
    digest = hashlib.blake2b(network.identity().encode(), digest_size=16)
    named = [*network.named_parameters(), *network.named_buffers()]
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def content_key(x: Tensor, mask: Bool[Tensor, "1 *raw"] | None) -> bytes:
    """Return the key of one sample: a digest of the network's input `(1, …)` and of its mask."""
    digest = hashlib.blake2b(f"{tuple(x.shape)} {x.dtype}".encode(), digest_size=16)
    digest.update(_bytes(x))
    if mask is not None:
        digest.update(b"mask")
        digest.update(_bytes(mask))
    return digest.digest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().contiguous().cpu().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


class _Store:
    """The features of one network."""

    def __init__(self, cache: FeatureCache, name: str) -> None:
        self._cache = cache
        self._features = cache.folder / f"{name}.features"
        self._index = cache.folder / f"{name}.index"
        self._pid = 0
        self._open: tuple[int, int] | None = None
        self._map: mmap.mmap | None = None
        self._known: dict[bytes, tuple[int, int, torch.dtype, tuple[int, ...], bytes]] = {}
        self._checked: set[bytes] = set()
        self._position = self._end = 0
        self._most = 0

    def read(self, key: bytes) -> Tensor | None:
        """Return the features `(*grid, C)` of a sample; None if they are not stored."""
        self._begin()
        if key not in self._known:
            self._refresh()
        entry = self._known.get(key)
        if entry is None:
            return None
        offset, size, dtype, shape, checksum = entry
        if self._map is None or len(self._map) < offset + size:
            self._remap()
        if self._map is None or len(self._map) < offset + size:
            return None
        content = np.frombuffer(self._map, np.uint8, size, offset).copy()
        if key not in self._checked:
            if _checksum(content.data) != checksum:
                del self._known[key]
                return None
            self._checked.add(key)
        self._cache.read += 1
        return torch.from_numpy(content).view(dtype).reshape(shape)

    def add(self, key: bytes, features: Tensor) -> None:
        """Store the features `(*grid, C)` of a sample, unless another process has or the limit of size is reached."""
        if features.dtype not in _TYPES or features.ndim > _MOST_AXES:
            return
        self._begin()
        with self._locked() as (data, index):
            self._refresh()
            content, shape = _bytes(features), tuple(features.shape)
            offset = -(-self._end // _ALIGNMENT) * _ALIGNMENT
            if key in self._known or offset + len(content) > self._most:
                return
            fields = (key, offset, len(content), _TYPES.index(features.dtype), len(shape), *shape)
            record = _RECORD.pack(*fields, *[0] * (_MOST_AXES - len(shape)), _checksum(content), bytes(8))[:-8]
            try:
                _write(data, content, offset)
                # An incomplete record of a killed process is overwritten.
                _write(index, record + _checksum(record), self._position)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                self._most = 0  # the disk is full: training goes on without storing more
                return
            self._refresh()
            self._checked.add(key)

    @contextmanager
    def _locked(self) -> Iterator[tuple[int, int]]:
        import fcntl  # not on Windows, where the run does without a cache

        if self._open is None:
            self._cache.folder.mkdir(parents=True, exist_ok=True)
            self._open = (_opened(self._features), _opened(self._index))
            limit = self._cache.most_bytes
            self._most = os.fstat(self._open[0]).st_size + free_bytes(self._cache.folder) // 2 if limit is None else limit
        fcntl.flock(self._open[1], fcntl.LOCK_EX)
        try:
            yield self._open
        finally:
            fcntl.flock(self._open[1], fcntl.LOCK_UN)

    def _begin(self) -> None:
        """Reopen the files in a forked process, which would share its parent's locks."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._open = self._map = None

    def _refresh(self) -> None:
        """Read the records that were appended since the last call."""
        if self._open is None:
            if not self._index.is_file():
                return
            with self._locked():
                pass
        assert self._open is not None
        index = self._open[1]
        available = os.fstat(index).st_size - self._position
        content = os.pread(index, available - available % _RECORD.size, self._position) if available > 0 else b""
        for start in range(0, len(content), _RECORD.size):
            record = content[start : start + _RECORD.size]
            if _checksum(record[:-8]) != record[-8:]:
                break  # being written, or left incomplete
            key, offset, size, number, axes, *rest = _RECORD.unpack(record)
            self._known[key] = (offset, size, _TYPES[number], tuple(rest[:axes]), rest[_MOST_AXES])
            self._end = max(self._end, offset + size)
            self._position += _RECORD.size

    def _remap(self) -> None:
        assert self._open is not None
        length = os.fstat(self._open[0]).st_size
        self._map = mmap.mmap(self._open[0], length, access=mmap.ACCESS_READ) if length else None


def _opened(file: Path) -> int:
    return os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)


def _write(descriptor: int, content: bytes | memoryview, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _checksum(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=8).digest()
