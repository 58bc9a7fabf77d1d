"""Nothing of a tenant is asked of or sent to a place where its data may not be: no request is made at all."""

import asyncio
import re
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from pipeline.destinations.fhir.survey import Unread
from pipeline.destinations.protocol import Absent, PendingWrite, Refused
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Reason
from pipeline.domain.residency import Agreed, Borders, Place
from pipeline.formats.fhir.naming import Ident
from pipeline.roles.writers import borders
from pipeline.roles.writers.borders import Bordered, BorderedEvery, BorderedSurvey
from pipeline.settings.model import Settings
from pipeline.settings.rules.evidence import problems_of_audit, problems_of_tenants, problems_of_webhook
from tests.support.changes import change

RULES: Final = Borders({"t": Agreed(frozenset({"eu"}), frozenset({"treatment"}))})
HOME: Final = Place("eu", "treatment")
ABROAD: Final = Place("us", "treatment")
PLANNING: Final = Place("eu", "planning")


class Asked:
    """A destination that notes each time it is touched."""

    name, role, delivery, window = "ehr", "replica", "latest", 1
    entity_types: frozenset[Any] = frozenset()

    def __init__(self) -> None:
        self.touched: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any) -> Any:
            self.touched.append(name)
            return Absent()

        async def later(*_: Any) -> Any:
            return call()

        return later if name in ("read", "send", "read_back", "close") else call


def write() -> PendingWrite:
    return PendingWrite(change(1), None, None, 1, Millis(0))


@pytest.mark.parametrize(("place", "reason"), [(ABROAD, Reason.RESIDENCY), (PLANNING, Reason.NO_CONSENT)])
def test_what_may_not_go_is_refused_with_the_rule_before_a_question_is_asked(place: Place, reason: Reason) -> None:
    inner: Any = Asked()
    bordered = Bordered(inner, RULES, place)
    assert asyncio.run(bordered.read(write())) == Refused(reason)
    assert bordered.build(write(), Absent()) == Refused(reason)
    assert BorderedEvery(inner, RULES, place).build(change(1)) == Refused(reason)
    assert inner.touched == []


def test_what_may_go_goes_and_another_tenant_s_does_not() -> None:
    inner: Any = Asked()
    bordered = Bordered(inner, RULES, HOME)
    assert asyncio.run(bordered.read(write())) == Absent()
    assert inner.touched == ["read"]
    stranger = msgspec.structs.replace(change(1), tenant="someone")
    assert asyncio.run(bordered.read(PendingWrite(stranger, None, None, 1, Millis(0)))) == Refused(Reason.RESIDENCY)
    assert inner.touched == ["read"]


def settings_with(writer: dict[str, Any], tenants: dict[str, Any]) -> Settings:
    base = {"profile": "sekmet-owner", "role": "owner", "data_dir": "x", "base_url": "https://ehr.example.org/fhir"}
    return Settings.model_validate({"writers": {"ehr": base | writer}, "tenants": tenants})


TENANTS: Final = {
    "north": {"regions": ["eu"], "purposes": ["treatment"]},
    "south": {"regions": ["us"], "purposes": ["treatment"]},
}


def test_a_destination_is_refused_at_start_for_each_tenant_whose_data_may_not_go_there() -> None:
    at = {"region": "eu", "purpose": "treatment"}
    assert list(problems_of_tenants(settings_with({}, {}))) == []
    assert {setting for setting, *_ in problems_of_tenants(settings_with({}, TENANTS))} == {
        "writers.ehr.region",
        "writers.ehr.purpose",
    }
    ((setting, wrong, _),) = problems_of_tenants(settings_with(at, TENANTS))
    assert setting == "writers.ehr.tenants"
    assert "south" in wrong
    assert "region" in wrong
    assert list(problems_of_tenants(settings_with(at | {"tenants": ["north"]}, TENANTS))) == []
    ((_, wrong, _),) = problems_of_tenants(settings_with(at | {"tenants": ["west"]}, TENANTS))
    assert "nothing says where" in wrong
    ((_, wrong, _),) = problems_of_tenants(settings_with(at | {"tenants": ["north"], "purpose": "planning"}, TENANTS))
    assert "purpose" in wrong
    ((_, wrong, _),) = problems_of_tenants(settings_with({"tenants": ["north"]}, {}))
    assert "none has rules" in wrong


