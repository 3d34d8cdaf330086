"""Samples and batches: dicts of modalities, their collation, and the places of phrases in them."""
