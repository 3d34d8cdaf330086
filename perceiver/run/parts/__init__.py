"""Tables of millions of rows in parts, which several processes compute and a later run completes."""
