"""Errors of shards."""


class ShardError(ValueError):
    """Shards cannot be written or read; the message names the folder or file, the expectation, and a remedy.

    A DataLoader adds tracebacks to the messages of its workers' errors; this class keeps the original message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())
