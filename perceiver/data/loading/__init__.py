"""From a data set to batches: the sources that are read, the one data module, order, collation, splits."""
