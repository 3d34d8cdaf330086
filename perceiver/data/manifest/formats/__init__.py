"""File formats of manifests: delimited text, JSON and Parquet, compressed or in several parts."""
