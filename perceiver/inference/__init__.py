"""Inference with trained models beyond a single forward pass."""
