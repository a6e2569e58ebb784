"""The two errors that end a command without a traceback."""


class StageError(Exception):
    """A failure the user can mend: its text says what was received, what was expected and how to mend it."""


class ExternalServiceError(StageError):
    """A server or a remote outside this machine failed; the same call may work when it is repeated."""
