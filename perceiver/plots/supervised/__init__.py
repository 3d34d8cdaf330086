"""Figures of predictions beside their targets, of mistakes and of calibration."""
