"""Telling somebody of an incident: a signed POST, sent once per call; who calls owns repetition and its bounds.

`Surgeline-Signature: t=SECONDS,v1=HEX`: HMAC-SHA256 under the key of the settings over `SECONDS.` and the body's bytes. A
receiver compares it, refuses old times, and knows a repeat by `Surgeline-Delivery`.
"""

import enum
import hashlib
import hmac
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from pipeline.domain.accounts.budgets import Incident
from pipeline.domain.identifiers import Millis
from pipeline.formats.rfc3339 import rfc3339_of

SIGNATURE: Final = "Surgeline-Signature"
DELIVERY: Final = "Surgeline-Delivery"


class Told(enum.StrEnum):
    """How an attempt ended; bounded, because it is a metric label."""

    TAKEN = "taken"
    REFUSED = "refused"
    """It answered with anything but 2xx; a redirect is not followed."""
    NO_ANSWER = "no_answer"


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent; it holds no patient data."""

    delivery: str
    body: bytes = field(repr=False)


def message_of(incident: Incident) -> Message:
    """The begin of an incident, or its end where it has ended."""
    stage = "begin" if incident.closed_at is None else "end"
    said = {
        "incident": incident.incident_id,
        "stage": stage,
        "kind": incident.kind.value,
        "meaning": incident.kind.doc,
        "destination": incident.destination,
        "objectives": incident.objectives,
        "opened_at": rfc3339_of(incident.opened_at),
        "closed_at": rfc3339_of(incident.closed_at) if incident.closed_at is not None else None,
        "figures": incident.figures,
        "reconciliation_ordered": incident.reconciled,
    }
    return Message(f"{incident.incident_id}-{stage}", msgspec.json.encode(said, order="sorted"))


def signature_of(key: bytes, body: bytes, at: Millis) -> str:
    """Value of the header for a body that is sent at a time."""
    seconds = str(at // 1000)
    return f"t={seconds},v1={hmac.new(key, seconds.encode() + b'.' + body, hashlib.sha256).hexdigest()}"


class Webhook:
    """Where incidents are told. The key is read anew each time, so that it can be replaced."""

    def __init__(self, url: str, key_file: Path, timeout_s: float, ca_file: Path | None = None) -> None:
        self._url, self._key_file, self._timeout_s, self._ca_file = url, key_file, timeout_s, ca_file

    async def tell(self, message: Message, now: Millis) -> Told:
        """One attempt."""
        try:
            key = self._key_file.read_bytes().strip()
            context = ssl.create_default_context(cafile=str(self._ca_file) if self._ca_file else None)
        except (OSError, ssl.SSLError):
            return Told.REFUSED
        headers = {
            "Content-Type": "application/json",
            SIGNATURE: signature_of(key, message.body, now),
            DELIVERY: message.delivery,
        }
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(self._url, data=message.body, headers=headers, allow_redirects=False, ssl=context) as answer,
            ):
                return Told.TAKEN if 200 <= answer.status < 300 else Told.REFUSED
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Told.NO_ANSWER
