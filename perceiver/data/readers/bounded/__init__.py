"""Untrusted files read in bounded memory: JSON, gzip and NumPy arrays."""
