"""Tokens: reused, renewed one at a time, and missing in a way that blames no entity."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.destinations.auth import token_endpoint
from pipeline.destinations.auth.bearer import BearerFile
from pipeline.destinations.auth.credentials import Authorised, News, NoToken
from pipeline.destinations.auth.files import LOOK_EVERY_S
from pipeline.destinations.auth.key import SigningKey
from pipeline.destinations.auth.smart import ASK_AGAIN_S, REFUSED_PAUSE_S, RENEW_BEFORE_S, UNUSED_BEFORE_S, KeyFile, SmartBackend
from pipeline.destinations.auth.token_endpoint import DEFAULT_LIFETIME_S, MAX_ANSWER_BYTES, Grant, NotIssued, Token, TokenEndpoint
from pipeline.domain.identifiers import Millis
from pipeline.domain.writing.limits import MAX_DELAY_S
from tests.support.token_server import (
    CLIENT,
    NOW_S,
    SCOPE,
    WORDS,
    Answer,
    HandClock,
    TokenServer,
    ec_key,
    pem,
    refusal,
    rsa_key,
    write,
)

SOON_S = 10.0


@dataclass
class Lab:
    """A token server, a client of it, and the client's clock."""

    server: TokenServer
    key_file: Path
    key: ec.EllipticCurvePrivateKey
    clock: HandClock = field(default_factory=HandClock)
    news: list[News] = field(default_factory=list)
    made: list[SmartBackend] = field(default_factory=list)

    def client(self, discovered: bool = False, token_url: str | None = None) -> SmartBackend:
        grant = Grant(CLIENT, SCOPE, self.server.base_url, None if discovered else token_url or self.server.url)
        endpoint = TokenEndpoint(grant, lambda: Millis(NOW_S * 1000), None)
        keys = KeyFile(self.key_file, "ES384", None, self.news.append, self.clock)
        self.made.append(SmartBackend(endpoint, keys, self.news.append, lambda: 0.5, self.clock))
        return self.made[-1]

    def rotate(self) -> None:
        """A new key, known to the server alone with the old one's end."""
        self.key = ec_key()
        self.server.keys = [self.key]
        write(self.key_file, pem(self.key))
        self.clock.now_s += LOOK_EVERY_S


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    server, key = TokenServer(), ec_key()
    server.keys = [key]
    async with server.serve():
        made = Lab(server, write(tmp_path / "smart.key", pem(key)), key)
        yield made
        server.gate.set()
        for client in made.made:
            await client.close()


def told(number: int) -> Authorised:
    return Authorised(f"Bearer token-{number}")


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not holds():
            await asyncio.sleep(0.005)


async def test_one_token_serves_until_shortly_before_its_end(lab: Lab) -> None:
    client = lab.client()
    for _ in range(3):
        assert await client.authorise(SOON_S) == told(1)
        lab.clock.now_s += (300 - RENEW_BEFORE_S) / 3 - 1
    assert lab.server.issued == 1
    assert lab.news == [News.ISSUED]


async def test_what_is_asked_is_what_smart_backend_services_says(lab: Lab) -> None:
    await lab.client().authorise(SOON_S)
    form, claims = lab.server.forms[0], lab.server.claims[0]
    assert form["grant_type"] == "client_credentials"
    assert form["scope"] == SCOPE
    assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    assert set(form) == {"grant_type", "scope", "client_assertion_type", "client_assertion"}
    assert (claims["iss"], claims["sub"], claims["aud"]) == (CLIENT, CLIENT, lab.server.url)
    assert 0 < claims["exp"] - NOW_S <= 300


async def test_each_assertion_has_an_id_of_its_own(lab: Lab) -> None:
    client = lab.client()
    for number in range(1, 4):
        assert await client.authorise(SOON_S) == told(number)
        lab.clock.now_s += 300
    assert len({claims["jti"] for claims in lab.server.claims}) == 3


async def test_a_token_is_renewed_before_its_end_while_it_is_still_used(lab: Lab) -> None:
    client = lab.client()
    await client.authorise(SOON_S)
    lab.server.gate.clear()
    lab.clock.now_s += 300 - RENEW_BEFORE_S
    assert [await client.authorise(SOON_S) for _ in range(5)] == [told(1)] * 5
    lab.server.gate.set()
    await eventually(lambda: lab.server.issued == 2)
    await eventually(lambda: lab.news == [News.ISSUED, News.ISSUED])
    assert await client.authorise(SOON_S) == told(2)
    assert len(lab.server.forms) == 2


