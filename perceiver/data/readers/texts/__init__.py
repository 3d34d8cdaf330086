"""Texts from files: windows of long texts, and pairs of sentences."""
