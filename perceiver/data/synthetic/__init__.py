"""Data sets composed of digits and drawn shapes, for tests and demonstrations."""
