"""Destinations that make one mistake each, of those that a hostile run exists to catch."""

import asyncio
from dataclasses import replace
from typing import Final

from pipeline.destinations.fhir import bundles as fhir_bundles
from pipeline.destinations.fhir.entries import Part, parts_of
from pipeline.destinations.fhir_http import Answer
from pipeline.destinations.protocol import Ambiguous, Outcome, Request
from pipeline.formats.fhir.profile import Profile
from tests.support.hostile_writer import ATTEMPT_TIMEOUT_S, Freezable

REPEATS_AFTER_S: Final = ATTEMPT_TIMEOUT_S / 2
"""Late enough for somebody else to have written meanwhile."""


class BlindRepeater(Freezable):
    """Sends once more, unconditionally, what had no answer, as a client does whose retry knows nothing of versions."""

    async def send(self, request: Request) -> Outcome:
        outcome = await super().send(request)
        if not isinstance(outcome, Ambiguous):
            return outcome
        await asyncio.sleep(REPEATS_AFTER_S)
        unfenced = tuple((name, value) for name, value in request.headers if not name.lower().startswith("if-"))
        return await super().send(replace(request, headers=unfenced))


class TakesAnyEntryForDone(Freezable):
    """Reads the status of a bundle, and of no entry in it."""

    def __init__(self, base_url: str, profile: Profile) -> None:
        super().__init__(base_url, profile)
        assert self._bundles is not None
        self._bundles._tell_each = self._all_done  # type: ignore[method-assign]

    def _all_done(self, chosen: "list[fhir_bundles._Waiting]", answer: Answer) -> None:
        parts: list[Part | None] = parts_of([waiting.entry for waiting in chosen], answer.body)
        for waiting, part in zip(chosen, parts, strict=True):
            waiting.tell(part if waiting.entry.safe and part is not None else Answer(200, None, None, 0.0, None))
