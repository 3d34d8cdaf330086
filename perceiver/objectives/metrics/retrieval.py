"""Quality of retrieval across modalities: ranks of partners, and classes of nearest neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations

import torch
from torch import Tensor
from torchmetrics import Metric

AT = (1, 5, 10)
"""Numbers of results among which a partner counts as found."""

CHUNK = 1024
"""Queries at a time; all similarities of 10,000 samples would take 400 MB."""


class Retrieval(Metric):
    """How well embeddings of one modality find those of another, for every ordered pair of modalities.

    Queries are the samples that have both modalities, candidates all samples of the split that have the second. A partner's
    rank is 1 plus the number of more similar candidates, plus half of those that are equally similar: embeddings that
    are all alike find nothing. All embeddings are kept until `reset`.

    Args:
        modalities: names of the modalities.
        channels: width of the embeddings.
    """

    full_state_update = False

    def __init__(self, *, modalities: Sequence[str], channels: int) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.channels = channels
        for place in range(len(self.modalities)):
            self.add_state(f"embeddings_{place}", default=[], dist_reduce_fx="cat")
            self.add_state(f"present_{place}", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor], targets: Tensor | None) -> None:
        """Add B samples.

        Args:
            embeddings: `(B, E)` by modality; modalities that no sample has are left out.
            present: `(B,)` by modality, True where a sample has it.
            targets: class numbers `(B,)`, or None.
        """
        like = next(iter(embeddings.values()))
        size = like.shape[0]
        for place, name in enumerate(self.modalities):
            found = embeddings.get(name, like.new_zeros(size, self.channels))
            getattr(self, f"embeddings_{place}").append(found.detach().float())
            absent = torch.zeros(size, dtype=torch.bool, device=like.device)
            getattr(self, f"present_{place}").append(present.get(name, absent))
        classes = targets is not None and targets.ndim == 1 and not targets.is_floating_point()
        known = targets if classes and targets is not None else torch.full((size,), -1, device=like.device)
        self.targets.append(known)  # type: ignore[operator, union-attr]

    def names(self) -> list[str]:
        """Return the names of the results."""
        kinds = (*(f"recall_at_{k}" for k in AT), "median_rank", "class_at_1")
        return [f"{kind}/{one}_to_{other}" for one, other in permutations(self.modalities, 2) for kind in kinds]

    def compute(self) -> dict[str, Tensor]:
        """Return `recall_at_K/A_to_B`, `median_rank/A_to_B` and, for samples with classes, `class_at_1/A_to_B`."""
        embeddings = [_joined(getattr(self, f"embeddings_{place}")) for place in range(len(self.modalities))]
        present = [_joined(getattr(self, f"present_{place}")) for place in range(len(self.modalities))]
        targets = _joined(self.targets)
        results: dict[str, Tensor] = {}
        for one, other in permutations(range(len(self.modalities)), 2):
            pair = f"{self.modalities[one]}_to_{self.modalities[other]}"
            ranks, nearest = _search(embeddings[one], embeddings[other], present[one] & present[other], present[other])
            if len(ranks) == 0:
                continue
            results |= {f"recall_at_{k}/{pair}": (ranks <= k).float().mean() for k in AT}
            results[f"median_rank/{pair}"] = ranks.median()
            own = targets[present[one] & present[other]]
            if bool((targets >= 0).all()):
                results[f"class_at_1/{pair}"] = (targets[nearest] == own).float().mean()
        return results


def _joined(state: object) -> Tensor:
    """Return a list state as one tensor; in several processes it is one already."""
    return torch.cat(state) if isinstance(state, list) else state  # type: ignore[return-value]


def _search(queries: Tensor, candidates: Tensor, asked: Tensor, offered: Tensor) -> tuple[Tensor, Tensor]:
    """Return the partner's rank and the nearest candidate's number, for each asked sample; `(Q,)` float and int."""
    numbers = asked.nonzero()[:, 0]
    ranks, nearest = [queries.new_empty(0)], [numbers.new_empty(0)]
    for part in numbers.split(CHUNK):
        # An embedding that is not a number is similar to nothing.
        cosines = (queries[part] @ candidates.t()).nan_to_num(nan=-torch.inf).masked_fill(~offered, -torch.inf)
        own = cosines.gather(1, part[:, None])
        alike = (cosines == own).sum(dim=1) - 1
        ranks.append(1 + (cosines > own).sum(dim=1) + alike / 2)
        nearest.append(cosines.argmax(dim=1))
    return torch.cat(ranks), torch.cat(nearest)
