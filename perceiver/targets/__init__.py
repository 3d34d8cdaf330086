"""Kinds of target: what the outputs of a model mean, and the entry `target` of the spec."""
