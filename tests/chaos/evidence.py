"""What the broker and the EHRs hold after a run, read from outside as an auditor would."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import EntityKey
from pipeline.domain.records import Accepted, Decision
from pipeline.ops.audit import Verified, read_entries, verify_all
from pipeline.ops.topics import KafkaTopics, decoded
from pipeline.roles.process import codec_of
from pipeline.roles.writers.destinations import destination_of
from pipeline.settings.model import Settings
from pipeline.topology import ACCEPTED, DECISIONS
from tests.chaos.checks import Version, history_problems, version_of
from tests.chaos.clinician import PAGE, TYPES, EditLog, pages, search, session
from tests.chaos.load import Path

AT_ONCE: Final = 8
NAMED: Final = 20


@dataclass(slots=True)
class History:
    """The gate's own record: verdicts by event id, counts, and each entity's last accepted state."""

    verdicts: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    counts: Counter[str] = field(default_factory=Counter)
    last: dict[EntityKey, Accepted] = field(default_factory=dict)

    def shown(self, paths: Iterable[Path]) -> dict[Path, Any]:
        """What the heads say at these paths."""
        by_name = {(accepted.entity_type, accepted.entity_id): accepted.state for accepted in self.last.values()}
        return {path: getattr(by_name[path[:2]], path[2]) for path in paths if path[:2] in by_name}


@dataclass(slots=True)
class Seen:
    """What one EHR's histories show."""

    resources: int = 0
    versions: int = 0
    ours: int = 0
    edits: int = 0
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, problems: Iterable[str]) -> None:
        """Count all, name the first."""
        for problem in problems:
            self.problem_count += 1
            if len(self.problems) < NAMED:
                self.problems.append(problem)


def read_history(settings: Settings) -> History:
    """`events.accepted` and `decisions` from their beginning. A repeat of a position counts once."""
    topics, codec, history = KafkaTopics(settings.kafka), codec_of(settings), History()
    positions: set[tuple[str, int, int]] = set()
    for topic in (ACCEPTED, DECISIONS):
        for message in topics.read(topic, topics.begin(topic), topics.end(topic)):
            match decoded(codec, message):
                case Accepted() as accepted:
                    position, kind = (f"landing.{accepted.entity_type.value}", accepted.partition, accepted.offset), "ACCEPTED"
                    history.verdicts[accepted.event_id].add(kind)
                    key = EntityKey(accepted.tenant, accepted.entity_type.value, accepted.namespace, accepted.entity_id)
                    known = history.last.get(key)
                    if known is None or accepted.revision > known.revision:
                        history.last[key] = accepted
                case Decision() as decision:
                    position, kind = (decision.topic, decision.partition, decision.offset), decision.kind.value
                    if decision.event_id is not None:
                        history.verdicts[decision.event_id].add(kind)
                case _:
                    continue
            if position not in positions:
                positions.add(position)
                history.counts[kind] += 1
    return history


def read_chains(settings: Settings) -> Verified:
    """Every audit chain, verified."""
    return verify_all(read_entries(KafkaTopics(settings.kafka), codec_of(settings)))


class EhrReader:
    """Reads one EHR itself, past any proxy, and judges each resource's history."""

    def __init__(self, settings: Settings, name: str, base_url: str, edits: EditLog) -> None:
        section = settings.writers[name]
        self._role = section.role
        self._base_url = base_url
        self._edits = edits.made
        self._builder = destination_of(name, section, settings.digest_key()).builder

    async def look(self, heads: Iterable[Accepted]) -> Seen:
        """Every resource's whole history against the heads."""
        expected = self._expected(heads)
        seen, met = Seen(), Counter[tuple[str, str, str]]()
        free = asyncio.Semaphore(AT_ONCE)
        async with session() as http:

            async def one(kind: str, remote_id: str) -> None:
                async with free:
                    url = f"{self._base_url}/{kind}/{remote_id}/_history?_count={PAGE}"
                    bodies = [body async for body in pages(http, url)]
                newest = max(bodies, key=lambda body: int(body["meta"]["versionId"]))
                named = [(kind, i.get("system", ""), i.get("value", "")) for i in newest.get("identifier", [])]
                names = [name for name in named if name in expected]
                met.update(names)
                path = f"{kind}/{remote_id}"
                head = expected[names[0]] if names else None
                self._judge(seen, path, [version_of(body, self._role) for body in bodies], head)
                if head is not None and not self._builder.agrees(head, self._builder.current_of(newest, None)):
                    seen.add([f"{path}: its content is not what the head says"])

            for kind in TYPES[self._role]:
                ids = [body["id"] async for body in search(http, self._base_url, kind)]
                await asyncio.gather(*(one(kind, remote_id) for remote_id in ids))
        twice = sum(count > 1 for count in met.values())
        absent = len(expected.keys() - met.keys())
        seen.add([f"{twice} entities have several resources"] if twice else [])
        seen.add([f"{absent} entities have no resource"] if absent else [])
        return seen

    def _judge(self, seen: Seen, path: str, versions: list[Version], head: Accepted | None) -> None:
        edits = self._edits.get(path, {})
        if head is None:
            if any(version.revision is not None for version in versions):
                seen.add([f"{path}: carries a revision of ours and is no entity that was accepted"])
            return
        seen.resources += 1
        seen.versions += len(versions)
        seen.edits += len(edits)
        seen.ours += len(versions) - len(edits)
        seen.add(f"{path}: {problem}" for problem in history_problems(versions, edits, head.revision))

    def _expected(self, heads: Iterable[Accepted]) -> dict[tuple[str, str, str], Accepted]:
        expected = {}
        for accepted in heads:
            if self._builder.maps(EntityType(accepted.entity_type)):
                subject = self._builder.subject(accepted)
                expected[subject.resource.resource_type, subject.ident.system, subject.ident.value] = accepted
        return expected
