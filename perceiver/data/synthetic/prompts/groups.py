"""Groups of prompts whose accuracy is reported apart."""

from __future__ import annotations

from perceiver.data.synthetic.captions.language import RELATIONS
from perceiver.data.synthetic.prompts.language import PAIR, PLACED, WORDINGS, parse


class DigitPromptGroups:
    """Groups of the prompts of `perceiver.data.DigitPrompts`: their wording, or their relation, or `held_out`.

    Examples:
        >>> from perceiver.data.synthetic.prompts.groups import DigitPromptGroups
        >>> groups = DigitPromptGroups()
        >>> groups("the digit seven"), groups("one more than six"), groups("a two left of a nine"), groups("a cat")
        ('digit', 'held_out', 'left_of', None)
    """

    held_out = "held_out"
    names = (held_out, *WORDINGS, PLACED, *(name.replace(" ", "_") for name in RELATIONS))

    def __call__(self, prompt: str) -> str | None:
        """Return the group of a prompt; None for a text that is no prompt."""
        asked = parse(prompt)
        if asked is None:
            return None
        if asked.held_out:
            return self.held_out
        if asked.wording == PAIR:
            assert asked.relation is not None
            return RELATIONS[asked.relation].replace(" ", "_")
        return asked.wording
