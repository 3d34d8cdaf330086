"""Objectives with a target per sample (`Supervised`) or position (`Dense`), with a `Criterion` for each kind of target."""
