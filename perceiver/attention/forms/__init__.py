"""Forms of cross-attention: the same function at different cost."""
