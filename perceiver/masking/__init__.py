"""Masking of tokens and modalities during training."""
