"""From samples to batches: order, collation, splits, and the data modules' common frame."""
