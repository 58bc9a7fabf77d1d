"""What the report counts: of each entity its newest comparison, until it is written or given up."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.records import Outcome, OutcomeKind, Reason, Would
from pipeline.domain.writing.shadow_report import ShadowReport, ShadowTally
from tests.support.changes import change, outcome


def compared(offset: int, bed: str = "A", would: Would | None = Would.UPDATE, *fields: str, **more: object) -> Outcome:
    """A comparison."""
    made = outcome(change(offset, bed), OutcomeKind.SHADOWED, reason=Reason.SHADOW)
    return msgspec.structs.replace(made, would=would, fields=fields, **more)


def report(*outcomes: Outcome) -> ShadowReport:
    tally = ShadowTally()
    for each in outcomes:
        tally.outcome(each)
    return tally.report()


def test_fields_are_counted_once_for_each_entity_by_its_newest_comparison() -> None:
    found = report(
        compared(1, "A", Would.CREATE, "environment", "staffed"),
        compared(2, "A", Would.UPDATE, "environment"),
        compared(3, "B", Would.CREATE, "environment", "surge"),
        compared(4, "C", Would.MARK),
        compared(5, "D", Would.HOLD, reason=Reason.RESERVATION_UNTELLABLE),
        compared(6, "E", None, reason=Reason.TIMEOUT),
    )
    [row] = found.rows
    assert (found.entities, row.entities, row.create, row.update, row.mark) == (5, 5, 1, 1, 1)
    assert (row.held, row.untold) == ({"RESERVATION_UNTELLABLE": 1}, {"TIMEOUT": 1})
    assert row.fields == {"environment": 2, "surge": 1}
    assert row.comparisons == 6


def test_what_was_written_or_given_up_since_is_no_longer_in_it() -> None:
    for kind in (OutcomeKind.CONFIRMED, OutcomeKind.PARKED):
        found = report(compared(1), outcome(change(2), kind))
        assert (found.entities, found.rows[0].comparisons, found.rows[0].newest_at) == (0, 1, None)


def test_a_failed_attempt_changes_nothing_and_a_comparison_of_what_was_written_already_counts_for_no_entity() -> None:
    assert report(compared(1), outcome(change(1), OutcomeKind.FAILED)).entities == 1
    assert report(outcome(change(2), OutcomeKind.CONFIRMED), compared(1)).entities == 0


def test_no_entity_and_no_value_is_in_it() -> None:
    told = msgspec.json.encode(report(compared(1, "Ward 7 Bed 3", Would.UPDATE, "environment"))).decode()
    assert "Ward" not in told
    assert "DIRTY" not in told


STEPS = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from("AB"), st.sampled_from(tuple(OutcomeKind)), st.sampled_from(tuple(Would))),
    max_size=25,
)


@given(STEPS)
def test_the_ways_add_up_and_repeats_change_no_entity(steps: list[tuple[int, str, OutcomeKind, Would]]) -> None:
    outcomes = [
        compared(offset, bed, would, "environment") if kind is OutcomeKind.SHADOWED else outcome(change(offset, bed), kind)
        for offset, bed, kind, would in steps
    ]
    once = report(*outcomes)
    for row in once.rows:
        assert row.create + row.update + row.mark + sum(row.held.values()) + sum(row.untold.values()) == row.entities
        assert sum(row.fields.values()) == row.entities
    last = [each for each in outcomes for _ in range(2)]
    assert report(*last).entities == once.entities
