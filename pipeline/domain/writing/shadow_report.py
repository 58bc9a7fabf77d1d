"""What the writes that were only compared would have changed, now: counted by destination, entity type and field.

Of each entity its newest outcome counts. What was written or given up in the meantime is no longer in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import NO_REVISION, Millis, Revision
from pipeline.domain.records import Outcome, OutcomeKind, Reason, Would


class ShadowCounts(msgspec.Struct, frozen=True):
    """Entities of one type at one destination whose newest state was only compared.

    `create`, `update`, `mark` (no field, only the revision), `held` by reason and `untold` by reason add up to `entities`;
    `fields` says for how many a field would have changed. `comparisons` counts all that were ever made.
    """

    destination: str
    entity_type: EntityType
    entities: int
    create: int
    update: int
    mark: int
    held: dict[str, int]
    untold: dict[str, int]
    fields: dict[str, int]
    comparisons: int
    oldest_at: Millis | None
    newest_at: Millis | None


class ShadowReport(msgspec.Struct, frozen=True):
    """All of it; `entities` is what a flip to full everywhere would make due."""

    entities: int
    rows: tuple[ShadowCounts, ...]


@dataclass(frozen=True, slots=True)
class _Compared:
    would: Would | None
    fields: tuple[str, ...]
    reason: Reason
    at: Millis


@dataclass(slots=True)
class _Entities:
    """Of one type at one destination."""

    compared: dict[bytes, tuple[Revision, _Compared]] = field(default_factory=dict)
    ended: dict[bytes, Revision] = field(default_factory=dict)
    comparisons: int = 0


class ShadowTally:
    """Takes outcomes in, each partition in its order. Memory: some hundred bytes an entity."""

    def __init__(self) -> None:
        self._by: dict[tuple[str, EntityType], _Entities] = {}

    def outcome(self, outcome: Outcome) -> None:
        """A record of `outcomes`; a repeated one changes no entity."""
        of = self._by.setdefault((outcome.destination, outcome.entity_type), _Entities())
        key = outcome.key.encode()
        known = of.compared.get(key)
        match outcome.kind:
            case OutcomeKind.SHADOWED:
                of.comparisons += 1
                if outcome.revision > of.ended.get(key, NO_REVISION) and (known is None or outcome.revision >= known[0]):
                    compared = _Compared(outcome.would, outcome.fields, outcome.reason, Millis(outcome.at))
                    of.compared[key] = outcome.revision, compared
            case OutcomeKind.CONFIRMED | OutcomeKind.PARKED:
                of.ended[key] = max(outcome.revision, of.ended.get(key, NO_REVISION))
                if known is not None and known[0] <= outcome.revision:
                    del of.compared[key]
            case OutcomeKind.FAILED:
                return

    def report(self) -> ShadowReport:
        """What stands now."""
        rows = tuple(
            _counts(destination, entity_type, [compared for _, compared in of.compared.values()], of.comparisons)
            for (destination, entity_type), of in sorted(self._by.items())
            if of.comparisons
        )
        return ShadowReport(sum(row.entities for row in rows), rows)


def _counts(destination: str, entity_type: EntityType, all_of: list[_Compared], comparisons: int) -> ShadowCounts:
    def count(would: Would) -> int:
        return sum(compared.would is would for compared in all_of)

    times = [compared.at for compared in all_of]
    return ShadowCounts(
        destination=destination,
        entity_type=entity_type,
        entities=len(all_of),
        create=count(Would.CREATE),
        update=count(Would.UPDATE),
        mark=count(Would.MARK),
        held=_tally(compared.reason.value for compared in all_of if compared.would is Would.HOLD),
        untold=_tally(compared.reason.value for compared in all_of if compared.would is None),
        fields=_tally(name for compared in all_of for name in compared.fields),
        comparisons=comparisons,
        oldest_at=min(times, default=None),
        newest_at=max(times, default=None),
    )


def _tally(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))
