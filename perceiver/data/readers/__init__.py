"""File readers: images, sound, texts, meshes and points."""
