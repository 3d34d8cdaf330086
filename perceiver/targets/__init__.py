"""Kinds of target, a file each: the interpretation of model outputs, and the entry `target` of the spec.

The spec names the kind: `spec["target"]["kind"]` is a key of `perceiver.targets.kinds.KINDS`. A kind has an object that
interprets outputs (`ClassTarget`), its predictions (`Prediction`), and a function that makes the entry for a data module
(`classes_target`).
"""
