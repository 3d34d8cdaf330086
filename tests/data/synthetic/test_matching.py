"""Matching: partners of the same class, other instances, uniform and repeatable; which modalities samples have."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from perceiver.data.synthetic.matching import (
    MatchedSamples,
    Matching,
    ModalitySource,
    drawn_matches,
    evaluation_matches,
)

LETTERS = torch.tensor([0, 0, 0, 1, 1, 1])
TONES = torch.tensor([1, 0, 0, 1, 0, 1, 0])


def source(labels: Tensor, origin: str, prefix: str) -> ModalitySource:
    return ModalitySource(
        labels=labels,
        read=lambda number: torch.full((1, 2), float(number)),
        name=lambda number: f"{prefix}{number}",
        origin=origin,
    )


@pytest.fixture
def matching() -> Matching:
    return Matching(
        {
            "seen": source(LETTERS, "letters", "s"),
            "heard": source(TONES, "tones", "h"),
            "felt": source(LETTERS, "letters", "f"),
        }
    )


def test_partners_are_of_the_same_class_and_never_the_same_instance(matching: Matching) -> None:
    drawn = [matching.draw(number) for number in range(6) for _ in range(200)]
    assert all(LETTERS[seen] == TONES[heard] == LETTERS[felt] for seen, heard, felt in drawn)
    assert all(seen != felt for seen, _, felt in drawn)


def test_partners_are_uniform(matching: Matching) -> None:
    heard = Counter(matching.draw(1)[1] for _ in range(4000))
    assert set(heard) == {1, 2, 4, 6}
    assert all(count == pytest.approx(1000, abs=120) for count in heard.values())
    felt = Counter(matching.draw(1)[2] for _ in range(2000))
    assert set(felt) == {0, 2}
    assert felt[0] == pytest.approx(1000, abs=120)


def test_a_class_without_partner() -> None:
    with pytest.raises(ValueError, match=r"class 1: expected at least 1 sample\(s\) of heard to match with seen, got 0"):
        Matching({"seen": source(LETTERS, "letters", "s"), "heard": source(torch.tensor([0, 0]), "tones", "h")})
    with pytest.raises(ValueError, match=r"class 1: expected at least 2 sample\(s\) of felt .*, got 1"):
        Matching({name: source(torch.tensor([0, 0, 1]), "letters", name) for name in ("seen", "felt")})


def test_evaluation_matches_use_every_sample_equally_often_and_are_repeatable(matching: Matching) -> None:
    matches = evaluation_matches(matching, size=15, seed=3)
    assert matches.shape == (15, 3)
    assert set(matches[:, 0].bincount(minlength=6).tolist()) == {2, 3}
    assert torch.equal(matches, evaluation_matches(matching, size=15, seed=3))
    assert not torch.equal(matches, evaluation_matches(matching, size=15, seed=4))
    assert sorted(evaluation_matches(matching, size=6, seed=0)[:, 0].tolist()) == list(range(6))


def test_drawn_matches_do_not_touch_the_global_generator(matching: Matching) -> None:
    before = torch.get_rng_state()
    drawn_matches(matching, torch.arange(6), generator=torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


def test_samples_have_the_modalities_asked_for_and_name_all_sources(matching: Matching) -> None:
    numbers = torch.tensor([[0, 2, 1], [4, 5, 3]])
    samples = MatchedSamples(matching=matching, modalities=("felt", "heard"), numbers=numbers)
    assert len(samples) == 2
    assert samples.labels.tolist() == [0, 1]
    sample = samples[1]
    assert {name: x.tolist() for name, x in sample.inputs.items()} == {"felt": [[3, 3]], "heard": [[5, 5]]}  # type: ignore[union-attr]
    assert (sample.id, sample.target) == ("s4+h5+f3", 1)


def test_missing_modalities_are_not_among_the_inputs(matching: Matching) -> None:
    present = torch.tensor([[True, False], [True, True]])
    samples = MatchedSamples(matching=matching, modalities=("seen", "heard"), numbers=torch.tensor([2, 3]), present=present)
    assert [sorted(samples[index].inputs) for index in range(2)] == [["seen"], ["heard", "seen"]]
    assert samples[0].id.startswith("s2+h")


def test_numbers_alone_have_their_partners_drawn_anew(matching: Matching) -> None:
    samples = MatchedSamples(matching=matching, modalities=("seen", "heard"), numbers=torch.tensor([2, 3]))
    assert {samples[1].id.split("+")[0] for _ in range(50)} == {"s3"}
    assert {samples[1].id.split("+")[1] for _ in range(50)} == {"h0", "h3", "h5"}
