"""Whether a resource is valid FHIR, R4 or R5: the published models, and what these let pass: codes, invariants, targets."""

from typing import Any, Final

from fhir.resources import get_fhir_model_class as model_of_r5
from fhir.resources.R4B import get_fhir_model_class as model_of_r4b

from pipeline.formats.fhir.owned import Body
from pipeline.formats.fhir.times import same_moment

CODES: Final[dict[str, frozenset[str]]] = {
    "Location": frozenset(("active", "suspended", "inactive")),
    "Encounter": frozenset(
        ("planned", "arrived", "triaged", "in-progress", "onleave", "finished", "cancelled", "entered-in-error", "unknown")
    ),
    "Task": frozenset(
        ("draft", "requested", "received", "accepted", "rejected", "ready", "cancelled", "in-progress", "on-hold", "failed",
         "completed", "entered-in-error")
    ),
    "Appointment": frozenset(
        ("proposed", "pending", "booked", "arrived", "fulfilled", "cancelled", "noshow", "entered-in-error", "checked-in",
         "waitlist")
    ),
    "EpisodeOfCare": frozenset(
        ("planned", "waitlist", "active", "onhold", "finished", "cancelled", "entered-in-error")
    ),
}  # fmt: skip
"""R4's value sets with required binding for `status`, written down a second time."""

CODES_OF_R5: Final = CODES | {
    "Encounter": frozenset(
        ("planned", "in-progress", "on-hold", "discharged", "completed", "cancelled", "discontinued", "entered-in-error",
         "unknown")
    ),
}  # fmt: skip
CANCEL_REASON: Final = {"R4": "cancelationReason", "R5": "cancellationReason"}

ENCOUNTER_LOCATION: Final = frozenset(("planned", "active", "reserved", "completed"))
PARTICIPATION: Final = frozenset(("accepted", "declined", "tentative", "needs-action"))

TARGETS: Final[dict[tuple[str, str], frozenset[str]]] = {
    ("Encounter", "subject"): frozenset({"Patient"}),
    ("Encounter", "location"): frozenset({"Location"}),
    ("Encounter", "episodeOfCare"): frozenset({"EpisodeOfCare"}),
    ("Location", "partOf"): frozenset({"Location"}),
    ("Location", "valueReference"): frozenset({"Encounter"}),
    ("Patient", "other"): frozenset({"Patient"}),
    ("Task", "for"): frozenset({"Patient"}),
    ("Task", "encounter"): frozenset({"Encounter"}),
    ("Task", "location"): frozenset({"Location"}),
    ("Task", "valueReference"): frozenset({"Location"}),
    ("Appointment", "actor"): frozenset({"Patient", "Location"}),
    ("Appointment", "subject"): frozenset({"Patient"}),
    ("Appointment", "supportingInformation"): frozenset({"Encounter"}),
    ("EpisodeOfCare", "patient"): frozenset({"Patient"}),
}
"""What a reference of ours may point to, by resource and element."""


def check(body: Body, version: str = "R4") -> None:
    """Fail where the resource is not valid in this version."""
    kind = body["resourceType"]
    (model_of_r5 if version == "R5" else model_of_r4b)(kind).model_validate(body)
    codes = CODES_OF_R5 if version == "R5" else CODES
    if kind in codes:
        assert body.get("status", "active" if kind == "Location" else None) in codes[kind]
    if kind == "Location":
        assert body.get("operationalStatus", {}).get("code", "U") in "CHOUKI"
    if kind == "Encounter":
        assert all(item["status"] in ENCOUNTER_LOCATION for item in body.get("location", []))
    if kind == "Task":
        _check_task(body)
    if kind == "Appointment":
        _check_appointment(body, CANCEL_REASON[version])
    _walk(body, kind)


def _check_task(body: Body) -> None:
    authored, modified = same_moment(body.get("authoredOn")), same_moment(body.get("lastModified"))
    assert authored is None or modified is None or authored <= modified, "inv-1"
    assert body["intent"] == "order"


def _check_appointment(body: Body, cancel_reason: str) -> None:
    start, end = body.get("start"), body.get("end")
    assert all("type" in item or "actor" in item for item in body["participant"]), "app-1"
    assert all(item["status"] in PARTICIPATION for item in body["participant"])
    assert (start is None) == (end is None), "app-2"
    assert start is not None or body["status"] in ("proposed", "cancelled", "waitlist"), "app-3"
    # R4 writes the status of a no-show wrongly here, so that cancelled is the only one that can be meant.
    assert cancel_reason not in body or body["status"] == "cancelled", "app-4"
    assert body.get("minutesDuration", 1) > 0


def _walk(node: Any, kind: str, name: str = "") -> None:
    assert node not in ({}, [], "", None), name
    if isinstance(node, dict):
        if "identifier" in node and "type" in node:
            assert node["type"] in TARGETS[kind, name], name
        for key, value in node.items():
            _walk(value, kind, key)
    elif isinstance(node, list):
        for value in node:
            _walk(value, kind, name)
