"""`surgeline map`: any input format to canonical events, without a broker."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pipeline.domain.event import Event
from pipeline.domain.identifiers import Millis
from pipeline.formats.hl7v2.mapping import map_hl7
from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.json_events import Client, Invalid, event_to_json, parse_event

MAX_FILE_BYTES: Final = 64 << 20
MAPPER: Final = "map"


def map_file(file: Path, profile: Profile, tenant: str, received_at: Millis) -> Iterator[dict[str, Any]]:
    """Canonical events of a file, or one object that says why there are none."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            yield _rejected(file, "OVERSIZE", f"at most {MAX_FILE_BYTES} bytes")
            return
        data = file.read_bytes()
    except OSError as error:
        yield _rejected(file, "UNREADABLE", error.strerror or "can't be read")
        return
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] in (b"{", b"["):
        yield from _map_json(file, text, tenant, received_at)
    else:
        yield from map_hl7(data, profile=profile, tenant=tenant, received_at=received_at, file=str(file))


def _map_json(file: Path, text: bytes, tenant: str, received_at: Millis) -> Iterator[dict[str, Any]]:
    try:
        items = _items(text)
    except (ValueError, RecursionError):
        yield _rejected(file, "UNDECODABLE", "neither JSON nor JSON lines")
        return
    for number, item in enumerate(items):
        source = item.get("source_system", "") if isinstance(item, dict) else ""
        client = Client(MAPPER, tenant, frozenset({source} if isinstance(source, str) else ()))
        key = str(item.get("idempotency_key") or f"{file.name}") if isinstance(item, dict) else file.name
        match parse_event(item, client=client, idempotency_key=key, item=number, received_at=received_at):
            case Event() as event:
                yield event_to_json(event)
            case Invalid() as invalid:
                yield {
                    "file": str(file),
                    "rejected": invalid.rule,
                    "field": f"/{number}{invalid.field}",
                    "detail": invalid.rule.doc,
                    "remedy": invalid.remedy,
                }


def _items(text: bytes) -> list[Any]:
    try:
        document = json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    return document if isinstance(document, list) else [document]


def _rejected(file: Path, reason: str, detail: str) -> dict[str, Any]:
    return {"file": str(file), "rejected": reason, "detail": detail}
