"""Figures of attention, and of what a prediction depends on."""
