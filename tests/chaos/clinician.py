"""A clinician, or a system of theirs, that keeps editing what the pipeline does not own, on the same resources."""

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from pipeline.formats.fhir.revision import read_mark
from tests.chaos.checks import Body, theirs

EDIT_EVERY_S: Final = 0.6
THINK_S: Final = 1.0
"""Longest time between reading a resource and saving the edit: somebody may have written in between."""
AT_ONCE: Final = 4
LOOK_EVERY_S: Final = 4.0
TRIES: Final = 20
PAGE: Final = 500
FHIR_JSON: Final = "application/fhir+json"
EDIT_URL: Final = "https://hospital.example/fhir/edit"
INVENTORY: Final = "https://hospital.example/inventory"
TYPES: Final = {"owner": ("Location",), "replica": ("Location", "Encounter", "Patient")}


@dataclass(slots=True)
class EditLog:
    """Per resource (`type/id`), the versions that the clinician made and what is theirs in each."""

    made: dict[str, dict[int, str]] = field(default_factory=dict)
    edits: int = 0
    conflicts: int = 0
    gave_up: int = 0
    statuses: Counter[int] = field(default_factory=Counter)


class Clinician:
    """Edits one EHR directly, until told to stop; each edit is conditional on the version that it was made from."""

    def __init__(self, base_url: str, role: str, seed: int) -> None:
        self.log = EditLog()
        self._base_url = base_url
        self._role = role
        self._chance = random.Random(f"clinician {seed} {role}")
        self._serial = itertools.count(1)
        self._known: list[str] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Edit until `stop`; an edit that was begun is finished."""
        async with session() as http, asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._edit_on(http, stop))
            while not stop.is_set():
                self._known = [
                    f"{kind}/{body['id']}"
                    for kind in TYPES[self._role]
                    async for body in search(http, self._base_url, kind)
                    if read_mark(body) is not None
                ]
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), LOOK_EVERY_S)

    async def _edit_on(self, http: aiohttp.ClientSession, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if self._known:
                await self.edit(http, self._chance.choice(self._known))
            await asyncio.sleep(EDIT_EVERY_S * self._chance.uniform(0.5, 1.5))

    async def edit(self, http: aiohttp.ClientSession, path: str) -> None:
        """Read, think, save by the version that was read; again where somebody was faster, TRIES times at most."""
        for _ in range(TRIES):
            async with http.get(f"{self._base_url}/{path}") as answer:
                body, etag = await answer.json(content_type=None), answer.headers.get("ETag", "")
            edited = self._edited(body)
            await asyncio.sleep(THINK_S * self._chance.random())
            headers = {"If-Match": etag, "Content-Type": FHIR_JSON}
            async with http.put(f"{self._base_url}/{path}", json=edited, headers=headers) as answer:
                self.log.statuses[answer.status] += 1
                if answer.status == 200:
                    version = int(answer.headers["ETag"].split('"')[1])
                    self.log.made.setdefault(path, {})[version] = theirs(edited, self._role)
                    self.log.edits += 1
                    return
            self.log.conflicts += 1
        self.log.gave_up += 1

    def _edited(self, body: Body) -> Body:
        """Another serial in an extension, an identifier of theirs, a contact; at the owner also name and status."""
        serial = str(next(self._serial))
        edited = dict(body)
        edited["extension"] = [e for e in body.get("extension", []) if e["url"] != EDIT_URL]
        # Not always last: an element is theirs wherever it stands.
        place = self._chance.randrange(len(edited["extension"]) + 1)
        edited["extension"].insert(place, {"url": EDIT_URL, "valueString": serial})
        edited["identifier"] = [i for i in body.get("identifier", []) if i.get("system") != INVENTORY]
        edited["identifier"].append({"system": INVENTORY, "value": f"asset-{serial}"})
        if body["resourceType"] == "Encounter":
            edited["reasonCode"] = [{"text": f"edit {serial}"}]
        if body["resourceType"] in ("Location", "Patient"):
            edited["telecom"] = [{"system": "phone", "value": f"555-{int(serial):06d}"}]
        if body["resourceType"] in ("Location", "Task", "Appointment"):
            edited["description"] = f"edit {serial}"
        if self._role == "owner":
            edited["name"] = f"Bed, edit {serial}"
            edited["status"] = self._chance.choice(("active", "suspended"))
        return edited


def session() -> aiohttp.ClientSession:
    """A client of an EHR."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=60), headers={"Accept": FHIR_JSON, "Cache-Control": "no-cache"}
    )


async def search(http: aiohttp.ClientSession, base_url: str, kind: str) -> AsyncIterator[Body]:
    """Every resource of a type."""
    async for resource in pages(http, f"{base_url}/{kind}?_count={PAGE}"):
        if resource.get("resourceType") == kind:
            yield resource


async def pages(http: aiohttp.ClientSession, url: str) -> AsyncIterator[Body]:
    """Every resource of a bundle and of those that follow it."""
    following: str | None = url
    while following is not None:
        async with http.get(following) as answer:
            answer.raise_for_status()
            bundle: Any = await answer.json(content_type=None)
        for entry in bundle.get("entry", []):
            yield entry["resource"]
        following = next((link["url"] for link in bundle.get("link", []) if link["relation"] == "next"), None)
