"""Console output, metrics and figures of a run."""
