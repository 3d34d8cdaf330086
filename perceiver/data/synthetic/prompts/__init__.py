"""Prompts of drawn digits: "the digit seven", "a three left of a seven"."""
