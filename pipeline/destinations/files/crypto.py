"""Files that go out encrypted: age (age-encryption.org/v1), to X25519 recipients."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pyrage

_COMMENT: Final = "#"
MAX_RECIPIENTS: Final = 100

Encrypt = Callable[[bytes], bytes]
"""Encrypts content to whom it is for; `BadRecipients` where it isn't known for whom."""


class BadRecipients(Exception):
    """A recipients file can't be read, names nobody, or a line of it is none. Its text names no line's content."""


def encryptor(recipients_file: Path) -> Encrypt:
    """Encrypts to all recipients of the file, which is read each time: one can be added or taken out while we run."""

    def encrypt(content: bytes) -> bytes:
        encrypted: bytes = pyrage.encrypt(content, recipients_of(recipients_file))
        return encrypted

    return encrypt


def recipients_of(path: Path) -> list[pyrage.x25519.Recipient]:
    """The recipients of a file: one a line, as `age-keygen -y` prints them; # begins a comment. BadRecipients."""
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
        found = [pyrage.x25519.Recipient.from_str(line) for line in lines if line and not line.startswith(_COMMENT)]
    except (OSError, UnicodeDecodeError, pyrage.RecipientError):
        raise BadRecipients from None
    if not 1 <= len(found) <= MAX_RECIPIENTS:
        raise BadRecipients
    return found
