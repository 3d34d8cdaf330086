"""Data sets whose target is a text, with the place of each of its words: drawn scenes and spoken sequences."""