async def test_a_token_that_would_end_under_way_is_not_sent(lab: Lab) -> None:
    client = lab.client()
    await client.authorise(SOON_S)
    lab.clock.now_s += 300 - UNUSED_BEFORE_S
    assert await client.authorise(SOON_S) == told(2)


async def test_however_many_ask_there_is_one_renewal(lab: Lab) -> None:
    client = lab.client()
    lab.server.gate.clear()
    asking = [asyncio.create_task(client.authorise(SOON_S)) for _ in range(50)]
    await eventually(lambda: lab.server.at_once == 1)
    lab.server.gate.set()
    assert set(await asyncio.gather(*asking)) == {told(1)}
    assert (len(lab.server.forms), lab.server.most_at_once) == (1, 1)


async def test_one_who_gives_up_or_is_cancelled_ends_the_renewal_for_nobody(lab: Lab) -> None:
    client = lab.client()
    lab.server.gate.clear()
    cancelled = asyncio.create_task(client.authorise(SOON_S))
    patient = asyncio.create_task(client.authorise(SOON_S))
    await eventually(lambda: lab.server.at_once == 1)
    assert await client.authorise(0.01) == NoToken(0.0)
    cancelled.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await cancelled
    lab.server.gate.set()
    assert await patient == told(1)
    assert len(lab.server.forms) == 1


async def test_a_refused_token_is_renewed_once_for_all_who_met_the_refusal(lab: Lab) -> None:
    client = lab.client()
    await client.authorise(SOON_S)
    assert await asyncio.gather(*(client.renew(told(1), SOON_S) for _ in range(16))) == [told(2)] * 16
    assert await client.renew(told(1), SOON_S) == told(2)  # a late one, of the old token
    assert lab.server.issued == 2
    assert lab.news.count(News.UNAUTHENTICATED) == 1


async def test_a_server_that_refuses_us_whatever_the_token_does_not_make_us_ask_for_more_and_more(lab: Lab) -> None:
    client = lab.client()
    await client.authorise(SOON_S)
    assert await client.renew(told(1), SOON_S) == told(2)
    for _ in range(10):
        assert await client.renew(told(2), SOON_S) is None
    assert lab.server.issued == 2
    lab.clock.now_s += REFUSED_PAUSE_S
    assert await client.renew(told(2), SOON_S) == told(3)


@pytest.mark.parametrize(
    ("lifetime", "good_s"),
    [
        (None, DEFAULT_LIFETIME_S),
        ("60", 60.0),
        (60.5, 60.5),
        (0, DEFAULT_LIFETIME_S),
        (-5, DEFAULT_LIFETIME_S),
        ("soon", DEFAULT_LIFETIME_S),
        (True, DEFAULT_LIFETIME_S),
        ([], DEFAULT_LIFETIME_S),
        (1, 1.0),
        (10**12, token_endpoint.MAX_LIFETIME_S),
    ],
)
async def test_a_token_lives_as_long_as_it_is_said_else_as_long_as_smart_recommends(
    lab: Lab, lifetime: object, good_s: float
) -> None:
    lab.server.lifetime = lifetime
    client = lab.client()
    assert await client.authorise(SOON_S) == told(1)
    lab.clock.now_s += good_s * 0.7
    assert await client.authorise(SOON_S) == told(1)
    assert lab.server.issued == 1
    lab.clock.now_s += good_s * 0.3
    assert await client.authorise(SOON_S) == told(2)


BAD: list[tuple[Answer, News]] = [
    (refusal("invalid_client"), News.CLIENT_REFUSED),
    (refusal("invalid_client", 401), News.CLIENT_REFUSED),
    (refusal("unauthorized_client"), News.CLIENT_REFUSED),
    (refusal("invalid_scope"), News.SCOPE_REFUSED),
    (refusal("invalid_request"), News.GRANT_REFUSED),
    (refusal(WORDS, 403), News.GRANT_REFUSED),
    ((400, "<html>", {}), News.GRANT_REFUSED),
    ((400, {"error": ["invalid_client"]}, {}), News.GRANT_REFUSED),
    (refusal("slow_down", 429), News.ENDPOINT_UNAVAILABLE),
    ((500, WORDS, {}), News.ENDPOINT_UNAVAILABLE),
    ((503, "", {}), News.ENDPOINT_UNAVAILABLE),
    ((302, "", {"Location": "/elsewhere"}), News.ENDPOINT_GARBLED),
    ((404, "", {}), News.ENDPOINT_GARBLED),
    ((200, "", {}), News.ENDPOINT_GARBLED),
    ((200, "<html>sign in</html>", {}), News.ENDPOINT_GARBLED),
    ((200, "[]", {}), News.ENDPOINT_GARBLED),
    ((200, {}, {}), News.ENDPOINT_GARBLED),
    ((200, {"access_token": ""}, {}), News.ENDPOINT_GARBLED),
    ((200, {"access_token": 7}, {}), News.ENDPOINT_GARBLED),
    ((200, {"access_token": "a\r\nX-Evil: 1"}, {}), News.ENDPOINT_GARBLED),
    ((200, {"access_token": "t" * 20_000}, {}), News.ENDPOINT_GARBLED),
    ((200, {"access_token": "t", "token_type": "mac"}, {}), News.ENDPOINT_GARBLED),
    ((200, {"access_token": "t", "pad": "x" * MAX_ANSWER_BYTES}, {}), News.ENDPOINT_GARBLED),
]


