"""Where data of a tenant may go: nothing is held back without rules, and with them nothing leaves that no rule lets go."""

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.records import Reason
from pipeline.domain.residency import Agreed, Borders, Place, Rule

EU: Final = Agreed(frozenset({"eu"}), frozenset({"treatment"}))
BORDERS: Final = Borders({"north": EU, "south": Agreed(frozenset({"us", "eu"}), frozenset({"treatment", "planning"}))})
NAMES: Final = st.sampled_from(("north", "south", "west"))


def test_without_rules_nothing_is_held_back() -> None:
    assert Borders({}).refuses("north", Place(None, None)) is None


def test_each_rule_is_named() -> None:
    assert BORDERS.refuses("north", Place("eu", "treatment")) is None
    assert BORDERS.refuses("north", Place("us", "treatment")) is Rule.REGION
    assert BORDERS.refuses("north", Place("eu", "planning")) is Rule.PURPOSE
    assert BORDERS.refuses("north", Place("eu", "treatment", ("south",))) is Rule.NOT_MEANT
    assert BORDERS.refuses("west", Place("eu", "treatment")) is Rule.NO_RULES
    assert BORDERS.refuses("north", Place(None, "treatment")) is Rule.REGION
    assert BORDERS.refuses("north", Place("eu", None)) is Rule.PURPOSE


def test_what_a_write_is_refused_with() -> None:
    assert {rule.reason for rule in Rule} == {Reason.RESIDENCY, Reason.NO_CONSENT}
    assert Rule.PURPOSE.reason is Reason.NO_CONSENT


def test_a_place_without_names_is_meant_for_all_that_have_rules() -> None:
    assert BORDERS.meant(Place("eu", "treatment")) == ("north", "south")
    assert BORDERS.meant(Place("eu", "treatment", ("south",))) == ("south",)


@given(NAMES, st.sampled_from(("eu", "us", None)), st.sampled_from(("treatment", "planning", None)), st.sets(NAMES))
def test_what_leaves_is_in_a_region_and_for_a_purpose_of_its_tenant(
    tenant: str, region: str | None, purpose: str | None, meant: set[str]
) -> None:
    if BORDERS.refuses(tenant, Place(region, purpose, tuple(meant))) is None:
        assert (tenant, region, purpose) in {
            ("north", "eu", "treatment"),
            *(("south", at, what) for at in ("eu", "us") for what in ("treatment", "planning")),
        }
        assert not meant or tenant in meant
