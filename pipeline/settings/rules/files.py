"""What the settings of partners that send files may not say together."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult

from pipeline.settings.sections.files import FilePlace, FilesSettings

_HOST_KEY: Final = re.compile(r"(ssh-ed25519|ecdsa-sha2-nistp(256|384|521)|ssh-rsa) [A-Za-z0-9+/]+={0,2}( [^\n]*)?")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_LOOPBACK: Final = re.compile(r"http://(localhost|127\.[0-9.]+|\[::1\])(:[0-9]+)?/?")

Whereabouts = tuple[str, Path]
"""What tells one place from another: a machine or bucket, and a path there. Users of one machine are not told apart."""


def problems_of_partners(section: FilesSettings) -> Iterator[tuple[str, str, str]]:
    """Each problem: the setting, what is wrong, what to write in its place."""
    places: dict[Whereabouts, str] = {whereabouts_of(section.data_dir): "files.data_dir"}
    for name, partner in section.partners.items():
        where = f"files.partners.{name}"
        yield from problems_of_place(where, partner)
        yield from apart(places, whereabouts_of(partner), f"{where}.folder")
        if partner.must_encrypt and not partner.decrypt_keys:
            yield f"{where}.decrypt_keys", "missing, though must_encrypt is set", "Write: age-keygen -o files.key"
        if len({signer.key_id for signer in partner.signers}) < len(partner.signers):
            yield f"{where}.signers", "two keys have one id", "Give each key its own id"
        if partner.give_up_s < partner.patience_s:
            yield f"{where}.give_up_s", "less than patience_s", "Write at least patience_s"


def problems_of_place(where: str, place: FilePlace) -> Iterator[tuple[str, str, str]]:
    """What is wrong with where a place is, and with how it is entered; for every setting that names one."""
    address = place.address
    scheme = address.scheme if address is not None else ""
    for section, of in (("sftp", "sftp"), ("objects", "s3")):
        if scheme == of and getattr(place, section) is None:
            yield f"{where}.{section}", f"missing, though folder begins with {of}://", "Say how it is entered"
        if scheme != of and getattr(place, section) is not None:
            yield f"{where}.{section}", f"there, though folder does not begin with {of}://", "Leave it out"
    if address is None:
        return
    if scheme == "sftp":
        yield from _sftp(where, place, address)
    elif scheme == "s3":
        yield from _objects(where, place, address)
    else:
        yield f"{where}.folder", "an address of no known kind", "Write a path, sftp://USER@HOST:PORT/PATH or s3://BUCKET/PREFIX"


def _sftp(where: str, place: FilePlace, address: SplitResult) -> Iterator[tuple[str, str, str]]:
    if address.password is not None:
        yield f"{where}.folder", "it holds a password; only keys are used", "Write sftp://USER@HOST:PORT/PATH"
    elif not (address.hostname and address.username and len(address.path) > 1) or _more(address) or not _port_is_right(address):
        yield f"{where}.folder", "not the address of a user's folder", "Write sftp://USER@HOST:PORT/PATH"
    for number, key in enumerate(place.sftp.host_keys if place.sftp is not None else ()):
        if _HOST_KEY.fullmatch(key.strip()) is None:
            yield (
                f"{where}.sftp.host_keys.{number}",
                "not a public key of a server",
                "Compare what `ssh-keyscan HOST` prints with what the server's operator says, and write it without the host",
            )


def _objects(where: str, place: FilePlace, address: SplitResult) -> Iterator[tuple[str, str, str]]:
    if _BUCKET.fullmatch(address.netloc) is None or _more(address):
        yield f"{where}.folder", "not a bucket with a prefix", "Write s3://BUCKET/PREFIX"
    elif not address.path.strip("/"):
        yield f"{where}.folder", "a whole bucket", "Write s3://BUCKET/PREFIX, with a prefix of this partner's own"
    endpoint = place.objects.endpoint if place.objects is not None else None
    if endpoint is not None and not endpoint.startswith("https://") and _LOOPBACK.fullmatch(endpoint) is None:
        yield f"{where}.objects.endpoint", "not encrypted", "Write https://HOST:PORT"


def whereabouts_of(place: FilePlace | Path) -> Whereabouts:
    """Where a place is, whatever way leads there."""
    address = place.address if isinstance(place, FilePlace) else None
    if address is None:
        return "", Path(os.path.realpath(place.folder if isinstance(place, FilePlace) else place))
    host = address.netloc.rpartition("@")[2].lower()
    if address.scheme == "sftp":
        host = host.removesuffix(":22")
    return f"{address.scheme}://{host}", Path("/") / address.path.strip("/")


def apart(places: dict[Whereabouts, str], found: Whereabouts, setting: str) -> Iterator[tuple[str, str, str]]:
    """A place that is one of `places`, or in one, or around one; by then it is one of them, by the name of its setting."""
    host, path = found
    for (other_host, other), theirs in places.items():
        if host == other_host and (path == other or path in other.parents or other in path.parents):
            yield setting, f"it and {theirs} lie within each other", "Give each a folder of its own"
    places.setdefault(found, setting)


def _more(address: SplitResult) -> bool:
    return bool(address.query or address.fragment) or "/../" in f"{address.path}/" or "//" in address.path


def _port_is_right(address: SplitResult) -> bool:
    try:
        return address.port is None or address.port > 0
    except ValueError:
        return False
