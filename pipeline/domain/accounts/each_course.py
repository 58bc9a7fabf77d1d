"""The books of a destination that is told of each change: there none is closed by a later one."""

from pipeline.domain.accounts.deliveries import Course, End, Fate


class EachCourse(Course):
    """All outcomes of one entity at such a destination. Changes go in order, so that one without an end of its own is
    unaccounted once a later one has one."""

    def fate(self, revision: int) -> tuple[Fate, End | None]:
        """Where `revision` is booked, and the outcome of its own that says so."""
        if (end := self.confirmations.at(revision)) is not None:
            return Fate.CONFIRMED, end
        if (end := self._shadowed.get(revision)) is not None:
            return Fate.SHADOWED, end
        if (end := self._parked.get(revision)) is not None:
            return Fate.PARKED, end
        return (Fate.UNACCOUNTED if any(later > revision for later in self.revisions) else Fate.OPEN), None
