"""Figures of metrics over epochs, over learning rates and of several runs."""
