"""Infrastructure without dependencies on the model: atomic writes, random streams, the rank of this process."""
