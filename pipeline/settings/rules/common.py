"""What several rules ask of a setting."""

import ipaddress
from pathlib import Path


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address; names other than localhost are not looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def content_of(path: Path) -> bytes | None:
    """Contents without the line's end; None where it can't be read, which the check of files reports."""
    try:
        return path.read_bytes().strip()
    except OSError:
        return None
