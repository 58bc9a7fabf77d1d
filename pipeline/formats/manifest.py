"""The manifest of a managed file: what its sender says of it, and the signature that proves who said so. Pure.

Beside `NAME` stand `NAME.manifest`, a JSON object (RFC 8259), and `NAME.manifest.jws`, a detached JWS in compact form
(RFC 7515, appendix F) over the manifest's exact bytes, signed by Ed25519 (RFC 8037; `alg` Ed25519 or, before RFC 9864,
EdDSA). The header's `kid` is the manifest's `key_id`.
"""

import re
import warnings
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from joserfc.util import to_bytes
from msgspec import Meta

from pipeline.domain.files.life import FileReason, Flaw, Manifest
from pipeline.domain.identifiers import Millis
from pipeline.formats.rfc3339 import millis_of, rfc3339_of

MANIFEST_SUFFIX: Final = ".manifest"
SIGNATURE_SUFFIX: Final = ".manifest.jws"
MAX_MANIFEST_BYTES: Final = 16 * 1024
MAX_SIGNATURE_BYTES: Final = 4 * 1024
SIGNING: Final = "Ed25519"
ALGORITHMS: Final = (SIGNING, "EdDSA")
"""The only algorithms that are taken; EdDSA is the name from before RFC 9864."""
_CURVE: Final = "Ed25519"

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_KEY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When the file is expected to arrive."""

    not_before: Annotated[str, Meta(description="RFC 3339 with an offset")]
    not_after: Annotated[str, Meta(description="RFC 3339 with an offset")]


class ManifestFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A manifest as it is written. Every member is required; one that is not named here is refused."""

    manifest_version: Annotated[int, Meta(description="1", ge=1, le=1)]
    file: Annotated[str, Meta(description="name of the file beside it", min_length=1, max_length=200)]
    bytes: Annotated[int, Meta(description="length of the content; of an encrypted file, before it was encrypted", ge=0)]
    records: Annotated[int, Meta(description="records; of a CSV file without its header and blank lines", ge=0)]
    sha256: Annotated[str, Meta(description="SHA-256 of the content, before it was encrypted; 64 lower-case hex digits")]
    created_at: Annotated[str, Meta(description="when the content was true; RFC 3339 with an offset")]
    expected: Annotated[Expected, Meta(description="when it is expected to arrive")]
    source_system: Annotated[str, Meta(description="system that says what the file says", min_length=1, max_length=64)]
    schema: Annotated[str, Meta(description="what a row means: a profile and its version, e.g. census-snapshot/1")]
    key_id: Annotated[str, Meta(description="key that the manifest is signed with")]

    def __repr__(self) -> str:
        return "ManifestFile(<redacted>)"


def read_manifest(data: bytes) -> Manifest | Flaw:
    """What a manifest says, or the first rule that it breaks; no value of it is repeated."""
    if len(data) > MAX_MANIFEST_BYTES:
        return Flaw(FileReason.BAD_MANIFEST, "", f"a manifest has at most {MAX_MANIFEST_BYTES} bytes", "write a shorter one")
    try:
        said = msgspec.json.decode(data, type=ManifestFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _bad(*_place_of(error))
    if _SHA256.fullmatch(said.sha256) is None:
        return _bad("sha256", "64 lower-case hexadecimal digits")
    if _KEY_ID.fullmatch(said.key_id) is None:
        return _bad("key_id", "1 to 64 letters, digits, dots, lines and underlines")
    created, first, last = (millis_of(each) for each in (said.created_at, said.expected.not_before, said.expected.not_after))
    if created is None:
        return _bad("created_at", "RFC 3339 with an offset")
    if first is None or last is None or first > last:
        return _bad("expected", "two times by RFC 3339 with an offset, the first not after the second")
    return Manifest(
        file=said.file,
        size=said.bytes,
        records=said.records,
        sha256=said.sha256,
        created_at=created,
        not_before=first,
        not_after=last,
        source_system=said.source_system,
        schema=said.schema,
        key_id=said.key_id,
    )


def write_manifest(manifest: Manifest) -> bytes:
    """Inverse of `read_manifest`."""
    expected = Expected(rfc3339_of(manifest.not_before), rfc3339_of(manifest.not_after))
    written = ManifestFile(
        manifest_version=1,
        file=manifest.file,
        bytes=manifest.size,
        records=manifest.records,
        sha256=manifest.sha256,
        created_at=rfc3339_of(Millis(manifest.created_at)),
        expected=expected,
        source_system=manifest.source_system,
        schema=manifest.schema,
        key_id=manifest.key_id,
    )
    return msgspec.json.format(msgspec.json.encode(written), indent=2) + b"\n"


def sign(data: bytes, key: OKPKey, key_id: str) -> bytes:
    """The detached signature over a manifest's bytes."""
    whole = jws.serialize_compact({"alg": SIGNING, "kid": key_id}, data, key, algorithms=[SIGNING])
    return to_bytes(jws.detach_content(whole)) + b"\n"


def check_signature(data: bytes, signature: bytes, key_id: str, keys: Mapping[str, OKPKey]) -> Flaw | None:
    """Why a signature doesn't prove that the owner of `key_id` wrote these bytes; None where it does.

    `keys`: public keys of the sender by id. Algorithm and key are ours to choose, never the header's.
    """
    key = keys.get(key_id)
    if key is None:
        return Flaw(
            FileReason.UNKNOWN_KEY, "key_id", "a manifest is signed with a key that we were given", "sign it with a known key"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joserfc warns of the algorithm's old name, which senders may still use
            found = jws.deserialize_compact(signature.strip(), key, algorithms=list(ALGORITHMS), payload=data)
        named = found.headers().get("kid")
    except (JoseError, ValueError, TypeError, AttributeError):
        return _forged()
    return None if named == key_id else _forged()


def public_key(pem: bytes) -> OKPKey | None:
    """An Ed25519 public key from PEM; None where it is another kind of key, or a private one."""
    try:
        key = OKPKey.import_key(pem)
    except (JoseError, ValueError, TypeError, AttributeError):
        return None
    return None if key.curve_name != _CURVE or key.is_private else key


def _forged() -> Flaw:
    rule = "NAME.manifest.jws is a detached JWS over the manifest's exact bytes, by Ed25519, with kid = key_id"
    return Flaw(FileReason.BAD_SIGNATURE, "", rule, "sign the manifest after it was last changed, and send both")


def _bad(field: str, rule: str) -> Flaw:
    return Flaw(FileReason.BAD_MANIFEST, field, rule, "correct the manifest, sign it again, and send both")


_PATH: Final = re.compile(r"`\$\.?([a-z0-9_.]*)`")
_NAMED: Final = re.compile(r"required field `([a-z0-9_]{1,40})`")


def _place_of(error: Exception) -> tuple[str, str]:
    """Field and rule of a decoding error, without a word of what stood there."""
    text = str(error)
    if (named := _NAMED.search(text)) is not None:
        return named[1], "every member is required"
    path = _PATH.search(text)
    if "unknown field" in text:
        return "", "a manifest has the members that are documented, and no others"
    if isinstance(error, msgspec.ValidationError) and path is not None:
        return path[1], "the member has the type and length that are documented"
    return "", "a manifest is one JSON object in UTF-8"
