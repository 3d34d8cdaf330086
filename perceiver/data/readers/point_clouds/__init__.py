"""Point clouds in PLY and PCD files."""
