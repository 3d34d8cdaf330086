"""Texts that are longer than their model's maximum."""

import logging

log = logging.getLogger(__name__)


class CutTexts:
    """Counts the texts of one modality that are cut to its `max_length`.

    Args:
        max_length: maximum number of ids of a text; None if there is no maximum.

    Examples:
        >>> texts = CutTexts(max_length=4)
        >>> for is_cut in (True, False, False):
        ...     texts.add(is_cut)
        >>> texts.cut, texts.total
        (1, 3)
    """

    def __init__(self, max_length: int | None) -> None:
        self.max_length = max_length
        self.cut = 0
        self.total = 0

    def add(self, is_cut: bool) -> None:
        """Count a text."""
        self.total += 1
        self.cut += is_cut

    def warn(self, place: str) -> None:
        """Log how many texts were cut, if any; the message begins with `place`."""
        if self.cut:
            log.warning(
                "%s: %d of %d texts have more than max_length = %d ids, and their ends are cut off. "
                "With truncate: false in the spec of the modality, such texts are errors.",
                *(place, self.cut, self.total, self.max_length),
            )


def too_long(name: str, length: str, max_length: int) -> ValueError:
    """Return the error for a text that must not be cut; `length` describes its length, such as `300 ids`."""
    return ValueError(
        f"{name}: expected a text of at most max_length = {max_length} ids, got {length}. Shorten it, or set truncate: true "
        "in the spec of the modality to cut off the ends of such texts."
    )
