"""What is wrong with shards."""


class ShardError(ValueError):
    """Shards cannot be written or read; the message names folder or file, what was expected, and what to do.

    A DataLoader reports its workers' errors with their tracebacks in the message; here the message stays what it was.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())
