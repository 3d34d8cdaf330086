"""The feature cache: the same digits, nothing stale, safe for several processes and after a crash."""

import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from perceiver import Fourier
from perceiver.adapters import Backbone
from perceiver.adapters.backbones.axes import RowsAndColumns
from perceiver.adapters.backbones.feature_cache import FeatureCache, content_key
from perceiver.adapters.backbones.network import DescribedNetwork


def backbone(folder: Path, *, seed: int = 0, stride: int = 4, most_bytes: int | None = None) -> Backbone:
    torch.manual_seed(seed)
    conv = nn.Conv2d(3, 8, kernel_size=4, stride=stride)
    network = DescribedNetwork(module=conv, channels=8, strides=(stride, stride))
    adapter = Backbone(network=network, axes=RowsAndColumns(), position=Fourier(num_bands=1, resolution=(8, 8)))
    adapter.use_cache(FeatureCache(folder, most_bytes=most_bytes))
    return adapter


def features(adapter: Backbone, images: Tensor, mask: Tensor | None = None) -> Tensor:
    return adapter(images, mask).parts[0]


def counts(adapter: Backbone) -> tuple[int, int]:
    assert adapter.cache is not None
    return adapter.cache.computed, adapter.cache.read


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(7))


def test_each_sample_is_computed_once_and_bit_equal(tmp_path: Path, images: Tensor) -> None:
    adapter = backbone(tmp_path)
    first = features(adapter, images)
    assert counts(adapter) == (4, 0)
    assert torch.equal(features(adapter, images.flip(0)), first.flip(0)), "in another order"
    assert counts(adapter) == (4, 4)
    later = backbone(tmp_path)
    assert torch.equal(features(later, images), first)
    assert counts(later) == (0, 4)
    later.use_cache(None)
    assert torch.equal(features(later, images), first), "without a cache"


def test_ragged_and_absent_samples(tmp_path: Path, images: Tensor) -> None:
    mask = torch.ones(4, 16, 16, dtype=torch.bool)
    mask[1, :, 8:] = mask[2] = False
    mask[3, 0, 0] = False
    adapter, plain = backbone(tmp_path), backbone(tmp_path)
    plain.use_cache(None)
    for _ in range(2):
        cached, computed = adapter(images, mask), plain(images, mask)
        assert torch.equal(cached.dense(), computed.dense())
        assert torch.equal(cached.mask, computed.mask)
    assert counts(adapter) == (3, 3), "an absent sample has no features"
    filled = torch.where(mask[:, None], images, 0.0)
    features(adapter, filled[3:])
    assert counts(adapter)[0] == 4, "a hole is not the same as zeros"


def test_nothing_stale_is_read(tmp_path: Path, images: Tensor) -> None:
    adapter = backbone(tmp_path)
    before = features(adapter, images)
    for other in (backbone(tmp_path, seed=1), backbone(tmp_path, stride=2)):
        plain = backbone(tmp_path, seed=1)
        features(other, images)
        assert counts(other) == (4, 0), "other weights, another architecture"
    with torch.no_grad():
        adapter.network.module.weight.add_(1)
    assert not torch.equal(features(adapter, images), before), "weights changed in place"
    assert counts(adapter) == (8, 0)
    features(adapter, images * 2)
    assert counts(adapter) == (12, 0), "other normalisation"
    adapter.double()
    assert features(adapter, images).dtype == torch.float64
    assert counts(adapter)[0] == 16
    plain.use_cache(None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        other = backbone(tmp_path, seed=1)
        assert torch.equal(features(other, images), features(plain, images))
        assert counts(other) == (4, 0), "another precision"
        assert features(other, images).dtype == torch.bfloat16


def test_damaged_and_incomplete_records_are_not_read(tmp_path: Path, images: Tensor) -> None:
    right = features(backbone(tmp_path), images)
    [data], [index] = tmp_path.glob("*.features"), tmp_path.glob("*.index")
    content = bytearray(data.read_bytes())
    content[5] ^= 1  # the first sample's
    data.write_bytes(content)
    later = backbone(tmp_path)
    assert torch.equal(features(later, images), right)
    assert counts(later) == (1, 3)
    index.write_bytes(index.read_bytes()[: 4 * len(index.read_bytes()) // 5 - 7])  # as after a killed process
    later = backbone(tmp_path)
    for _ in range(2):
        assert torch.equal(features(later, images), right)
    assert torch.equal(features(backbone(tmp_path), images), right)
    data.write_bytes(b"")
    later = backbone(tmp_path)
    assert torch.equal(features(later, images), right), "the features are gone"


def _fill(folder: Path, numbers: list[int], queue: Any) -> None:
    adapter = backbone(folder)
    images = torch.rand(60, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    total = [features(adapter, images[number : number + 1]).sum().item() for number in numbers]
    queue.put((numbers, total, counts(adapter)))


def test_processes_share_a_cache(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    orders = [list(range(60)), list(range(59, -1, -1))]
    parent = backbone(tmp_path)
    features(parent, torch.rand(1, 3, 16, 16))  # its files are open when the processes are forked
    workers = [context.Process(target=_fill, args=(tmp_path, order, queue)) for order in orders]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    sums = [dict(zip(numbers, total, strict=True)) for numbers, total, _ in results]
    assert sums[0] == sums[1]
    _, again, seen = _result(tmp_path, orders[0])
    assert seen == (0, 60), "all features of both are whole"
    assert again == [sums[0][number] for number in orders[0]]


def _result(folder: Path, numbers: list[int]) -> Any:
    class Queue:
        def put(self, value: Any) -> None:
            self.value = value

    queue = Queue()
    _fill(folder, numbers, queue)
    return queue.value


def test_limits(tmp_path: Path, images: Tensor) -> None:
    adapter = backbone(tmp_path, most_bytes=1100)  # 512 bytes a sample
    right = features(adapter, images)
    assert torch.equal(features(adapter, images), right)
    assert counts(adapter) == (6, 2)
    full = backbone(tmp_path / "full")
    with mock.patch.object(os, "pwrite", side_effect=OSError(28, "No space left on device")):
        assert torch.equal(features(full, images), right), "a full disk does not stop training"
    failing = backbone(tmp_path / "failing")
    with (
        mock.patch.object(os, "pwrite", side_effect=OSError(5, "Input/output error")),
        pytest.raises(OSError, match="output"),
    ):
        features(failing, images)


def test_only_evaluation_is_kept_of_augmented_samples(tmp_path: Path, images: Tensor) -> None:
    adapter = backbone(tmp_path)
    adapter.use_cache(FeatureCache(tmp_path), in_training=False)
    features(adapter.train(), images)
    assert counts(adapter) == (0, 0)
    features(adapter.eval(), images)
    assert counts(adapter) == (4, 0)


def test_copies_open_their_own_files(tmp_path: Path, images: Tensor) -> None:
    adapter = backbone(tmp_path)
    right = features(adapter, images)
    copied = pickle.loads(pickle.dumps(adapter))
    assert torch.equal(features(copied, images), right)
    assert copied.cache.read == 4


def test_keys_tell_shapes_types_and_masks_apart() -> None:
    x = torch.zeros(1, 2, 6)
    mask = torch.ones(1, 6, dtype=torch.bool)
    keys = [content_key(x, None), content_key(x.reshape(1, 3, 4), None), content_key(x.int(), None), content_key(x, mask)]
    assert len({*keys}) == 4
