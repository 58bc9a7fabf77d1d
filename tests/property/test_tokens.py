"""Whatever the token endpoint, the EHR and the clock do: no token is used beyond its end, and nobody is asked too often."""

import asyncio
import tempfile
from pathlib import Path
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.destinations.auth.credentials import Authorised, News, NoToken
from pipeline.destinations.auth.key import SigningKey
from pipeline.destinations.auth.smart import ASK_AGAIN_S, REFUSED_PAUSE_S, KeyFile, SmartBackend
from pipeline.destinations.auth.token_endpoint import NotIssued, Token
from pipeline.domain.writing.limits import FIRST_DELAY_S, MAX_DELAY_S
from tests.support.examples import examples
from tests.support.token_server import HandClock, ec_key, pem, write

FOLDER: Final = tempfile.TemporaryDirectory()
KEY_FILE: Final = write(Path(FOLDER.name) / "smart.key", pem(ec_key()))
PATIENCE_S: Final = 5.0

LIVES_S: Final = (1.0, 10.0, 60.0, 300.0)
EDGES_S: Final = tuple(life_s + more_s for life_s in LIVES_S for more_s in (0.0, 0.5))

ISSUES = st.builds(lambda life_s: ("issues", life_s), st.sampled_from(LIVES_S))
FAILS = st.builds(lambda after_s: ("fails", after_s), st.sampled_from([0.0, 0.0, 2.0, 90.0]))
WAITS = st.builds(lambda wait_s: ("waits", wait_s), st.one_of(st.floats(0.01, 400.0), st.sampled_from(EDGES_S)))
STEPS = st.lists(st.one_of(ISSUES, FAILS, WAITS, st.just(("asks", 0.0)), st.just(("is refused", 0.0))), max_size=60)


class World:
    """The endpoint, what it issued and when, and when it was asked."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.mood: tuple[str, float] = ("issues", 300.0)
        self.ends: dict[Authorised, float] = {}
        self.asked: list[tuple[float, bool]] = []
        self.under_way = 0
        self.held: Authorised | None = None

    async def issue(self, key: SigningKey) -> Token | NotIssued:
        assert self.under_way == 0, "two renewals at once"
        self.under_way += 1
        await asyncio.sleep(0)
        self.under_way -= 1
        kind, amount = self.mood
        self.asked.append((self.clock.now_s, kind == "issues"))
        if kind == "fails":
            return NotIssued(News.ENDPOINT_UNAVAILABLE, amount)
        value = f"token-{len(self.asked)}"
        self.ends[Authorised(f"Bearer {value}")] = self.clock.now_s + amount
        return Token(value, amount, False)

    async def close(self) -> None:
        """Nothing is open."""


async def play(world: World, steps: list[tuple[str, float]]) -> SmartBackend:
    keys = KeyFile(KEY_FILE, "ES384", None, lambda news: None, world.clock)
    client = SmartBackend(world, keys, lambda news: None, lambda: 0.5, world.clock)
    for kind, amount in steps:
        match kind:
            case "waits":
                world.clock.now_s += amount
            case "asks":
                answers = await asyncio.gather(*(client.authorise(PATIENCE_S) for _ in range(3)))
                judge(world, answers[-1])
            case "is refused" if world.held is not None:
                answer = await client.renew(world.held, PATIENCE_S)
                assert answer != world.held, "the refused token again"
                if answer is not None:
                    judge(world, answer)
            case _:
                world.mood = (kind, amount) if kind in ("issues", "fails") else world.mood
    return client


def judge(world: World, answer: Authorised | NoToken) -> None:
    if isinstance(answer, Authorised):
        assert world.clock.now_s < world.ends[answer], "a token beyond its end"
        world.held = answer
    else:
        assert 0 <= answer.after_s <= ASK_AGAIN_S


@settings(max_examples=examples(150), deadline=None)
@given(STEPS)
def test_no_token_is_used_beyond_its_end_and_nobody_is_asked_too_often(steps: list[tuple[str, float]]) -> None:
    world = World()

    async def whole() -> None:
        client = await play(world, steps)
        world.mood = ("issues", 300.0)
        world.clock.now_s += 91.0 + MAX_DELAY_S
        assert isinstance(await client.authorise(PATIENCE_S), Authorised), "it never comes back"
        await client.close()

    asyncio.run(whole())
    for (earlier, issued), (later, _) in zip(world.asked, world.asked[1:], strict=False):
        assert issued or later - earlier >= FIRST_DELAY_S / 2, "a failed endpoint is asked again at once"


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.floats(0.0, 3.0), min_size=2, max_size=40))
def test_an_ehr_that_refuses_every_token_costs_one_token_in_five_seconds(waits: list[float]) -> None:
    world = World()

    async def whole() -> None:
        client = await play(world, [("asks", 0.0)])
        for wait_s in waits:
            world.clock.now_s += wait_s
            answer = await client.authorise(PATIENCE_S)
            assert isinstance(answer, Authorised)
            await client.renew(answer, PATIENCE_S)
        await client.close()

    asyncio.run(whole())
    assert len(world.asked) <= 2 + sum(waits) / REFUSED_PAUSE_S
