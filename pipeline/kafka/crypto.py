"""Encryption of original bytes: AES-256-GCM under a key from a file, bound to the message that they belong to."""

import os
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
"""Random per message (NIST SP 800-38D, 8.2.2): a key is good for 2**32 messages, then it must be replaced."""
TAG_BYTES: Final = 16
OVERHEAD_BYTES: Final = NONCE_BYTES + TAG_BYTES


class Undecryptable(ValueError):
    """The bytes were not encrypted under a known key for this identity, or were changed since."""


class RawCipher:
    """Encrypts with one key and decrypts with every key that is still known. The representation shows no key."""

    def __init__(self, keys: Mapping[str, bytes], key_id: str) -> None:
        """`keys` by id, 32 bytes each; `key_id` encrypts. ValueError where a key has another length or `key_id` is unknown."""
        if key_id not in keys:
            raise ValueError(f"no key {key_id!r}")
        if any(len(key) != KEY_BYTES for key in keys.values()):
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        self.key_id: Final = key_id
        self._keys: Final = {name: AESGCM(key) for name, key in keys.items()}

    def seal(self, identity: str, plain: bytes) -> bytes:
        """Nonce, ciphertext and tag. `identity` is authenticated with it: the bytes can't be passed off as another message's."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._keys[self.key_id].encrypt(nonce, plain, identity.encode())

    def seal_named(self, context: str, plain: bytes) -> bytes:
        """`seal` for where no other field names the key: the length of the key's id in a byte, the id, then what `seal` gives."""
        key_id = self.key_id.encode()
        return bytes([len(key_id)]) + key_id + self.seal(context, plain)

    def open(self, key_id: str, identity: str, sealed: bytes) -> bytes:
        """The bytes that `seal` was given; `Undecryptable` otherwise."""
        cipher = self._keys.get(key_id)
        if cipher is None or len(sealed) < OVERHEAD_BYTES:
            raise Undecryptable("unknown key, or too short")
        try:
            return cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], identity.encode())
        except InvalidTag:
            raise Undecryptable("not encrypted under this key for this identity, or changed since") from None

    def open_named(self, context: str, sealed: bytes) -> bytes:
        """The bytes that `seal_named` was given; `Undecryptable` otherwise."""
        length = sealed[0] if sealed else 0
        key_id, rest = sealed[1 : 1 + length], sealed[1 + length :]
        return self.open(key_id.decode("utf-8", "replace"), context, rest)

    def __repr__(self) -> str:
        return f"RawCipher({self.key_id!r})"
