"""Figures of generated images and texts, and of the words and inputs that they depend on."""
