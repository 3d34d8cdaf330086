"""Implementations of the inner function of factored cross-attention."""
