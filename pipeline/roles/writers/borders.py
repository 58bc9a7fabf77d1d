"""Nothing of a tenant leaves for a place where its data may not be: refused before a request is made, questions included."""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Final

from pipeline.destinations.fhir.survey import Survey, Unread
from pipeline.destinations.protocol import (
    Absent,
    Ambiguous,
    Confirmed,
    Current,
    Destination,
    EveryDestination,
    Outcome,
    PendingWrite,
    ReadBack,
    Refused,
    Request,
    Retry,
    Suppressed,
    always,
)
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted, Reason
from pipeline.domain.residency import Borders, Place
from pipeline.formats.fhir.naming import Ident
from pipeline.formats.fhir.owned import Body
from pipeline.formats.hl7v2.out_messages import Letter


class Bordered:
    """A destination that is never asked about, nor told of, what may not go there."""

    def __init__(self, destination: Destination, borders: Borders, place: Place) -> None:
        self._destination: Final = destination
        self._borders, self._place = borders, place
        self.name = destination.name
        self.role = destination.role
        self.delivery = destination.delivery

    def expects(self, accepted: Accepted) -> bool:
        """See `Destination`: what is refused is due, and shown as parked with the rule."""
        return self._destination.expects(accepted)

    async def read(self, write: PendingWrite) -> Current | Absent | Refused | Retry:
        """See `Destination`: a question by identifier tells of a patient, too."""
        refused = self._refused(write.accepted)
        return refused if refused is not None else await self._destination.read(write)

    def build(self, write: PendingWrite, current: Current | Absent) -> Request | Suppressed | Refused:
        """See `Destination`."""
        return self._refused(write.accepted) or self._destination.build(write, current)

    def differences(self, write: PendingWrite, current: Current | Absent) -> tuple[str, ...]:
        """See `Destination`."""
        return self._destination.differences(write, current)

    async def send(self, request: Request) -> Outcome:
        """See `Destination`."""
        return self._refused(request.write.accepted) or await self._destination.send(request)

    async def read_back(self, request: Request) -> ReadBack:
        """See `Destination`."""
        return await self._destination.read_back(request)

    async def close(self) -> None:
        """See `Destination`."""
        await self._destination.close()

    def _refused(self, accepted: Accepted) -> Refused | None:
        rule = self._borders.refuses(accepted.tenant, self._place)
        return Refused(rule.reason) if rule is not None else None


class BorderedEvery:
    """The same for a destination that is told of each change."""

    def __init__(self, destination: EveryDestination, borders: Borders, place: Place) -> None:
        self._destination: Final = destination
        self._borders, self._place = borders, place
        self.name = destination.name
        self.role = destination.role
        self.delivery = destination.delivery
        self.window = destination.window

    @property
    def entity_types(self) -> frozenset[EntityType]:
        """See `EveryDestination`."""
        return self._destination.entity_types

    def expects(self, accepted: Accepted) -> bool:
        """See `EveryDestination`: what is refused is due, and shown as parked with the rule."""
        return self._destination.expects(accepted)

    def build(self, accepted: Accepted) -> Letter | Refused:
        """See `EveryDestination`."""
        rule = self._borders.refuses(accepted.tenant, self._place)
        return Refused(rule.reason) if rule is not None else self._destination.build(accepted)

    async def send(self, letter: Letter, may_go: Callable[[], bool] = always) -> Confirmed | Refused | Retry | Ambiguous:
        """See `EveryDestination`; a letter is only built of what may go."""
        return await self._destination.send(letter, may_go)

    def cut(self) -> None:
        """See `EveryDestination`."""
        self._destination.cut()

    async def close(self) -> None:
        """See `EveryDestination`."""
        await self._destination.close()


class BorderedSurvey:
    """A server that is never asked about what may not be there. What is refused is unread, with the rule's reason."""

    def __init__(self, survey: Survey, borders: Borders, place: Place) -> None:
        self._survey: Final = survey
        self._borders, self._place = borders, place

    async def pages(self, entity_type: EntityType, since: Millis | None) -> AsyncIterator[tuple[Body, ...] | Unread]:
        """See `Survey`: where nobody's data may be there, nothing of ours is there to be read."""
        reason = self._refused(self._borders.meant(self._place)) if self._borders.are_drawn else None
        if reason is not None:
            yield Unread(reason)
            return
        async for page in self._survey.pages(entity_type, since):
            yield page

    async def find(self, entity_type: EntityType, idents: Sequence[Ident], tenant: str) -> list[Body] | Unread:
        """See `Survey`: the identifiers of one tenant's entities tell of its patients."""
        reason = self._refused((tenant,))
        return Unread(reason) if reason is not None else await self._survey.find(entity_type, idents)

    async def read(self, entity_type: EntityType, remote_id: str, tenants: Collection[str]) -> Body | Unread | None:
        """See `Survey`; `tenants`: all those of whom the resource may be."""
        reason = self._refused(tenants)
        return Unread(reason) if reason is not None else await self._survey.read(entity_type, remote_id)

    @property
    def read_by(self) -> str:
        """See `Survey`."""
        return self._survey.read_by

    @property
    def export_refused(self) -> Reason | None:
        """See `Survey`."""
        return self._survey.export_refused

    async def close(self) -> None:
        """See `Survey`."""
        await self._survey.close()

    def _refused(self, tenants: Collection[str]) -> Reason | None:
        """Why a question about these may not be asked; None where one of them may."""
        rules = [self._borders.refuses(tenant, self._place) for tenant in sorted(tenants)]
        return rules[0].reason if rules and rules[0] is not None and None not in rules else None
