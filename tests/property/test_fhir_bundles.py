"""Whatever a server does to a bundle, no write is taken for done that was not, and none for lost that may have been done."""

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.destinations.fhir.bundles import Bundles
from pipeline.destinations.fhir.entries import ALONE, Entry, Part, entry_of
from pipeline.destinations.fhir_http import Answer, Exchange, NoAnswer, NotSent
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Reason
from pipeline.formats.fhir.profile import BundleProfile
from tests.support.examples import examples

FAULTS: Final = (
    "none", "none", "none", "lost-after", "lost-before", "429", "500", "400", "413", "shuffled", "short", "long", "garbage",
    "outcome-in-200", "entry-faults",
)  # fmt: skip
ENTRY_FAULTS: Final = ("412", "400", "429", "500", "200")


class Hostile:
    """Applies fenced writes, and answers as badly as its seed says."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.applied: dict[str, int] = {}

    async def __call__(self, data: bytes, timeout_s: float, may_go: Callable[[], bool]) -> Exchange:
        await asyncio.sleep(self.draw.random() / 500)
        entries = msgspec.json.decode(data)["entry"]
        urls = [entry["request"]["url"] for entry in entries]
        assert len(set(urls)) == len(urls), "one resource twice in a bundle"
        fault = self.draw.choice(FAULTS)
        if fault == "lost-before":
            return NoAnswer(Reason.CONNECTION)
        if fault in ("429", "400", "413"):
            return Answer(int(fault), None, None, self.draw.choice((0.0, 1.0)), None)
        answers = [self._entry(url, self.draw.choice(ENTRY_FAULTS) if fault == "entry-faults" else "200") for url in urls]
        if fault == "lost-after":
            return NoAnswer(Reason.TIMEOUT)
        if fault == "500":
            return Answer(500, None, None, 0.0, None)
        if fault == "outcome-in-200":
            issue = {"severity": "error", "code": "exception"}
            return Answer(200, None, None, 0.0, {"resourceType": "OperationOutcome", "issue": [issue]})
        if fault == "garbage":
            return Answer(200, None, None, 0.0, None, readable=False)
        if fault == "shuffled":
            self.draw.shuffle(answers)
        if fault == "short":
            answers.pop(self.draw.randrange(len(answers)))
        if fault == "long":
            answers.insert(self.draw.randrange(len(answers)), answers[0])
        return Answer(200, None, None, 0.0, {"resourceType": "Bundle", "entry": answers})

    def _entry(self, url: str, status: str) -> dict[str, Any]:
        if status in ("200", "500"):
            self.applied[url] = self.applied.get(url, 0) + 1
        if status == "200":
            return {"response": {"status": "200 OK", "location": f"{url}/_history/{self.applied[url]}"}}
        return {"response": {"status": status}}


@given(st.integers(0, 10**9), st.integers(2, 12), st.integers(1, 40))
@settings(deadline=None, max_examples=examples(80))
def test_what_is_said_of_a_write_is_never_more_than_what_happened(seed: int, entries: int, count: int) -> None:
    asyncio.run(hostile_round(seed, entries, count))


async def hostile_round(seed: int, entries: int, count: int) -> None:
    server = Hostile(seed)
    bundles = Bundles(BundleProfile(entries), server, lambda: Millis(1_000_000))
    urls = [f"Location/{number}" for number in range(count)]
    parts: list[Part] = []
    for _ in range(3):
        before = dict(server.applied)
        parts = list(await asyncio.wait_for(asyncio.gather(*(bundles.carry(write(url), 60.0) for url in urls)), 60))
        for url, part in zip(urls, parts, strict=True):
            check(part, server.applied.get(url, 0) - before.get(url, 0), url)
    await bundles.close()


def write(url: str) -> Entry:
    return entry_of(url, {"method": "PUT", "url": url, "ifMatch": 'W/"1"'}, {"resourceType": "Location"})


def check(part: Part, applied: int, url: str) -> None:
    """`applied` is how often the write was made in this round."""
    assert applied <= 1
    match part:
        case Answer(status=status, location=location) if 200 <= status < 300 and location is not None:
            assert applied == 1
            assert location.startswith(f"{url}/")
        case NotSent():
            assert applied == 0
        case Answer(status=429 | 412):
            assert applied == 0
        case Answer() | NoAnswer():
            pass  # unknown: it will be read back
        case _:
            assert part is ALONE
            assert applied == 0
