"""Continuing a run exactly where it stopped."""
