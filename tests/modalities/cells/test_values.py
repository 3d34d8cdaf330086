"""Numbers of classes and categories: those of many names are made once, not per cell."""

from collections.abc import Iterator

from perceiver.modalities.cells.values import number_of_name


class Counting(list[str]):
    """Names that count how often they are gone through."""

    passes = 0

    def __iter__(self) -> Iterator[str]:
        self.passes += 1
        return super().__iter__()


def test_names_are_numbered_once() -> None:
    names = Counting(f"name {number}" for number in range(1000))
    assert [number_of_name(f"name {number}", names) for number in (0, 999, 1000)] == [0, 999, None]
    assert names.passes == 1
    names.append("name 1000")
    assert number_of_name("name 1000", names) == 1000


def test_lists_of_equal_names_do_not_share_a_place_in_memory() -> None:
    """A list made where another one was must not get the numbers of the other."""
    for number in range(300):
        assert number_of_name(number, [str(number), "b"]) == 0
        assert number_of_name("b", ["b", str(number)]) == 0
