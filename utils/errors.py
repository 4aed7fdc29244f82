"""Exceptions that determine a command's exit."""


class PeerFailure(OSError):
    """A collective failed, most likely because another process of the run failed."""
