"""What the two source systems of the demo say of a fact: an HL7 v2 message of the EHR, or a JSON event of the capacity
platform. All persons are made up."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, assert_never

from pipeline.domain.identifiers import Millis
from pipeline.local.demo.surge import Adt, BedCode, BedFact, BedPlace, BoardFact, DiversionFact, Fact, StaffFact

FACILITY: Final = "GENERAL"
TENANT: Final = "demo"
HL7_SENDER: Final = "EPICADT"
HTTP_SOURCE: Final = "capacity"
PROMISE_MS: Final = 2 * 3_600_000
"""How long a promise, a block or a diversion lasts unless it is ended before: longer than the demo."""
SHIFT_MS: Final = 12 * 3_600_000
STRUCTURES: Final = {"A04": "ADT_A01", "A08": "ADT_A01", "A11": "ADT_A09", "A13": "ADT_A01"}
"""MSH-9.3 where it isn't named after the trigger (HL7 table 0354)."""
CANCELS: Final = frozenset({"A11", "A12", "A13"})

Json = dict[str, object]


@dataclass(frozen=True, slots=True, repr=False)
class Told:
    """One message: kind `hl7` or `http`, what identifies it at its source, and its text."""

    kind: Literal["hl7", "http"]
    identity: str
    body: str


@dataclass(slots=True)
class Teller:
    """Words facts; remembers what later messages about the same visit repeat. Call it in true order."""

    seed: int
    base_ms: Millis
    _admitted_ms: dict[int, int] = field(default_factory=dict)
    _last_ms: dict[int, int] = field(default_factory=dict)
    _details: dict[int, int] = field(default_factory=dict)

    def tell(self, fact: Fact, serial: int, recorded_ms: int) -> Told:
        """`serial` numbers the messages of one trace, `recorded_ms` is when the source recorded the fact."""
        match fact:
            case Adt():
                return self._hl7(
                    fact.trigger, serial, recorded_ms, self._visit(fact, recorded_ms), self._happened_ms(fact, recorded_ms)
                )
            case BedCode(bed, code):
                return self._hl7("A20", serial, recorded_ms, [f"NPU|{_pl(bed)}|{code}"], recorded_ms)
            case BedFact(bed):
                return self._http("bed", bed.id, serial, recorded_ms, self._bed(fact, recorded_ms), bed)
            case BoardFact(bed):
                return self._http("bed", bed.id, serial, recorded_ms, _board(bed), bed, "SNAPSHOT")
            case StaffFact():
                return self._http(
                    "staffing", f"{fact.unit}/{fact.shift}/{fact.role}", serial, recorded_ms, _staff(fact, recorded_ms)
                )
            case DiversionFact(status):
                return self._http("diversion", f"{FACILITY}/ED", serial, recorded_ms, _diversion(status, recorded_ms))
            case _:
                assert_never(fact)

    def visit_number(self, number: int) -> str:
        """Visit number; other seeds give other ones."""
        return f"V{self.seed % 10_000:04d}{number:05d}"

    def record_number(self, number: int) -> str:
        """Medical record number; other seeds give other ones."""
        return f"D{self.seed % 10_000:04d}{number:05d}"

    def _hl7(self, trigger: str, serial: int, recorded_ms: int, segments: list[str], happened_ms: int) -> Told:
        control_id, recorded = f"S{self.seed % 100_000_000}-{serial}", hl7_time(recorded_ms)
        structure = STRUCTURES.get(trigger, f"ADT_{trigger}")
        header = (
            f"MSH|^~\\&|{HL7_SENDER}|{FACILITY}|SURGELINE|{FACILITY}|{recorded}||ADT^{trigger}^{structure}|{control_id}|P|2.5.1"
        )
        event = f"EVN|{trigger}|{recorded}||||{hl7_time(happened_ms)}"
        return Told("hl7", control_id, "\r".join((header, event, *segments)) + "\r")

    def _happened_ms(self, fact: Adt, recorded_ms: int) -> int:
        """EVN-6; on a cancel it is the time of what is cancelled."""
        before = self._last_ms.get(fact.number, recorded_ms)
        self._last_ms[fact.number] = recorded_ms
        return before if fact.trigger in CANCELS else recorded_ms

    def _visit(self, fact: Adt, recorded_ms: int) -> list[str]:
        number = fact.number
        admitted = hl7_time(self._admitted_ms.setdefault(number, recorded_ms))
        if fact.details:
            self._details[number] = fact.details
        corrected = f"-{self._details[number]}" if number in self._details else ""
        pid = (
            f"PID|1||{self.record_number(number)}^^^{FACILITY}^MR||Madeup{corrected}^Person{number}||"
            f"{1930 + number % 85}{1 + number % 12:02d}{1 + number % 28:02d}|{'FM'[number % 2]}"
        )
        pv1 = [""] * 46
        pv1[0:4] = ["PV1", "1", "I" if fact.inpatient else "E", _pl(fact.place)]
        pv1[6] = _pl(fact.prior) if fact.prior else ""
        pv1[10] = fact.place.unit
        pv1[19] = f"{self.visit_number(number)}^^^{FACILITY}^VN"
        pv1[44] = admitted
        if fact.trigger == "A03":
            pv1[36], pv1[45] = "01", hl7_time(recorded_ms)
        return [pid, "|".join(pv1).rstrip("|")]

    def _http(
        self, entity_type: str, entity_id: str, serial: int, recorded_ms: int, payload: Json,
        bed: BedPlace | None = None, event_type: str = "UPDATE",
    ) -> Told:  # fmt: skip
        key, recorded = f"surge-{self.seed}-{self.base_ms}-{serial}", rfc3339(recorded_ms)
        event: Json = {
            "tenant": TENANT,
            "facility": FACILITY,
            "source_system": HTTP_SOURCE,
            "feed": "http",
            "entity_type": entity_type,
            "namespace": FACILITY,
            "entity_id": entity_id,
            "event_type": event_type,
            "occurred_at": recorded,
            "recorded_at": recorded,
            "idempotency_key": key,
            "payload": payload,
        }
        if bed is not None:
            event["location"] = _place(bed)
        return Told("http", key, json.dumps(event, separators=(",", ":")))

    def _bed(self, fact: BedFact, recorded_ms: int) -> Json:
        if fact.field == "environment":
            return {"environment": fact.value}
        stated: Json = {"status": fact.value}
        if fact.holder is not None:
            stated["encounter"] = {"namespace": FACILITY, "id": self.visit_number(fact.holder)}
        if fact.reason is not None:
            stated["reason"] = fact.reason
        if stated.keys() != {"status"}:
            stated["until"] = rfc3339(recorded_ms + PROMISE_MS)
        return {fact.field: stated}