@pytest.mark.parametrize(("answer", "news"), BAD)
async def test_whatever_the_endpoint_says_there_is_a_defined_result_without_its_words(
    lab: Lab, answer: Answer, news: News, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    lab.server.answer = lambda: answer
    client = lab.client()
    result = await client.authorise(SOON_S)
    assert isinstance(result, NoToken)
    assert 0 < result.after_s <= ASK_AGAIN_S
    assert lab.news == [news]
    assert not news.is_good
    assert WORDS not in caplog.text + repr(result)
    assert lab.server.forms[0]["client_assertion"] not in caplog.text


async def pause_of(lab: Lab, client: SmartBackend) -> float:
    """Ask again and again until the endpoint is asked anew; for how long it was left alone."""
    asked, began_s = len(lab.server.forms), lab.clock.now_s
    while len(lab.server.forms) == asked:
        lab.clock.now_s += 0.0625
        result = await client.authorise(SOON_S)
        assert isinstance(result, NoToken)
        assert 0 < result.after_s <= ASK_AGAIN_S
    return lab.clock.now_s - began_s


async def test_a_failing_endpoint_is_asked_again_with_growing_pauses_and_not_by_each_write(lab: Lab) -> None:
    lab.server.answer = lambda: refusal("invalid_client")
    client = lab.client()
    await client.authorise(SOON_S)
    pauses = [await pause_of(lab, client) for _ in range(9)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 1
    assert MAX_DELAY_S / 2 <= pauses[-1] <= MAX_DELAY_S
    lab.server.answer = lambda: None
    lab.clock.now_s += MAX_DELAY_S
    assert await client.authorise(SOON_S) == told(1)


async def test_the_endpoints_own_wish_for_a_pause_is_kept(lab: Lab) -> None:
    lab.server.answer = lambda: (503, "", {"Retry-After": "90"})
    client = lab.client()
    await client.authorise(SOON_S)
    assert await pause_of(lab, client) == pytest.approx(90, abs=0.1)


async def test_a_renewal_that_fails_leaves_the_token_in_use_to_its_end(lab: Lab) -> None:
    client = lab.client()
    await client.authorise(SOON_S)
    lab.server.answer = lambda: (503, "", {})
    lab.clock.now_s += 300 - RENEW_BEFORE_S
    assert await client.authorise(SOON_S) == told(1)
    await eventually(lambda: News.ENDPOINT_UNAVAILABLE in lab.news)
    assert await client.authorise(SOON_S) == told(1)
    lab.clock.now_s += RENEW_BEFORE_S
    assert isinstance(await client.authorise(SOON_S), NoToken)


class PlayedEndpoint:
    """Gives out what it was given, and takes its time on the clock."""

    def __init__(self, clock: HandClock, *answers: Token | NotIssued, takes_s: float = 0.0) -> None:
        self.asked = 0
        self._clock, self._answers, self._takes_s = clock, list(answers), takes_s

    async def issue(self, key: SigningKey) -> Token | NotIssued:
        self.asked += 1
        self._clock.now_s += self._takes_s
        return self._answers.pop(0)

    async def close(self) -> None:
        """Nothing is open."""


def client_of(endpoint: PlayedEndpoint, key_file: Path, clock: HandClock) -> SmartBackend:
    news = list[News]()
    return SmartBackend(endpoint, KeyFile(key_file, "ES384", None, news.append, clock), news.append, lambda: 0.5, clock)


async def test_an_early_renewal_that_fails_is_not_repeated_by_each_write(tmp_path: Path) -> None:
    clock, down = HandClock(), NotIssued(News.ENDPOINT_UNREACHABLE)
    endpoint = PlayedEndpoint(clock, Token("t", 300, False), down, down)
    client = client_of(endpoint, write(tmp_path / "smart.key", pem(ec_key())), clock)
    await client.authorise(SOON_S)
    clock.now_s += 300 - RENEW_BEFORE_S
    for _ in range(20):
        assert await client.authorise(SOON_S) == Authorised("Bearer t")
        await asyncio.sleep(0)
    assert endpoint.asked == 2


async def test_a_token_lives_from_when_it_was_asked_for_and_not_from_a_late_answer(tmp_path: Path) -> None:
    clock = HandClock()
    endpoint = PlayedEndpoint(clock, Token("a", 100, False), Token("b", 100, False), takes_s=80.0)
    client = client_of(endpoint, write(tmp_path / "smart.key", pem(ec_key())), clock)
    await client.authorise(SOON_S)
    await client.authorise(SOON_S)
    await asyncio.sleep(0)
    assert endpoint.asked == 2, "the first one is due for renewal already"


async def test_an_assertion_is_not_sent_on_to_where_the_endpoint_points(lab: Lab) -> None:
    lab.server.answer = lambda: (307, "", {"Location": lab.server.url})
    assert isinstance(await lab.client().authorise(SOON_S), NoToken)
    assert len(lab.server.forms) == 1


async def test_an_endpoint_that_says_nothing_is_given_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_endpoint, "ISSUE_TIMEOUT_S", 0.05)
    lab.server.gate.clear()
    assert isinstance(await lab.client().authorise(SOON_S), NoToken)
    assert lab.news == [News.ENDPOINT_TIMED_OUT]


async def test_an_endpoint_that_is_down_is_unreachable(lab: Lab, unused_tcp_port: int) -> None:
    client = lab.client(token_url=f"http://127.0.0.1:{unused_tcp_port}/token")
    assert isinstance(await client.authorise(SOON_S), NoToken)
    assert lab.news == [News.ENDPOINT_UNREACHABLE]


async def test_the_endpoint_is_discovered_once_and_anew_after_it_failed(lab: Lab) -> None:
    client = lab.client(discovered=True)
    assert await client.authorise(SOON_S) == told(1)
    lab.clock.now_s += 300
    assert await client.authorise(SOON_S) == told(2)
    assert lab.server.discoveries == 1
    lab.server.answer = lambda: (404, "", {})
    lab.clock.now_s += 300
    assert isinstance(await client.authorise(SOON_S), NoToken)
    lab.server.answer = lambda: None
    lab.clock.now_s += MAX_DELAY_S
    assert await client.authorise(SOON_S) == told(3)
    assert lab.server.discoveries == 2


@pytest.mark.parametrize(
    ("document", "news"),
    [
        ((404, "", {}), News.ENDPOINT_NOT_NAMED),
        ((200, "<html>", {}), News.ENDPOINT_NOT_NAMED),
        ((200, {}, {}), News.ENDPOINT_NOT_NAMED),
        ((200, {"token_endpoint": 7}, {}), News.ENDPOINT_NOT_NAMED),
        ((200, {"token_endpoint": "/token"}, {}), News.ENDPOINT_NOT_NAMED),
        ((200, {"token_endpoint": "ftp://h/token"}, {}), News.ENDPOINT_NOT_NAMED),
        ((200, {"token_endpoint": "http://user:word@127.0.0.1/token"}, {}), News.ENDPOINT_NOT_NAMED),
        ((503, "", {}), News.ENDPOINT_UNAVAILABLE),
        ((302, "", {"Location": "/token"}), News.ENDPOINT_NOT_NAMED),
    ],
)
async def test_a_server_that_names_no_endpoint_that_may_be_asked_is_told_apart(lab: Lab, document: Answer, news: News) -> None:
    lab.server.document = lambda: document
    assert isinstance(await lab.client(discovered=True).authorise(SOON_S), NoToken)
    assert lab.news == [news]
    assert lab.server.forms == []


def test_an_endpoint_in_the_clear_is_no_endpoint_of_a_server_behind_tls() -> None:
    assert not token_endpoint._may_be_asked("http://ehr.example.org/token", "https://ehr.example.org/fhir")
    assert token_endpoint._may_be_asked("https://login.example.org/token", "https://ehr.example.org/fhir")


async def test_fewer_rights_than_asked_for_are_told_once(lab: Lab) -> None:
    lab.server.answer = lambda: (200, {"access_token": "t", "expires_in": 60, "scope": "system/Location.rs"}, {})
    client = lab.client()
    for _ in range(3):
        assert await client.authorise(SOON_S) == Authorised("Bearer t")
        lab.clock.now_s += 60
    assert lab.news.count(News.SCOPE_NARROWED) == 1


async def test_a_rotated_key_signs_the_next_assertion_and_the_token_in_use_stays(lab: Lab) -> None:
    client = lab.client()
    await client.authorise(SOON_S)
    old = lab.server.headers[-1]["kid"]
    lab.rotate()
    assert await client.authorise(SOON_S) == told(1)
    lab.clock.now_s += 300
    assert await client.authorise(SOON_S) == told(2)
    assert lab.server.headers[-1]["kid"] != old
    assert News.KEY_ROTATED in lab.news


async def test_a_rotated_key_is_tried_at_once_though_the_old_one_was_refused_many_times(lab: Lab) -> None:
    client = lab.client()
    lab.server.keys = []
    for _ in range(6):
        await client.authorise(SOON_S)
        lab.clock.now_s += MAX_DELAY_S
    assert len(lab.server.forms) == 6
    await client.authorise(SOON_S)
    lab.rotate()
    assert await client.authorise(SOON_S) == told(1)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nMIG", pem(rsa_key())])
async def test_a_key_file_that_holds_no_key_for_us_leaves_the_last_key_in_use(lab: Lab, content: bytes) -> None:
    client = lab.client()
    await client.authorise(SOON_S)
    write(lab.key_file, content)
    for number in (2, 3):
        lab.clock.now_s += 300
        assert await client.authorise(SOON_S) == told(number)
    assert lab.news.count(News.KEY_UNUSABLE) == 1
    lab.rotate()
    lab.clock.now_s += 300
    assert await client.authorise(SOON_S) == told(4)


async def test_without_any_key_there_is_no_token_until_the_file_is_there(lab: Lab) -> None:
    lab.key_file.unlink()
    client = lab.client()
    assert isinstance(await client.authorise(SOON_S), NoToken)
    assert lab.server.forms == []
    lab.rotate()
    assert await client.authorise(SOON_S) == told(1)


async def test_closing_amid_a_renewal_leaves_nobody_waiting(lab: Lab) -> None:
    client = lab.client()
    lab.server.gate.clear()
    asking = asyncio.create_task(client.authorise(SOON_S))
    await eventually(lambda: lab.server.at_once == 1)
    await client.close()
    assert await asking == NoToken(0.0)


async def test_no_token_and_no_assertion_is_logged(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client = lab.client(discovered=True)
    result = await client.authorise(SOON_S)
    await client.renew(told(1), SOON_S)
    shown = caplog.text + repr(result) + repr(client)
    assert "token-1" not in shown
    assert lab.server.forms[0]["client_assertion"] not in shown


async def test_a_rotated_bearer_token_is_taken_up_within_a_second_and_at_once_when_the_old_one_is_refused(
    tmp_path: Path,
) -> None:
    clock, news, path = HandClock(), list[News](), write(tmp_path / "token", "one\n")
    bearer = BearerFile(path, news.append, clock)
    one, two, three = (Authorised(f"Bearer {name}") for name in ("one", "two", "three"))
    assert await bearer.authorise(SOON_S) == one
    assert await bearer.renew(one, SOON_S) is None
    write(path, "two")
    assert await bearer.authorise(SOON_S) == one
    assert await bearer.renew(one, SOON_S) == two
    write(path, "three")
    clock.now_s += LOOK_EVERY_S
    assert await bearer.authorise(SOON_S) == three
    assert news == [News.UNAUTHENTICATED, News.BEARER_ROTATED, News.BEARER_ROTATED]


@pytest.mark.parametrize("content", ["", "\n", "two words", "line\nline", "tab\tbed", "ü", "t" * 20_000])
async def test_a_file_without_a_token_leaves_the_last_one_in_use(tmp_path: Path, content: str) -> None:
    clock, news, path = HandClock(), list[News](), write(tmp_path / "token", "one\n")
    bearer = BearerFile(path, news.append, clock)
    await bearer.authorise(SOON_S)
    write(path, content)
    for _ in range(3):
        clock.now_s += LOOK_EVERY_S
        assert await bearer.authorise(SOON_S) == Authorised("Bearer one")
    assert news == [News.BEARER_UNUSABLE]
    path.unlink()
    clock.now_s += LOOK_EVERY_S
    assert await bearer.authorise(SOON_S) == Authorised("Bearer one")


async def test_where_there_never_was_a_bearer_token_nothing_can_be_sent(tmp_path: Path) -> None:
    bearer = BearerFile(tmp_path / "none", list[News]().append, HandClock())
    assert isinstance(await bearer.authorise(SOON_S), NoToken)
    assert await bearer.renew(Authorised("Bearer x"), SOON_S) is None
