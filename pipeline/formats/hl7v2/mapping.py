"""From a message to canonical events: the one entrance to all mappings. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from pipeline.domain.event import EventType
from pipeline.domain.identifiers import Millis
from pipeline.formats.draft import Common, Draft
from pipeline.formats.hl7v2 import adt, batch, leniency, merge, mfn, movement, siu, swap, triggers
from pipeline.formats.hl7v2.bed import bed_status
from pipeline.formats.hl7v2.datatypes import bed_id, text_of
from pipeline.formats.hl7v2.er7 import Malformed, Message, parse
from pipeline.formats.hl7v2.header import Header, header_of, identity_of, type_of
from pipeline.formats.hl7v2.messages import screen
from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.hl7v2.reading import Reading
from pipeline.formats.hl7v2.verdict import Ignored, Mapped, Reason, Rejected, Verdict
from pipeline.formats.json_events import event_to_json

MAPPED: Final = frozenset(
    {
        *(f"ADT^{trigger}" for trigger in (*triggers.BY_TRIGGER, *merge.MERGES, "A20")),
        *(f"SIU^{name}" for name in siu.TRIGGERS),
        "MFN^M05",
    }
)
_UPDATE_OF_MOVEMENT: Final = f"ADT^{movement.UPDATE_TRIGGER}"
_WITH_MOVEMENTS: Final = MAPPED | {_UPDATE_OF_MOVEMENT}
MAX_BEDS: Final = 100
"""Most NPU segments of one A20; the standard has one."""


def to_events(message: Message, profile: Profile, tenant: str, received_at: Millis, *, data: bytes | None = None) -> Verdict:
    """What the message says, as sealed events in the order in which they are to be published.

    The same message gives the same ids and hashes whenever it comes. `data` are the bytes that it was read from: they
    name a message without MSH-10; without them, its encoding does.
    """
    kind, trigger = type_of(message)
    mapped = _WITH_MOVEMENTS if profile.movements == "IHE_PAM" else MAPPED
    verdict = screen(kind, trigger, mapped, profile) or _not_production(message, profile)
    verdict = verdict or leniency.not_tolerated(message, data, profile.tolerates)
    if verdict:
        return verdict
    sited = _sited(message, profile)
    if isinstance(sited, Rejected):
        return sited
    profile, reading = sited, Reading(message, sited)
    header = header_of(reading, trigger)
    if isinstance(header, Rejected):
        return header
    drafts = _drafts(reading, header, kind, trigger)
    if not isinstance(drafts, tuple):
        return drafts
    if reading.unread and (unread := _not_left_unsaid(reading)):
        return unread
    identity = identity_of(message, message.encode() if data is None else data)
    common = Common(
        tenant=tenant,
        facility=profile.facility,
        source_system=profile.source_system,
        feed=profile.feed,
        identity=identity,
        recorded_at=header.recorded_at,
        received_at=received_at,
        sequence=header.sequence,
        sequence_basis=header.sequence_basis,
        occurred_at=header.occurred_at,
        control_id=header.control_id,
        user=header.user,
        reason=header.reason,
        priority=header.admission_type,
        audit_context=header.movement,
    )
    return Mapped(tuple(draft.event(common) for draft in drafts), _names(reading.unread), _names(reading.over_long))


def _names(positions: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(positions))


def _sited(message: Message, profile: Profile) -> Profile | Rejected:
    """The profile with the site that the message names: its namespaces are those of that site."""
    if profile.site_field == "none":
        return profile
    segment, n = profile.site_field.split("-")
    code = text_of(message.field(segment, int(n)))
    site = profile.facility if code is None else profile.facilities.get(code)
    if site is None:
        remedy = f"send a code of the profile's `facilities` in {profile.site_field}, or add this one there"
        return Rejected(Reason.UNKNOWN_CODE, profile.site_field, "the profile does not know the site", remedy)
    return profile if site == profile.facility else msgspec.structs.replace(profile, facility=site)


def _not_left_unsaid(reading: Reading) -> Rejected | None:
    """What could not be read, where the profile does not tolerate that."""
    tolerated = reading.profile.tolerates
    if reading.over_long and leniency.Leniency.OVER_LONG_FIELD not in tolerated:
        return leniency.refused(leniency.Leniency.OVER_LONG_FIELD, reading.over_long[0], Reason.TOO_LONG)
    unreadable = [name for name in reading.unread if name not in reading.over_long]
    if unreadable and leniency.Leniency.UNREADABLE_FIELD not in tolerated:
        return leniency.refused(leniency.Leniency.UNREADABLE_FIELD, unreadable[0], Reason.BAD_VALUE)
    return None


def _not_production(message: Message, profile: Profile) -> Rejected | None:
    processing_id = (message.field("MSH", 11) or "P").strip().upper()
    if processing_id in profile.processing_ids:
        return None
    return Rejected(
        Reason.UNSUPPORTED_PROCESSING,
        "MSH-11",
        "the profile does not take messages of this processing id",
        "send production data (P) on this feed, or name the processing id in the profile",
    )


def _drafts(reading: Reading, header: Header, kind: str, trigger: str) -> tuple[Draft, ...] | Rejected | Ignored:
    match kind, trigger:
        case "SIU", _:
            return siu.drafts(reading, trigger)
        case "MFN", _:
            return mfn.drafts(reading, header)
        case _, "A20":
            return _bed_drafts(reading)
        case _, _ if trigger in merge.MERGES:
            return merge.drafts(reading, header, trigger)
    if trigger == movement.UPDATE_TRIGGER and (ignored := movement.ignored_of(reading)):
        return ignored
    rule = triggers.rule_of(trigger, reading.profile.a08_moves)
    return swap.drafts(reading, header, rule) if trigger == "A17" else adt.drafts(reading, header, rule)


def _bed_drafts(reading: Reading) -> tuple[Draft, ...] | Rejected:
    """One event per NPU; the ordinal is its position behind those of visits."""
    segments = reading.message.segments("NPU")
    if not 1 <= len(segments) <= MAX_BEDS:
        detail = "segment missing" if not segments else f"more than {MAX_BEDS} of them"
        return Rejected(Reason.SEGMENT_SEQUENCE, "NPU", detail, "send one NPU with the bed and its status")
    drafts = []
    for ordinal, npu in enumerate(segments, adt.PRIOR_BED):
        stated = bed_status(reading, npu)
        if isinstance(stated, Rejected):
            return stated
        place, bed = stated
        namespace = place.facility or reading.profile.facility
        drafts.append(Draft(ordinal, EventType.BED_STATUS, namespace, bed_id(place) or "", place, bed))
    return tuple(drafts)


UNREADABLE_REMEDY: Final = {
    Malformed.EMPTY: "send a message between the start and the end of the block",
    Malformed.OVERSIZE: "send smaller messages, or raise max_message_bytes in the profile",
    Malformed.NO_HEADER: "begin the message with MSH",
    Malformed.TRUNCATED: "send the whole MSH",
    Malformed.BAD_DELIMITERS: "send five different delimiters in MSH-1 and MSH-2, as |^~\\&",
    Malformed.UNDECODABLE: "send the character set that MSH-18 declares, or name it in the profile's charset_fallback",
    Malformed.BATCH: "send a batch where one is taken: as a file, or as one frame by MLLP",
    Malformed.SEVERAL_MESSAGES: "send one message in each block",
    Malformed.TOO_MANY_LINES: "send several messages",
}


def rejected_of(malformed: Malformed) -> Rejected:
    """Bytes that are no message, as a rejection."""
    reason = Reason.TOO_LONG if malformed.reason in (Malformed.OVERSIZE, Malformed.TOO_MANY_LINES) else Reason.UNREADABLE
    return Rejected(reason, malformed.where, malformed.reason, UNREADABLE_REMEDY[malformed.reason])


def map_bytes(data: bytes, profile: Profile, tenant: str, received_at: Millis) -> tuple[Message | None, Verdict]:
    """One message from its bytes: what could be read of it, and the verdict."""
    message = parse(data, max_bytes=profile.max_message_bytes, fallback=profile.charset_fallback)
    if isinstance(message, Malformed):
        return None, rejected_of(message)
    return message, to_events(message, profile, tenant, received_at, data=data)


def map_hl7(data: bytes, *, profile: Profile, tenant: str, received_at: Millis, file: str = "") -> Iterator[dict[str, Any]]:
    """What a file would make, ready for JSON: events as `event_to_json` writes them, or why there are none.

    A file may hold several messages one after the other, with or without MLLP framing, or a batch whose counts are right.
    """
    parts = messages_of(data)
    if isinstance(parts, Rejected):
        yield _shown(parts, file)
        return
    for part in parts:
        _, verdict = map_bytes(part, profile, tenant, received_at)
        match verdict:
            case Mapped(events):
                yield from map(event_to_json, events)
            case Ignored(detail):
                yield {"file": file, "ignored": "rule", "detail": detail}
            case Rejected():
                yield _shown(verdict, file)


def _shown(why: Rejected, file: str) -> dict[str, Any]:
    return {"file": file, "rejected": why.reason.value, "field": why.field, "detail": why.detail, "remedy": why.remedy}


def messages_of(data: bytes) -> Sequence[bytes] | Rejected:
    """The messages of a file; of a batch (FHS, BHS) only if it is whole."""
    text = data.replace(b"\x1c\r", b"\r").replace(b"\x0b", b"")
    if batch.is_batch(text):
        batches = batch.read(text)
        return batches if isinstance(batches, Rejected) else batches.messages
    starts = [0]
    for separator in (b"\r", b"\n"):
        at = text.find(separator + b"MSH")
        while at >= 0:
            starts.append(at + 1)
            at = text.find(separator + b"MSH", at + 1)
    starts = sorted(set(starts))
    parts = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    return [part for part in parts if part.strip(b"\xef\xbb\xbf \t\r\n")] or [text]
