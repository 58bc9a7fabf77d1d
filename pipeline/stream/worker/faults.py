"""Who hears of an exception that ends the process. Knows no Faust: each role sets it up, also those that have no worker."""

from collections.abc import Callable

_reporters: list[Callable[[BaseException], None]] = []


def report_with(reporter: Callable[[BaseException], None]) -> None:
    """Who is told of an exception before the process ends; it must not print the exception's text."""
    _reporters[:] = [reporter]


def report(error: BaseException) -> None:
    """Tell of an exception that is about to end the process."""
    for reporter in _reporters:
        reporter(error)
