"""Which carrier serves a place: told by how its address begins. A new one is one new file here, and its line below."""

import os
import secrets
from importlib import import_module
from typing import Final, cast

from pipeline.carriers.folder import FolderCarrier
from pipeline.carriers.protocol import BadPlace, Carrier
from pipeline.settings.sections.files import FilePlace

MODULES: Final[dict[str, tuple[str, str]]] = {
    "sftp": ("pipeline.carriers.sftp", "SftpCarrier"),
    "s3": ("pipeline.carriers.objects", "ObjectCarrier"),
}
"""Scheme of an address: module and class. Loaded where they are used: a process without them starts without their libraries."""


def carrier_of(place: FilePlace, instance: str) -> Carrier:
    """The carrier of a place; `BadPlace`. `instance` names who holds it, for operators; each call is a holder of its own."""
    if place.path is not None:
        return FolderCarrier(place.path)
    assert place.address is not None
    try:
        module, name = MODULES[place.address.scheme]
    except KeyError:
        raise BadPlace(f"folder: no carrier for this kind of address; known: a path, {', '.join(sorted(MODULES))}") from None
    owner = f"{instance}/{os.getpid()}/{secrets.token_hex(8)}"
    return cast("Carrier", getattr(import_module(module), name).of(place, owner))
