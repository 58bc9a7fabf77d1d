"""Which of two statements about a field is the newer."""

from pipeline.domain.event import Event, SequenceBasis
from pipeline.domain.head import Clock
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Reason


def clock_of(event: Event, rank: int, known: Clock | None) -> Clock:
    """Clock of what an event states of a field that has been known by `known`."""
    recorded = Millis(min(event.recorded_at, event.received_at))
    sequence = event.sequence if event.sequence_basis is SequenceBasis.SOURCE else None
    return Clock(event.source_system, event.feed, rank, recorded, sequence, known.floor if known is not None else Millis(0))


def older(new: Clock, known: Clock | None) -> Reason | None:
    """Why a statement is older than what is known of its field; None if it is newer.

    Within one source and feed a trusted sequence decides, unless it fell while the time rose (the source started anew), or
    the statement was recorded before the source last started anew.
    Otherwise the recorded time decides. At equal times the role that ranks higher wins, and of equals the one that
    arrived later: a source's statements of one second are in the order in which it sent them.
    """
    if known is None:
        return None
    same_feed = new.source == known.source and new.feed == known.feed
    one_count = same_feed and new.recorded >= known.floor and not is_reset(new, known)
    if one_count and new.sequence is not None and known.sequence is not None:
        return Reason.OLDER_SEQUENCE if new.sequence < known.sequence else None
    if new.recorded != known.recorded:
        return Reason.OLDER_TIME if new.recorded < known.recorded else None
    return Reason.LOWER_PRECEDENCE if new.rank > known.rank else None


def is_reset(new: Clock, known: Clock | None) -> bool:
    """Whether the source's sequence fell while its time rose: it counts anew from here."""
    return (
        known is not None
        and new.source == known.source
        and new.feed == known.feed
        and new.sequence is not None
        and known.sequence is not None
        and new.sequence < known.sequence
        and new.recorded > known.recorded
    )
