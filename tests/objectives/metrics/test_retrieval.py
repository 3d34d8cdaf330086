"""Retrieval against definitions, a sample at a time, and against torchmetrics' recall."""

import torch
import torch.nn.functional as F
from torchmetrics.retrieval import RetrievalRecall

from perceiver.objectives.metrics import retrieval
from perceiver.objectives.metrics.retrieval import Retrieval


def filled(*, batches: int = 3) -> tuple[Retrieval, dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """A metric with 30 samples in several batches, and all that it got."""
    torch.manual_seed(0)
    shared = torch.randn(30, 4)
    embeddings = {name: F.normalize(shared + 0.7 * torch.randn(30, 4), dim=-1) for name in ("a", "b")}
    present = {"a": torch.rand(30) < 0.8, "b": torch.rand(30) < 0.8}
    targets = torch.randint(3, (30,))
    metric = Retrieval(modalities=["a", "b"], channels=4)
    for rows in torch.arange(30).chunk(batches):
        given = {name: x[rows] for name, x in embeddings.items()}, {name: x[rows] for name, x in present.items()}
        metric.update(*given, targets[rows])
    return metric, embeddings, present, targets


def test_recall_is_that_of_torchmetrics() -> None:
    metric, embeddings, present, _ = filled()
    results = metric.compute()
    offered, asked = present["b"].nonzero()[:, 0], (present["a"] & present["b"]).nonzero()[:, 0]
    cosines = embeddings["a"][asked] @ embeddings["b"][offered].t()
    partners = offered[None] == asked[:, None]
    queries = torch.arange(len(asked))[:, None].expand_as(partners)
    for k in (1, 5, 10):
        other = RetrievalRecall(top_k=k)(cosines.flatten(), partners.flatten(), indexes=queries.flatten())
        torch.testing.assert_close(results[f"recall_at_{k}/a_to_b"], other)


def test_ranks_and_classes_by_definition(monkeypatch: object) -> None:
    metric, embeddings, present, targets = filled()
    results = metric.compute()
    ranks, right = [], []
    for number in range(30):
        if not (present["b"][number] and present["a"][number]):
            continue
        similar = {j: float(embeddings["b"][number] @ embeddings["a"][j]) for j in range(30) if present["a"][j]}
        ranks.append(1 + sum(value > similar[number] for value in similar.values()))
        right.append(targets[max(similar, key=lambda j: similar[j])] == targets[number])
    assert float(results["median_rank/b_to_a"]) == float(torch.tensor(ranks, dtype=torch.float32).median())
    torch.testing.assert_close(results["class_at_1/b_to_a"], torch.stack(right).float().mean())
    assert set(results) == set(metric.names())


def test_chunks_and_batches_change_nothing() -> None:
    before = filled(batches=1)[0].compute()
    retrieval.CHUNK, whole = 7, retrieval.CHUNK
    try:
        after = filled(batches=5)[0].compute()
    finally:
        retrieval.CHUNK = whole
    assert {name: float(value) for name, value in before.items()} == {name: float(value) for name, value in after.items()}


def test_equal_embeddings_find_nothing() -> None:
    metric = Retrieval(modalities=["a", "b"], channels=2)
    same = torch.tensor([[1.0, 0.0]]).expand(20, 2)
    everywhere = torch.ones(20, dtype=torch.bool)
    metric.update({"a": same, "b": same}, {"a": everywhere, "b": everywhere}, None)
    results = metric.compute()
    assert float(results["recall_at_1/a_to_b"]) == 0.0
    assert float(results["median_rank/a_to_b"]) == 10.5
    assert "class_at_1/a_to_b" not in results


def test_pairs_that_no_sample_has_are_left_out() -> None:
    metric = Retrieval(modalities=["a", "b", "c"], channels=2)
    rows = F.normalize(torch.randn(4, 2), dim=-1)
    everywhere = torch.ones(4, dtype=torch.bool)
    metric.update({"a": rows, "b": rows}, {"a": everywhere, "b": everywhere}, None)
    assert {name.split("/")[1] for name in metric.compute()} == {"a_to_b", "b_to_a"}


def test_what_is_not_a_number_finds_nothing() -> None:
    metric = Retrieval(modalities=["a", "b"], channels=4)
    embeddings = F.normalize(torch.eye(30, 4) + 1, dim=-1)
    embeddings = {"a": torch.full((30, 4), torch.nan), "b": embeddings}
    metric.update(embeddings, {name: torch.ones(30, dtype=torch.bool) for name in "ab"}, None)
    found = metric.compute()
    assert {float(found[f"recall_at_{k}/{pair}"]) for k in (1, 5, 10) for pair in ("a_to_b", "b_to_a")} == {0.0}
