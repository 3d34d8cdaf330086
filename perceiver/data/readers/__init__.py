"""Readers of files: images, sound, texts, meshes and points."""
