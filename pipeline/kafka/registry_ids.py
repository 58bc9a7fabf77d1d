"""A registry's ids, kept beside a worker's table: started while the registry is away, it still reads what was written with them.

Without them it would quarantine every record that a worker wrote while the registry was there.
"""

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from pipeline.formats.avro.shipped import shipped_schemas

LOG: Final = logging.getLogger("surgeline.registry")
FILE_NAME: Final = "registry-ids.json"

Ids = Mapping[int, tuple[str, str]]
"""Schema name and version by id."""


class _Kept(msgspec.Struct, frozen=True):
    """`registry` is a digest of its address: another registry counts otherwise."""

    registry: str
    ids: dict[int, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class KeptIds:
    """The ids of the registry at `url`, in a file of `folder`."""

    folder: Path
    url: str = field(repr=False)  # may hold a password

    @property
    def _file(self) -> Path:
        return self.folder / FILE_NAME

    @property
    def _registry(self) -> str:
        return hashlib.sha256(self.url.encode()).hexdigest()[:16]

    def read(self) -> Ids:
        """Those that were kept, of versions that this build has; none where there is no such file, or of another registry."""
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            LOG.warning("the kept ids of the schema registry can not be read")
            return {}
        shipped = {(schema.name, schema.version) for schema in shipped_schemas()}
        return {number: schema for number, schema in kept.ids.items() if schema in shipped} if self._is_of(kept) else {}

    def keep(self, ids: Ids) -> None:
        """In the place of those before, whole or not at all. A disk that takes nothing is no reason not to start."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            draft = self._file.with_suffix(".draft")
            draft.write_bytes(msgspec.json.encode(_Kept(self._registry, dict(ids))))
            os.replace(draft, self._file)
        except OSError:
            LOG.warning("the ids of the schema registry can not be kept")

    def _is_of(self, kept: _Kept) -> bool:
        return kept.registry == self._registry
