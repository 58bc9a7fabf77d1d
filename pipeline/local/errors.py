"""The one error of this room."""


class LocalPlatformError(Exception):
    """A part of the local platform did not start or stop; the text says which, and where its log is."""
