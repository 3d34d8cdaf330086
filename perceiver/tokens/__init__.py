"""Tokens, the only type between adapters and encoder; masks and positions, of which tokens are made."""

from perceiver.tokens.tokens import Tokens

__all__ = ["Tokens"]