class Surveyed:
    """A server that notes each question; it has one page."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def pages(self, *_: Any) -> Any:
        self.asked.append("pages")
        yield ({"id": "1"},)

    async def find(self, *_: Any) -> list[Any]:
        self.asked.append("find")
        return []

    async def read(self, *_: Any) -> None:
        self.asked.append("read")


def questions(rules: Borders, place: Place, tenant: str) -> tuple[list[Any], list[str]]:
    """What a comparison of a bed is told, and what was asked for it."""

    async def ask() -> list[Any]:
        pages = [page async for page in survey.pages(EntityType.BED, None)]
        found = await survey.find(EntityType.BED, [Ident("urn:beds", "MAIN/ICU/12/A")], tenant)
        return [*pages, found, await survey.read(EntityType.BED, "1", {tenant})]

    inner: Any = Surveyed()
    survey = BorderedSurvey(inner, rules, place)
    return asyncio.run(ask()), inner.asked


@pytest.mark.parametrize(("place", "reason"), [(ABROAD, Reason.RESIDENCY), (PLANNING, Reason.NO_CONSENT)])
def test_a_comparison_asks_nothing_where_a_tenant_s_data_may_not_be(place: Place, reason: Reason) -> None:
    assert questions(RULES, place, "t") == ([Unread(reason)] * 3, [])


def test_a_comparison_asks_for_those_whose_data_may_be_there_and_for_nobody_else() -> None:
    whole = [({"id": "1"},), [], None]
    assert questions(RULES, HOME, "t") == (whole, ["pages", "find", "read"])
    assert questions(Borders({}), Place(None, None), "anyone") == (whole, ["pages", "find", "read"])
    told, asked = questions(RULES, HOME, "someone")
    assert (told[1:], asked) == ([Unread(Reason.RESIDENCY)] * 2, ["pages"])


def test_a_resource_that_may_be_of_several_is_asked_for_where_one_of_them_may() -> None:
    inner: Any = Surveyed()
    survey = BorderedSurvey(inner, RULES, HOME)
    assert asyncio.run(survey.read(EntityType.BED, "1", {"t", "someone"})) is None
    assert inner.asked == ["read"]


def test_a_receiver_of_files_is_refused_where_its_tenant_s_data_may_not_go() -> None:
    receiver = {"folder": "out", "facilities": ["MAIN"], "sends": ["capacity"], "key_id": "k", "key_file": "k.key"}

    def found(more: dict[str, Any]) -> list[str]:
        document = {"files_out": {"receivers": {"region-co": receiver | {"tenant": "north"} | more}}, "tenants": TENANTS}
        return [wrong for _, wrong, _ in problems_of_tenants(Settings.model_validate(document))]

    assert found({"region": "eu", "purpose": "treatment"}) == []
    assert "region" in found({"region": "us", "purpose": "treatment"})[0]
    assert "purpose" in found({"region": "eu", "purpose": "planning"})[0]
    assert "region" in found({})[0]
    assert "nothing says where" in found({"tenant": "west", "region": "eu", "purpose": "treatment"})[0]


def test_an_auditor_needs_a_key_that_others_can_verify(tmp_path: Any) -> None:
    assert [setting for setting, *_ in problems_of_audit(Settings(), "auditor")] == ["audit.key_file"]
    assert list(problems_of_audit(Settings(), "gate")) == []
    assert list(problems_of_audit(Settings(demo=True), "auditor")) == []
    wrong = tmp_path / "audit.key"
    wrong.write_text("no key")
    settings = Settings.model_validate({"audit": {"key_file": str(wrong)}})
    assert {setting for setting, *_ in problems_of_audit(settings, "auditor")} == {"audit.key_file", "audit.keys"}


def test_a_webhook_s_key_is_long_and_its_address_is_private(tmp_path: Any) -> None:
    key = tmp_path / "hook.key"
    key.write_text("short")
    settings = Settings.model_validate({"budgets": {"webhook": {"url": "http://pager.example.org/hook", "key_file": str(key)}}})
    assert [setting for setting, *_ in problems_of_webhook(settings)] == ["budgets.webhook.url", "budgets.webhook.key_file"]


def test_whoever_makes_a_destination_puts_it_behind_the_borders() -> None:
    """Both kinds of writer, the books that look at what an EHR shows, and the comparison that reads all of it."""
    makes = re.compile(r"(?<!def )\b(?:destination_of|receiver_of|Survey)\(")
    guards = re.compile(r"\bBordered(?:Every|Survey)?\(")
    roles = Path(borders.__file__).parents[1]
    found = {str(file.relative_to(roles)): file.read_text() for file in roles.rglob("*.py")}
    makers = {name for name, text in found.items() if makes.search(text)}
    assert {"accounts/books.py", "reconcile/role.py", "writers/every.py", "writers/writer.py"} <= makers
    assert [name for name in sorted(makers) if not guards.search(found[name])] == []
