"""What `mode=` selects."""
