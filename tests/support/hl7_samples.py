"""Messages that the HL7 v2 tests share, made up after the standard's tables."""

from pathlib import Path

from pipeline.domain.event import Bed, Encounter, Event, Patient
from pipeline.domain.identifiers import Millis
from pipeline.formats.hl7v2.er7 import Message, parse
from pipeline.formats.hl7v2.mapping import to_events
from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.hl7v2.profile_file import profile_of
from pipeline.formats.hl7v2.verdict import Mapped, Rejected, Verdict

PROFILES = Path(__file__).resolve().parents[2] / "pipeline" / "profiles" / "hl7"
DEFAULT = profile_of((PROFILES / "default.yaml").read_bytes())
CAPACITY = profile_of((PROFILES / "capacity.yaml").read_bytes())
RECEIVED_AT = Millis(1_770_000_000_000)


def segment(name: str, fields: dict[int, str]) -> str:
    """A segment from its valued fields; MSH-1 and 2 are given by the standard delimiters."""
    if name == "MSH":
        return "MSH|^~\\&|" + "|".join(fields.get(n, "") for n in range(3, max(fields) + 1))
    return name + "|" + "|".join(fields.get(n, "") for n in range(1, max(fields, default=1) + 1))


def adt(
    trigger: str,
    *,
    msh: dict[int, str] | None = None,
    evn: dict[int, str] | None = None,
    pid: dict[int, str] | None = None,
    pv1: dict[int, str] | None = None,
    more: tuple[str, ...] = (),
) -> bytes:
    """An ADT of a plain visit: patient 4711, visit V1, bed ICU/1/A of facility MAIN; the arguments replace fields."""
    header = {3: "EHR", 4: "MAIN", 5: "US", 6: "HERE", 7: "20260105101500", 9: f"ADT^{trigger}", 10: "C1", 11: "P", 12: "2.5.1"}
    lines = (
        segment("MSH", header | (msh or {})),
        segment("EVN", {1: trigger, 2: "20260105101000"} | (evn or {})),
        segment("PID", {3: "4711^^^MAIN^MR", 5: "DOE^JANE"} | (pid or {})),
        segment("PV1", {2: "I", 3: "ICU^1^A^MAIN", 19: "V1"} | (pv1 or {})),
        *more,
    )
    return "\r".join(lines).encode() + b"\r"


def a20(code: str, bed: str = "ICU^1^A^MAIN") -> bytes:
    """A bed status after chapter 3.4: MSH, EVN, NPU."""
    header = {3: "CAP", 4: "MAIN", 7: "20260105101500", 9: "ADT^A20^ADT_A20", 10: "C20", 11: "P", 12: "2.5.1"}
    lines = (segment("MSH", header), segment("EVN", {2: "20260105101000"}), segment("NPU", {1: bed, 2: code}))
    return "\r".join(lines).encode() + b"\r"


def read(data: bytes) -> Message:
    """The message; the test fails where it can't be read."""
    message = parse(data)
    assert isinstance(message, Message)
    return message


def verdict_on(data: bytes, profile: Profile = DEFAULT) -> Verdict:
    """What becomes of it."""
    return to_events(read(data), profile, "t1", RECEIVED_AT, data=data)


def events_of(data: bytes, profile: Profile = DEFAULT) -> tuple[Event, ...]:
    """Its events; the test fails where it is not mapped."""
    verdict = verdict_on(data, profile)
    assert isinstance(verdict, Mapped), verdict
    return verdict.events


def rejected(data: bytes, profile: Profile = DEFAULT) -> Rejected:
    """Why it is rejected; the test fails where it is not."""
    verdict = verdict_on(data, profile)
    assert isinstance(verdict, Rejected), verdict
    return verdict


def encounter(data: bytes, profile: Profile = DEFAULT) -> Encounter:
    """The encounter that it states."""
    return next(event.payload for event in events_of(data, profile) if isinstance(event.payload, Encounter))


def patient(data: bytes, profile: Profile = DEFAULT) -> Patient:
    """The patient that it states."""
    return next(event.payload for event in events_of(data, profile) if isinstance(event.payload, Patient))


def beds(data: bytes, profile: Profile = DEFAULT) -> dict[str, Bed]:
    """The beds that it states, by id."""
    return {event.entity_id: event.payload for event in events_of(data, profile) if isinstance(event.payload, Bed)}
