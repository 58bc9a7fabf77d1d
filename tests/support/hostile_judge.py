"""What an EHR shows after a hostile run, held against what the gate accepted and what the clinician saved.

Of every entity: one resource; a history that rises strictly and leaves the clinician's words alone; in the end the gate's
state. Of all together: no bed ever with two stays in it, each place and each episode of care made once.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from pipeline.destinations.fhir.build import Builder
from pipeline.domain.event import Bed, Encounter, EntityType, Place, Reference
from pipeline.domain.records import Accepted
from pipeline.formats.fhir.naming import Ident, Naming
from pipeline.formats.fhir.owned import elements
from pipeline.formats.fhir.times import same_moment
from tests.chaos.checks import Body, history_problems, theirs, version_of
from tests.chaos.clinician import EditLog, pages, session
from tests.support.hostile_writer import Log

NOBODY_THERE: Final = frozenset({"planned", "finished", "cancelled", "entered-in-error"})


@dataclass(frozen=True, slots=True)
class Lying:
    """One stay in one bed, from a moment until the next version of it, in milliseconds; None for still."""

    bed: tuple[str, str]
    stay: str
    since: int
    until: int | None


@dataclass
class Judge:
    """Of one run."""

    base_url: str
    builder: Builder
    log: Log
    edits: EditLog
    _histories: dict[str, list[Body]] = field(default_factory=dict)

    async def problems(self) -> list[str]:
        """Everything that the EHR shows and must not, by type and number of the entity; nothing of its content."""
        self._histories.clear()
        found: list[str] = []
        numbers: defaultdict[EntityType, int] = defaultdict(int)
        async with session() as http:
            for head in self.log.heads.values():
                name = f"{head.entity_type.value} {numbers[head.entity_type]}"
                numbers[head.entity_type] += 1
                found += [f"{name}: {problem}" for problem in await self._entity_problems(http, head)]
            found += await self._made_once(http)
        stays = {path: bodies for path, bodies in self._histories.items() if path.startswith("Encounter/")}
        return found + two_in_one_bed(lying for path, bodies in stays.items() for lying in lyings(path, bodies))

    async def shown(self, http: aiohttp.ClientSession, record: Accepted) -> list[Body]:
        """The resources at the EHR that are this entity: one, if all is well."""
        subject = self.builder.subject(record)
        return await self._matching(http, subject.resource.resource_type, subject.ident)

    async def _matching(self, http: aiohttp.ClientSession, kind: str, ident: Ident) -> list[Body]:
        async with http.post(f"{self.base_url}/{kind}/_search", data={"identifier": ident.token()}) as answer:
            bundle = await answer.json(content_type=None)
        return [entry["resource"] for entry in bundle.get("entry", [])]

    async def _entity_problems(self, http: aiohttp.ClientSession, head: Accepted) -> list[str]:
        shown = await self.shown(http, head)
        if len(shown) != 1:
            return [f"{len(shown)} resources"]
        path = f"{shown[0]['resourceType']}/{shown[0]['id']}"
        bodies = self._histories[path] = await history(http, self.base_url, path)
        versions = [version_of(body, self.builder.profile.role) for body in bodies]
        problems = history_problems(versions, self.edits.made.get(path, {}), head.revision)
        if not self.builder.agrees(head, self.builder.current_of(bodies[-1], None)):
            problems.append("what it shows in the end isn't the gate's state")
        strange = {version.revision for version in versions} - self.log.revisions_of(head)
        return problems + ([f"{len(strange)} revisions that the gate never made"] if strange else [])

    async def _made_once(self, http: aiohttp.ClientSession) -> list[str]:
        """What was made beside an entity, because the entity refers to it; and whom a stay is about."""
        problems = []
        for (kind, ident), wanted in self._beside().items():
            found = await self._matching(http, kind, ident)
            if len(found) > 1 or (wanted and not found):
                problems.append(f"{len(found)} resources for a {kind} that was referred to")
            if kind == "EpisodeOfCare":
                problems += [problem for body in found for problem in await self._untouched(http, body)]
        return problems

    async def _untouched(self, http: aiohttp.ClientSession, body: Body) -> list[str]:
        """Once made, an episode is the EHR's: every later version is the clinician's."""
        path = f"EpisodeOfCare/{body['id']}"
        edits = self.edits.made.get(path, {})
        bodies = await history(http, self.base_url, path)
        others = [each for each in bodies[1:] if edits.get(int(each["meta"]["versionId"])) != theirs(each, "replica")]
        return [f"an episode of care has {len(others)} versions that nobody made"] if others else []

    def _beside(self) -> dict[tuple[str, Ident], bool]:
        """By type and identifier, whether it must be there: what only an older state named may never have been written."""
        found: dict[tuple[str, Ident], bool] = {}
        for record in self.log.everything():
            naming = Naming(self.builder.profile, record.tenant, record.facility)
            is_head = record is self.log.head_of(record)
            for beside in _named_beside(record, naming):
                found[beside] = found.get(beside, False) or is_head
        return found


def _named_beside(record: Accepted, naming: Naming) -> Iterator[tuple[str, Ident]]:
    state = record.state
    if isinstance(state, Bed) and isinstance(state.place, Place):
        yield from (("Location", node.ident) for node in naming.chain(state.place))
    if isinstance(state, Encounter) and isinstance(state.episode, Reference):
        yield "EpisodeOfCare", naming.episode(state.episode)
    if isinstance(state, Encounter) and isinstance(state.patient, Reference):
        yield "Patient", naming.entity(EntityType.PATIENT, state.patient.namespace, state.patient.id)


def lyings(stay: str, bodies: list[Body]) -> Iterator[Lying]:
    """Where somebody lay, by the versions of the stay, the oldest first."""
    moments = [_moment(body) for body in bodies]
    for number, body in enumerate(bodies):
        until = moments[number + 1] if number + 1 < len(bodies) else None
        if body.get("status") in NOBODY_THERE:
            continue
        for element in elements(body, "location"):
            ident = element.get("location", {}).get("identifier", {})
            if element.get("status") == "active":
                yield Lying((ident.get("system", ""), ident.get("value", "")), stay, moments[number], until)


def two_in_one_bed(found: Iterable[Lying]) -> list[str]:
    """Each time that a stay came into a bed that another had not left."""
    by_bed: defaultdict[tuple[str, str], list[Lying]] = defaultdict(list)
    for lying in found:
        by_bed[lying.bed].append(lying)
    problems = []
    for lyings_there in by_bed.values():
        pairs = {
            (one.stay, other.stay)
            for one in lyings_there
            for other in lyings_there
            if one.stay < other.stay and _at_once(one, other) and _at_once(other, one)
        }
        problems += ["one bed: two stays in it at once"] * len(pairs)
    return problems


def _at_once(one: Lying, other: Lying) -> bool:
    return one.until is None or other.since < one.until


def _moment(body: Body) -> int:
    moment: Any = same_moment(body["meta"]["lastUpdated"])
    assert isinstance(moment, int)
    return moment


async def history(http: aiohttp.ClientSession, base_url: str, path: str) -> list[Body]:
    """Every version of a resource, the oldest first."""
    bodies = [body async for body in pages(http, f"{base_url}/{path}/_history?_count=500")]
    return sorted(bodies, key=lambda body: int(body["meta"]["versionId"]))
