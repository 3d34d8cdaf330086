"""Plumbing below the model: files written atomically, random streams, the rank of this process."""
