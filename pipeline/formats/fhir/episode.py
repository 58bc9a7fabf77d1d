"""One condition's care as EpisodeOfCare, as the places around a bed are made: with the stay that names it, or not at all.

A stay refers to the episode that its source names. In the same transaction the episode is created unless it is there, and
never written again: what becomes of it is not ours to say, and no source tells us when it ends.
"""

from typing import Final

from msgspec import UNSET

from pipeline.domain.event import Encounter, EntityType, Reference
from pipeline.formats.fhir.naming import Ident, Naming, logical_reference, query_quoted, referenced
from pipeline.formats.fhir.owned import Body, Json, Member, Owned, dotted_value, elements
from pipeline.formats.fhir.resource import urn_of
from pipeline.formats.rfc3339 import rfc3339_of

RESOURCE_TYPE: Final = "EpisodeOfCare"


def owned_of(encounter: Encounter, naming: Naming, current: Body) -> tuple[Owned, ...]:
    """Encounter.episodeOfCare: the one that the state names; those of ours that it no longer names go."""
    if encounter.episode is UNSET:
        return ()
    wanted = naming.episode(encounter.episode) if encounter.episode else None
    present = _present(current, naming)
    stale = tuple(Owned("episode", _path(ident), None) for ident in present if ident != wanted)
    if wanted is None:
        return stale
    return (*stale, Owned("episode", _path(wanted), _reference(wanted, encounter, naming, present.get(wanted))))


def shown_of(body: Body, naming: Naming) -> Json:
    """The episodes of ours that a stay refers to."""
    return sorted(referenced(ident_reference) for ident_reference in _present(body, naming).values())


def entries_of(encounter: Encounter, naming: Naming, body: Body) -> list[Body]:
    """The transaction entry that makes the episode to which `body`, a stay, refers by the entry's URN; none if it has an id."""
    if not isinstance(encounter.episode, Reference) or not isinstance(encounter.patient, Reference):
        return []
    ident = naming.episode(encounter.episode)
    if (_present(body, naming).get(ident) or {}).get("reference") != urn_of(ident):
        return []
    resource: Body = {
        "resourceType": RESOURCE_TYPE,
        "identifier": [ident.body()],
        "status": "active",
        "patient": naming.reference(EntityType.PATIENT, encounter.patient),
    }
    if isinstance(encounter.admitted_at, int) and "admitted_at" in naming.profile.fields_of(EntityType.ENCOUNTER):
        resource["period"] = {"start": rfc3339_of(encounter.admitted_at)}
    request = {"method": "POST", "url": RESOURCE_TYPE, "ifNoneExist": f"identifier={query_quoted(ident.token())}"}
    return [{"fullUrl": urn_of(ident), "resource": resource, "request": request}]


def _reference(wanted: Ident, encounter: Encounter, naming: Naming, kept: Body | None) -> Body:
    """By id if it has one, else by a URN that the transaction resolves; by identifier alone while the episode can't be made.

    EpisodeOfCare.patient is mandatory: without the patient, or where the profile keeps the patient back, there is none.
    """
    if kept is not None and "reference" in kept:
        return kept
    logical = logical_reference(RESOURCE_TYPE, wanted)
    told = isinstance(encounter.patient, Reference) and "patient" in naming.profile.fields_of(EntityType.ENCOUNTER)
    return {"reference": urn_of(wanted), **logical} if told else logical


def _present(body: Body, naming: Naming) -> dict[Ident, Body]:
    found: dict[Ident, Body] = {}
    for element in elements(body, "episodeOfCare"):
        system, value = dotted_value(element, "identifier.system"), dotted_value(element, "identifier.value")
        if isinstance(system, str) and isinstance(value, str) and naming.names_episodes(system):
            found.setdefault(Ident(system, value), element)
    return found


def _path(ident: Ident) -> tuple[str | Member, ...]:
    return ("episodeOfCare", Member((("identifier.system", ident.system), ("identifier.value", ident.value))))
