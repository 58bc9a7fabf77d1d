"""Content for the files that settings name as secrets, made up or made on the spot, by the name that the file has."""

import hashlib

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


def secret_content(name: str) -> str:
    """A signing key for `smart.key`; for any other name 64 hexadecimal digits, which serve as key, token and password."""
    if name == "smart.key":
        key = ec.generate_private_key(ec.SECP384R1())
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return key.private_bytes(*form).decode()
    return hashlib.sha256(name.encode()).hexdigest()
