"""Exceptions that decide how a command ends."""


class PeerFailure(OSError):
    """A collective failed, most likely because another process of the run did."""
