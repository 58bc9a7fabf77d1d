"""Files as a partner sends them, for tests: content, manifest, signature."""

import hashlib
from pathlib import Path
from typing import Any, Final

from joserfc.jwk import OKPKey

from pipeline.domain.files.life import Manifest
from pipeline.domain.identifiers import Millis
from pipeline.formats.manifest import sign, write_manifest

NOW: Final = Millis(1_767_600_000_000)
KEY: Final = OKPKey.generate_key("Ed25519")
PUBLIC: Final = OKPKey.import_key(KEY.as_pem(private=False))
KEY_ID: Final = "k1"
NAME: Final = "census-20260105T0600.csv"
HEADER: Final = b"Facility,Unit,Room,Bed,Occupied,Visit\r\n"


def census(rows: int, *, first: int = 1, broken: frozenset[int] = frozenset(), canary: str = "V") -> bytes:
    """A census of so many beds, those of `broken` with a code that nobody knows."""
    lines = [
        f"MAIN,ICU,{number},A,{'Q' if number in broken else 'Y'},{canary}{number}\r\n".encode()
        for number in range(first, first + rows)
    ]
    return HEADER + b"".join(lines)


def manifest_of(content: bytes, name: str = NAME, records: int | None = None, **said: Any) -> Manifest:
    """A true manifest of a CSV file, with what `said` says otherwise."""
    plain: dict[str, Any] = {
        "file": name,
        "size": len(content),
        "records": max(0, content.count(b"\n") - 1) if records is None else records,
        "sha256": hashlib.sha256(content).hexdigest(),
        "created_at": NOW,
        "not_before": NOW - 3_600_000,
        "not_after": NOW + 3_600_000,
        "source_system": "ehr-main",
        "schema": "census-snapshot/1",
        "key_id": KEY_ID,
    }
    return Manifest(**{**plain, **said})


def put(folder: Path, content: bytes, manifest: Manifest, key: OKPKey = KEY, data: bytes | None = None) -> None:
    """File, manifest and signature into a folder, in the order in which a partner sends them."""
    written = write_manifest(manifest)
    place(folder / manifest.file, content if data is None else data)
    place(folder / f"{manifest.file}.manifest", written)
    place(folder / f"{manifest.file}.manifest.jws", sign(written, key, manifest.key_id))


def place(path: Path, content: bytes) -> None:
    """Written under a temporary name, then renamed."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.rename(path)


def one_partner(folder: Path) -> dict[str, Any]:
    """Section `files` of the settings with one partner, whose folder and key are below `folder`."""
    (folder / "partner.pub").write_bytes(PUBLIC.as_pem(private=False))
    (folder / "epic").mkdir()
    partner = {
        "folder": str(folder / "epic"),
        "facility": "MAIN",
        "source_systems": ["ehr-main"],
        "profiles": ["census-snapshot", "canonical-events"],
        "signers": [{"key_id": KEY_ID, "public_file": str(folder / "partner.pub")}],
    }
    return {"data_dir": str(folder / "copies"), "poll_s": 0.1, "rows_per_s": 800, "partners": {"epic": partner}}
