"""Data sets in folders of the user's files."""
