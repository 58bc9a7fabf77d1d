"""Renders `docs/mapping/files.md`, from the code and the shipped profiles.

`python -m pipeline.formats.files.document > docs/mapping/files.md`; a test compares the committed page.
"""

import sys
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, Final

import msgspec

from pipeline.domain.files.life import FileReason, FileStatus
from pipeline.formats.fhir.inbound import MAPPED_TYPES
from pipeline.formats.files.profile import PLACEHOLDERS, Column, FileProfile, profile_of
from pipeline.formats.files.records import MAX_COLUMNS, MAX_RECORD_LINES
from pipeline.formats.files.resources import MAX_KNOWN
from pipeline.formats.files.rows import CHUNK_ROWS, MAX_RECORD_BYTES
from pipeline.formats.manifest import ManifestFile
from pipeline.formats.markdown import table

HEAD: Final = """# Managed files: manifest, outcomes and rows

Rendered by `python -m pipeline.formats.files.document` from the code and `pipeline/profiles/files/`. How a partner sends files,
and what an operator does, is in [files.md](../operating/files.md).

## Manifest

Beside `NAME` stand `NAME.manifest`, one JSON object in UTF-8, and `NAME.manifest.jws`, a detached JWS in compact form
(RFC 7515, appendix F) over the manifest's exact bytes: `alg` Ed25519 (RFC 9864) or EdDSA, `kid` the manifest's `key_id`. Every
member is required, and a member that is not here is refused.
"""

NAMES: Final = f"""
## Names

A profile says what its files are called. What may differ from name to name is
{", ".join(f"`{each}`" for each in PLACEHOLDERS)}: a date, a time, and a number of up to three digits. So a name that is
shown or logged has no room for a person. Any other name is refused and nowhere repeated.
"""

ROWS: Final = f"""
## Rows

- CSV is RFC 4180 as spreadsheets write it: a byte order mark, CRLF or LF, quotes with delimiters, quotes and line ends within
  them. Blank lines, and lines with nothing but delimiters, are no records and have no number; the header has none either.
- A record has at most {MAX_RECORD_BYTES} bytes, {MAX_RECORD_LINES} lines and {MAX_COLUMNS} columns. A quote that is never closed
  breaks its own line and no other.
- An empty cell says nothing, unless the profile has it clear the field. A field of several parts is replaced as a whole.
- An id of several columns is joined by `/`, as HL7 v2 names a bed (`unit/room/bed`).
- `recorded_at` of a row of a table is the manifest's `created_at`: a snapshot never overrides what a live event said since.
- A line of FHIR resources is mapped as a subscription's resource is ([fhir-in.md](fhir-in.md)), by the profile of its server.
  Our own word in it makes no event. What a line refers to is known by an identifier in the reference, or by those of a resource
  on an earlier line, the first {MAX_KNOWN} of the file: patients and places come before stays. `recorded_at` is
  `meta.lastUpdated`, without it the manifest's `created_at`, and never later than that. The element of a broken line is named as
  a path, e.g. `Encounter.subject`.
- The id of an event derives from source system, the content's SHA-256 and the record's number, and from `created_at` where that
  is the record's time; a message of an HL7 v2 batch keeps the identity that its sender gave it. `audit_context` of each event
  names content and row.
- So a table, or a file of resources, of the same content and a later `created_at` is taken under a new name: it says that things
  are so again, whatever was said in between. Of the same `created_at` it is REPEATED, and so are canonical events and messages of
  the same content, whose times are their own.
- Rows are landed in chunks of at most {CHUNK_ROWS}, one after the other, each durable before the next.
"""


def render(profiles: dict[str, FileProfile]) -> str:
    """The page."""
    return "".join(
        [HEAD, _members(), NAMES, *_outcomes(), ROWS, *(_profile(name, each) for name, each in sorted(profiles.items()))]
    )


def _members() -> str:
    return "\n" + table(
        ("member", "what it says"), ((f"`{field.name}`", _doc(field.type)) for field in msgspec.structs.fields(ManifestFile))
    )


def _doc(annotated: Any) -> str:
    return next((meta.description or "" for meta in getattr(annotated, "__metadata__", ()) if meta.description), "")


def _outcomes() -> Iterator[str]:
    yield "\n## Outcomes\n\nIn `NAME.ack.json` the status stands in `outcome`, in small letters, and the reason in `reason`.\n"
    yield "\n" + table(("status", "means"), ((each.value, each.doc) for each in FileStatus))
    reasons = (each for each in FileReason if each is not FileReason.NONE)
    yield "\n" + table(("reason", "means"), ((each.value, each.doc) for each in reasons))


def _profile(name: str, profile: FileProfile) -> str:
    lines = [f"\n## Profile {name}\n\n"]
    lines.append(f"Schema `{profile.schema}`, {profile.format}, named {', '.join(f'`{each}`' for each in profile.names)}.")
    if profile.format == "fhir":
        lines.append(
            f" A line is a resource of FHIR {profile.fhir_version} ({', '.join(MAPPED_TYPES)}; others say nothing here), event "
            f"{profile.event_type}, identifiers as EHR profile {profile.ehr_profile}."
        )
    if profile.format == "csv":
        lines.append(
            f" A row is a {profile.entity}, event {profile.event_type}, id {' / '.join(profile.id_columns)}; delimiter "
            f"`{profile.csv.delimiter}`, {profile.csv.encoding}, decimal `{profile.csv.decimal}`, times "
            f"{', '.join(f'`{each}`' for each in profile.csv.times)} in {profile.time_zone}."
        )
    lines.append(
        f" Late files: {profile.late}. Held above {profile.max_rejected:.0%} broken rows. At most {profile.max_bytes} bytes.\n"
    )
    if profile.columns:
        lines.append("\n" + table(("column", "field", "codes", "in a row", "in the file"), map(_column, profile.columns)))
    return "".join(lines)


def _column(column: Column) -> tuple[str, ...]:
    codes = ", ".join(f"{code or '(empty)'} = {'says nothing' if to is None else to}" for code, to in column.values.items())
    field = f"`{column.field}`" if column.field else ""
    needed = "required" if column.required else f"empty: {column.empty}"
    return column.column, field, codes, needed, "optional" if column.optional else "required"


def shipped() -> dict[str, FileProfile]:
    """Every profile of files that ships with surgeline."""
    folder = files("pipeline") / "profiles" / "files"
    return {file.name.removesuffix(".yaml"): profile_of(file.read_bytes()) for file in folder.iterdir()}


if __name__ == "__main__":
    sys.stdout.write(render(shipped()))
