"""Attention: from queries to tokens, among latents, and the feed-forward layer after each."""

from perceiver.attention.cross import CrossAttention, Form
from perceiver.attention.feed_forward import FeedForward
from perceiver.attention.layers import CrossAttend, SelfAttend
from perceiver.attention.self_attention import SelfAttention

__all__ = ["CrossAttend", "CrossAttention", "FeedForward", "Form", "SelfAttend", "SelfAttention"]
