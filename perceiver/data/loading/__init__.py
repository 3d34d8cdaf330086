"""From a data set to batches: sources, the data module, order, collation, splits."""
