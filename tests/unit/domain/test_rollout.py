"""How far writes go: a rule lets through what is on all of its lists, and a file that can't be meant is no rule."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.event import (
    Bed,
    BedOccupancy,
    Diversion,
    DiversionState,
    DiversionStatus,
    Encounter,
    EncounterStatus,
    EntityType,
    Environment,
    Occupancy,
    Patient,
    Payload,
    Place,
    Procedure,
    ProcedureStatus,
    Staffing,
    StageState,
    Transfer,
    TransferStage,
)
from pipeline.domain.records import Accepted
from pipeline.domain.writing.rollout import (
    FULL,
    SHADOW,
    STATUSES,
    BadRule,
    Reach,
    Rule,
    Scope,
    about,
    asked_in,
    flag_names,
    flips,
    rule_from,
    status_of,
    where_of,
)
from tests.support.changes import change

ICU = Place(point_of_care="ICU")
FACILITIES, UNITS, CODES = ("F", "G"), ("F/ICU", "F/ED", "G/ICU"), ("O", "U", "H")


def of(state: Payload, facility: str = "F") -> Accepted:
    """An accepted state of an entity."""
    entity_type = EntityType(str(state.__struct_config__.tag))
    return msgspec.structs.replace(change(3), state=state, facility=facility, entity_type=entity_type)


OCCUPIED = of(Bed(occupancy=BedOccupancy(Occupancy.OCCUPIED), place=ICU))


@pytest.mark.parametrize(
    ("state", "status", "unit"),
    [
        (Bed(environment=Environment.DIRTY, place=ICU), "H", "ICU"),
        (Bed(occupancy=BedOccupancy(Occupancy.OCCUPIED)), "O", None),
        (Bed(), None, None),
        (Encounter(status=EncounterStatus.IN_PROGRESS, location=ICU), EncounterStatus.IN_PROGRESS.value, "ICU"),
        (Encounter(status=None, location=None), None, None),
        (Transfer(stage=StageState(TransferStage.ARRIVED), destination=ICU), TransferStage.ARRIVED.value, "ICU"),
        (Transfer(), None, None),
        (Procedure(status=ProcedureStatus.BOOKED, place=ICU), ProcedureStatus.BOOKED.value, "ICU"),
        (Diversion(state=DiversionState(DiversionStatus.ADVISORY)), DiversionStatus.ADVISORY.value, None),
        (Staffing(unit="ICU"), None, "ICU"),
        (Patient(), None, None),
    ],
)
def test_status_and_unit_of_each_resource(state: Payload, status: str | None, unit: str | None) -> None:
    assert status_of(of(state)) == status
    assert where_of(of(state)) == ("F", unit)
    if status is not None:
        assert status in STATUSES[of(state).entity_type]


def test_the_facility_of_the_place_counts_before_the_events_own() -> None:
    assert where_of(of(Bed(place=Place(facility="G", point_of_care="ICU")))) == ("G", "ICU")


@pytest.mark.parametrize(
    ("lists", "allowed"),
    [
        ({"facilities": ["F"]}, True),
        ({"facilities": ["G"]}, False),
        ({"units": ["F/ICU"]}, True),
        ({"units": ["G/ICU"]}, False),
        ({"statuses": ["O"]}, True),
        ({"statuses": ["U", "H"]}, False),
        ({"facilities": ["F"], "units": ["F/ICU"], "statuses": ["O"]}, True),
        ({"facilities": ["F"], "statuses": ["U"]}, False),
        ({"facilities": ["F"], "units": ["F/ED"]}, False),
    ],
)
def test_limited_lets_through_what_is_on_every_list(lists: dict[str, list[str]], allowed: bool) -> None:
    assert rule_from({"mode": "limited", **lists}, EntityType.BED).allows(OCCUPIED) is allowed


def test_what_says_nothing_of_a_list_is_not_on_it() -> None:
    bed = of(Bed())
    assert not rule_from({"mode": "limited", "units": ["F/ICU"]}, EntityType.BED).allows(bed)
    assert not rule_from({"mode": "limited", "statuses": ["U"]}, EntityType.BED).allows(bed)


@given(
    st.frozensets(st.sampled_from(FACILITIES)),
    st.frozensets(st.sampled_from(UNITS)),
    st.frozensets(st.sampled_from(CODES)),
    st.sampled_from(FACILITIES),
    st.sampled_from((None, "ICU", "ED")),
    st.sampled_from((Bed(), Bed(environment=Environment.DIRTY), Bed(occupancy=BedOccupancy(Occupancy.OCCUPIED)))),
)
def test_limited_never_lets_through_more_than_full_nor_less_than_shadow_and_a_longer_list_no_less(
    facilities: frozenset[str], units: frozenset[str], statuses: frozenset[str], facility: str, unit: str | None, bed: Bed
) -> None:
    accepted = of(msgspec.structs.replace(bed, place=Place(point_of_care=unit)), facility)
    assert FULL.allows(accepted)
    assert not SHADOW.allows(accepted)
    rule = Rule(Reach.LIMITED, facilities, units, statuses)
    if not rule.allows(accepted):
        return
    for more in (
        Rule(Reach.LIMITED, facilities and facilities | {"other"}, units, statuses),
        Rule(Reach.LIMITED, facilities, units and units | {"F/other"}, statuses),
        Rule(Reach.LIMITED, frozenset(), units, statuses),
    ):
        assert more.allows(accepted)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "mode"),
        ("full", "mode"),
        ({}, "mode"),
        ({"mode": "Full"}, "mode"),
        ({"mode": "full", "facilities": ["F"]}, "takes no lists"),
        ({"mode": "shadow", "statuses": ["O"]}, "takes no lists"),
        ({"mode": "limited"}, "would be full"),
        ({"mode": "limited", "facilities": []}, "would be full"),
        ({"mode": "limited", "units": ["ICU"]}, "FACILITY/UNIT"),
        ({"mode": "limited", "units": ["/ICU"]}, "FACILITY/UNIT"),
        ({"mode": "limited", "statuses": ["occupied"]}, "known here are"),
        ({"mode": "limited", "facilities": [False]}, "facilities"),
        ({"mode": "limited", "facility": ["F"]}, "mode"),
        ({"mode": "limited", "facilities": "F"}, "facilities"),
    ],
)
def test_what_can_not_be_meant_is_refused_without_repeating_it(value: object, told: str) -> None:
    with pytest.raises(BadRule) as refused:
        rule_from(value, EntityType.BED)
    assert told in str(refused.value)
    assert "occupied" not in str(refused.value)
    assert "Full" not in str(refused.value)


def test_a_rule_for_every_type_may_list_any_types_status() -> None:
    statuses = ["O", EncounterStatus.PLANNED.value]
    assert rule_from({"mode": "limited", "statuses": statuses}, None).allows(OCCUPIED)
    with pytest.raises(BadRule):
        rule_from({"mode": "limited", "statuses": statuses}, EntityType.BED)
    with pytest.raises(BadRule, match="none"):
        rule_from({"mode": "limited", "statuses": ["O"]}, EntityType.PATIENT)


def test_a_flip_is_named_by_scope_from_and_to_and_what_is_unsaid_was_shadow() -> None:
    bed, stay = Scope("acme", EntityType.BED), Scope("acme", EntityType.ENCOUNTER)
    limited = Rule(Reach.LIMITED, frozenset({"G", "F"}))
    found = list(flips({bed: SHADOW, stay: FULL}, {bed: limited, stay: FULL}))
    assert [(flip.scope, flip.before.shown, flip.after.shown) for flip in found] == [(bed, "shadow", "limited facilities=F,G")]
    assert [flip.after for flip in flips({}, {bed: FULL, stay: SHADOW})] == [FULL]
    assert [flip.after for flip in flips({bed: FULL}, {})] == [SHADOW]


def test_flags_are_named_by_destination_and_type_the_closer_one_first() -> None:
    assert flag_names("ehr", EntityType.BED) == ("rollout.ehr.bed", "rollout.ehr")
    assert about("rollout.ehr", ["ehr"]) == ("ehr", None)
    assert about("rollout.ehr.bed", ["ehr"]) == ("ehr", EntityType.BED)
    assert about("rollout.a.b.bed", ["a", "a.b"]) == ("a.b", EntityType.BED)
    for stranger in ("rollout.other", "rollout.ehr.beds", "rollout.ehr.bed.icu", "rollout.", "rollout.ehr."):
        assert about(stranger, ["ehr"]) is None


def test_everything_that_targeting_asks_for_is_found() -> None:
    rule = {"if": [{"and": [{"==": [{"var": "tenant"}, "a"]}, {"in": [{"var": ["unit", "x"]}, ["ICU"]]}]}, "full", None]}
    assert asked_in(rule) == {"tenant", "unit"}
    assert asked_in({"var": {"cat": ["ten", "ant"]}}) == {"*"}
    assert asked_in({"missing": ["facility"]}) == {"*"}
    assert asked_in(None) == frozenset()
