"""Invalid resources of independent origin: each goes to quarantine with its record, a rule and a remedy, and makes no event.

The standard's own examples, and those of servers' test suites, as they are; and each with a bogus code or a reference to a
type of resource that the standard does not allow there.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Reason
from pipeline.formats.fhir.codec import decode, encode
from pipeline.formats.fhir.inbound import MAPPED_TYPES, Mapped, Rejected, events_of, needed
from pipeline.formats.fhir.inbound_verdict import Origin, Verdict
from pipeline.formats.fhir.owned import Body
from pipeline.sources.fhir.landing import Landing, Taken
from tests.support.fhir_in import MemorySink
from tests.support.fhir_resources import KEY, PEOPLE, RECEIVED_MS, REPLICA, STAYS

IDENTIFIED: Final = {
    "Location": ("https://surgeline.dev/fhir/id/demo/bed", "MAIN/ICU/1/A"),
    "Encounter": (STAYS, "MAIN/V1"),
    "Patient": (PEOPLE, "MAIN/P1"),
    "Task": ("https://surgeline.dev/fhir/id/demo/transfer", "MAIN/T1"),
    "Appointment": ("https://surgeline.dev/fhir/id/demo/procedure", "MAIN/S1"),
}
"""An identifier that the profile names, so that a resource is refused for what is planted and not for its name."""

BOGUS: Final = {kind: {"gender": "bogus"} if kind == "Patient" else {"status": "bogus"} for kind in IDENTIFIED}
MISLED: Final[dict[str, Body]] = {
    "Location": {"partOf": {"reference": "Patient/1"}},
    "Encounter": {"subject": {"reference": "Location/1"}},
    "Patient": {"link": [{"type": "replaced-by", "other": {"reference": "Encounter/1"}}]},
    "Task": {"encounter": {"reference": "Patient/1"}},
    "Appointment": {"participant": [{"actor": {"reference": "Encounter/1"}, "status": "accepted"}]},
}


class Mapper:
    """As the role has it, for one version."""

    def __init__(self, version: Any) -> None:
        self.origin = Origin("demo", "MAIN", "ehr", "fhir", version)

    def needed(self, resource: Body, known: Mapping[str, Body]) -> Sequence[str]:
        return needed(resource, self.origin, REPLICA, known)

    def events(self, resource: Body, known: Mapping[str, Body], received_at: Millis) -> Verdict:
        return events_of(resource, self.origin, REPLICA, KEY, received_at, known)


class Watched:
    """What was observed of resources."""

    def __init__(self) -> None:
        self.results: Counter[str] = Counter()

    def resource(self, feed: str, way: str, result: str) -> None:
        self.results[result] += 1


def resources(folder: Path) -> Iterator[Body]:
    """Every resource in the data, inside bundles too, as a server would show it."""
    for number, file in enumerate(sorted((folder / "fhir").rglob("*.json"))):
        body = decode(file.read_bytes().removeprefix(b"\xef\xbb\xbf"))
        inside = [entry.get("resource") for entry in (body or {}).get("entry", []) if isinstance(entry, dict)]
        for part, resource in enumerate([body, *inside]):
            if isinstance(resource, dict):
                meta = {"versionId": "1", "lastUpdated": "2026-01-31T08:00:00Z"}
                yield {**resource, "id": f"r{number}-{part}", "meta": meta}


def as_it_is(resource: Body) -> Body:
    return resource


def with_a_bogus_code(resource: Body) -> Body:
    return named(resource) | BOGUS[resource["resourceType"]]


def with_a_misled_reference(resource: Body) -> Body:
    return named(resource) | MISLED[resource["resourceType"]]


def named(resource: Body) -> Body:
    """Under a name of ours, and nothing that marks it as no bed."""
    system, value = IDENTIFIED[resource["resourceType"]]
    kept = {key: each for key, each in resource.items() if key not in ("physicalType", "mode")}
    bed = {"physicalType": {"coding": [{"code": "bd"}]}} if resource["resourceType"] == "Location" else {}
    return kept | bed | {"identifier": [{"system": system, "value": value}]}


@pytest.mark.parametrize("version", ["R4", "R4B", "R5"])
@pytest.mark.parametrize(
    ("made", "reason"),
    [(as_it_is, None), (with_a_bogus_code, "UNKNOWN_CODE"), (with_a_misled_reference, "WRONG_TARGET")],
)
async def test_what_is_invalid_is_quarantined_with_its_record_a_rule_and_a_remedy(
    shared_data: Path, version: str, made: Callable[[Body], Body], reason: str | None
) -> None:
    told: Counter[str] = Counter()
    for resource in resources(shared_data):
        if made is not as_it_is and resource.get("resourceType") not in MAPPED_TYPES:
            continue
        invalid = made(resource)
        sink, watched, mapper = MemorySink(), Watched(), Mapper(version)
        landing = Landing("beds", "demo", "ehr", mapper, lambda: RECEIVED_MS, watched)
        verdict = mapper.events(invalid, {}, RECEIVED_MS)
        assert await landing.read(sink, [invalid], {}, "read") == Taken()
        if not isinstance(verdict, Rejected):
            assert sink.broken == []
            assert reason is None or not isinstance(verdict, Mapped), f"{resource['id']} was taken"
            continue
        (broken,) = sink.broken
        told[verdict.reason.value] += 1
        assert (broken.reason, broken.part, sink.events) == (Reason.BAD_RESOURCE, encode(invalid), [])
        assert (broken.rule, broken.remedy) == (f"{verdict.reason.value}: {verdict.rule}", verdict.remedy)
        assert verdict.rule
        assert verdict.remedy
        assert (broken.field or "").startswith(invalid["resourceType"]), resource["id"]
        assert watched.results == {"rejected": 1}
        assert sink.raw[0].body == encode(invalid), "the bytes are kept beside it"
    assert sum(told.values()) > 20, told
    assert reason is None or told[reason] > 10, told
