"""Texts as ids: bytes, tokenizers, and texts that are too long."""
