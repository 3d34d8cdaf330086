"""Cross-validation: its run directory, its folds as jobs of their own, and the average of their models."""
