"""Objectives without labels: reconstruct what is masked, predict what follows, or align the modalities of a sample."""
