"""What a server shows is read by pages, and what it doesn't say is never taken for absence."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import parse_qs, urlsplit

import pytest

from pipeline.destinations.fhir.build import Builder
from pipeline.destinations.fhir.profile import load_profile
from pipeline.destinations.fhir.survey import TRIES, Survey, Unread
from pipeline.destinations.fhir_http import Answer, Exchange, FhirHttp, NoAnswer, NotSent
from pipeline.domain.event import EntityType
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Reason
from pipeline.formats.fhir.naming import Ident

BASE: Final = "https://ehr.example.org/fhir"
BEDS: Final = [{"resourceType": "Location", "id": f"{number}"} for number in range(25)]
SEARCH_OF_NAMES: Final = "Location/_search"
Call = tuple[str, str, Mapping[str, str] | None]


class Http:
    """Answers in turn, and notes what it was asked."""

    def __init__(self, *answers: Exchange) -> None:
        self.base_url = BASE
        self.calls: list[Call] = []
        self.headers: list[dict[str, str]] = []
        self._answers = list(answers)

    async def exchange(
        self, method: str, target: str, headers: tuple[tuple[str, str], ...], body: Mapping[str, str] | None, timeout_s: float
    ) -> Exchange:
        self.calls.append((method, target, body))
        self.headers.append(dict(headers))
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def survey(http: Http, pauses: list[float] | None = None) -> Survey:
    async def pause(wait_s: float) -> None:
        if pauses is not None:
            pauses.append(wait_s)

    builder = Builder(load_profile("sekmet-replica"), b"a key for tests, of 32 bytes....")
    return Survey(cast(FhirHttp, http), builder, 10, 2, 5.0, pause)


def answer(status: int, body: dict[str, Any] | None = None, retry_after_s: float = 0.0) -> Answer:
    return Answer(status, None, None, retry_after_s, body)


def page(resources: list[dict[str, Any]], following: str | None = None, total: int | None = None) -> Answer:
    body: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": each} for each in resources]}
    body |= {"link": [{"relation": "next", "url": following}]} if following else {}
    return answer(200, body | ({"total": total} if total is not None else {}))


def read(http: Http, since: Millis | None = None, pauses: list[float] | None = None) -> list[tuple[Any, ...] | Unread]:
    async def every() -> list[tuple[Any, ...] | Unread]:
        return [each async for each in survey(http, pauses).pages(EntityType.BED, since)]

    return asyncio.run(every())


def test_pages_are_followed_by_their_links_to_the_last() -> None:
    http = Http(page(BEDS[:10], f"{BASE}?page=2", 25), page(BEDS[10:20], "http://inside/fhir?page=3"), page(BEDS[20:]))
    found = read(http)
    assert [each["id"] for part in found if not isinstance(part, Unread) for each in part] == [each["id"] for each in BEDS]
    assert [target for _, target, _ in http.calls] == ["Location?_count=10", "?page=2", "?page=3"]


def test_what_changed_is_asked_for_by_the_servers_own_dates_oldest_first() -> None:
    http = Http(page([]))
    assert read(http, Millis(1_700_000_000_000)) == [()]
    terms = parse_qs(urlsplit(http.calls[0][1]).query)
    assert terms == {"_count": ["10"], "_lastUpdated": ["ge2023-11-14T22:13:20.000Z"], "_sort": ["_lastUpdated"]}


@pytest.mark.parametrize(
    "last",
    [
        page(BEDS[10:12]),
        page(BEDS[10:20], "https://elsewhere.example.org/other?page=3"),
        answer(200, {"resourceType": "OperationOutcome", "issue": [{"severity": "error", "code": "processing"}]}),
        answer(200, {"resourceType": "Location"}),
        answer(403),
        NoAnswer(Reason.TIMEOUT),
    ],
    ids=["fewer than it said", "a link elsewhere", "an error in a 200", "no bundle", "forbidden", "no answer"],
)
def test_an_answer_that_is_not_whole_is_told_as_such(last: Exchange) -> None:
    found = read(Http(page(BEDS[:10], f"{BASE}?page=2", 200), last), pauses=[])
    assert isinstance(found[-1], Unread)
    assert len(found[0] if not isinstance(found[0], Unread) else ()) == 10


def test_a_page_is_asked_for_again_after_the_pause_that_the_server_asks_for() -> None:
    pauses: list[float] = []
    http = Http(answer(503, retry_after_s=7.0), NotSent(Reason.CONNECTION), page(BEDS[:3]))
    assert [len(each) if not isinstance(each, Unread) else -1 for each in read(http, pauses=pauses)] == [3]
    assert pauses == [7.0, 1.0]
    pauses.clear()
    given_up = read(Http(answer(429)), pauses=pauses)
    assert given_up == [Unread(Reason.RATE_LIMITED)]
    assert len(pauses) == TRIES - 1


def test_names_go_by_post_several_at_once_and_one_by_one_where_the_server_takes_no_more() -> None:
    idents = [Ident("urn:a", "SECRET|1"), Ident("urn:a", "SECRET,2")]
    http = Http(page(BEDS[:2]))
    assert asyncio.run(survey(http).find(EntityType.BED, idents)) == BEDS[:2]
    ((method, target, form),) = http.calls
    assert (method, target) == ("POST", SEARCH_OF_NAMES)
    assert (form or {})["identifier"] == r"urn:a|SECRET\|1,urn:a|SECRET\,2"
    alone = Http(answer(400), page(BEDS[:1]), page(BEDS[1:2]))
    assert asyncio.run(survey(alone).find(EntityType.BED, idents)) == BEDS[:2]
    assert all("SECRET" not in target for _, target, _ in (*http.calls, *alone.calls))
    unread = asyncio.run(survey(Http(answer(403)), []).find(EntityType.BED, idents))
    assert unread == Unread(Reason.REFUSED_FORBIDDEN)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (answer(200, BEDS[0]), BEDS[0]),
        (answer(404), None),
        (answer(410), None),
        (answer(200, {"resourceType": "Patient"}), Unread(Reason.ERROR_IN_BODY)),
        (NoAnswer(Reason.TIMEOUT), Unread(Reason.TIMEOUT)),
    ],
)
def test_a_resource_is_there_or_is_not_or_can_not_be_told(given: Exchange, wanted: object) -> None:
    assert asyncio.run(survey(Http(given), []).read(EntityType.BED, "0")) == wanted


def test_an_id_that_is_none_is_not_put_into_an_address() -> None:
    http = Http(answer(200, BEDS[0]))
    assert asyncio.run(survey(http).read(EntityType.BED, "../Patient/1")) == Unread(Reason.REFUSED_INVALID)
    assert http.calls == []
