"""Figures of reconstructions, filled-in texts and retrieval: models that learn without labels."""