def hl7_time(ms: int) -> str:
    """HL7 DTM in UTC, to the millisecond."""
    return f"{_utc(ms):%Y%m%d%H%M%S}.{ms % 1000:03d}+0000"


def rfc3339(ms: int) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return f"{_utc(ms):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def _utc(ms: int) -> datetime:
    return datetime.fromtimestamp(ms // 1000, UTC)


def _pl(bed: BedPlace) -> str:
    return f"{bed.unit}^{bed.room}^{bed.bed}^{FACILITY}"


def _place(bed: BedPlace) -> Json:
    return {"facility": FACILITY, "point_of_care": bed.unit, "room": bed.room, "bed": bed.bed}


def _board(bed: BedPlace) -> Json:
    return {
        "environment": "CLEAN",
        "allocation": {"status": "NONE"},
        "service": {"status": "OPEN"},
        "staffed": True,
        "licensed": True,
        "place": _place(bed),
        "level_of_care": str(bed.kind),
    }


def _staff(fact: StaffFact, recorded_ms: int) -> Json:
    return {
        "unit": fact.unit,
        "role": fact.role,
        "shift_start": rfc3339(recorded_ms),
        "shift_end": rfc3339(recorded_ms + SHIFT_MS),
        "required": fact.required,
        "actual": fact.actual,
    }


def _diversion(status: str, recorded_ms: int) -> Json:
    state: Json = {"status": status, "start": rfc3339(recorded_ms), "authoriser": "S1001"}
    if status != "NORMAL":
        state |= {"until": rfc3339(recorded_ms + PROMISE_MS), "reason": "ED-SATURATION"}
    return {"category": "ED", "state": state}
