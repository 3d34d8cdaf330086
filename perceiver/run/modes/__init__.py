"""The modes that `mode=` selects."""
