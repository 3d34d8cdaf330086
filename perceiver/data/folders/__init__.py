"""Data in folders of the user's own files."""
