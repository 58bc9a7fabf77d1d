"""Content for the files that settings name as secrets, made up or made on the spot, by the name that the file has."""

import hashlib

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519


def secret_content(name: str) -> str:
    """A signing key for `smart.key`, a pair for the audit, its private half for boards too.

    For any other name 64 hexadecimal digits, which serve as key, token and password.
    """
    if name in ("audit-1.key", "audit-1.pub", "boards.key"):
        signing = ed25519.Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"audit").digest())
        public = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        made = signing.private_bytes(*private) if name.endswith(".key") else signing.public_key().public_bytes(*public)
        return made.decode()
    if name == "smart.key":
        key = ec.generate_private_key(ec.SECP384R1())
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return key.private_bytes(*form).decode()
    return hashlib.sha256(name.encode()).hexdigest()
