"""Attention layers: cross-attention from queries to tokens, self-attention among latents, and feed-forward."""

from perceiver.attention.cross import CrossAttention, Form
from perceiver.attention.feed_forward import FeedForward
from perceiver.attention.layers import CrossAttend, SelfAttend
from perceiver.attention.self_attention import SelfAttention

__all__ = ["CrossAttend", "CrossAttention", "FeedForward", "Form", "SelfAttend", "SelfAttention"]
