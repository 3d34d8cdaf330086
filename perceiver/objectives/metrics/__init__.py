"""Metrics over a split, across processes: means, ranking, texts, attention to places, retrieval."""
