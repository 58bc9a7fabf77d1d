"""What a server that reads from a lagging copy would have answered: the same, some versions ago."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

Body = dict[str, Any]
Fetch = Callable[[str], Awaitable[Body | None]]
"""A resource by its path below the FHIR base; None where the server doesn't show it."""


async def aged(content: bytes, versions: int, fetch: Fetch) -> tuple[bytes, str | None] | None:
    """The body of an answer as of `versions` ago, and its ETag where it is one resource; None for what did not exist then.

    Resources in a search's Bundle age one by one, and what did not exist then is left out. What is no resource, or one
    without a version, stays as it is.
    """
    try:
        body = json.loads(content)
    except ValueError:
        return content, None
    if not isinstance(body, dict):
        return content, None
    if body.get("resourceType") == "Bundle":
        return json.dumps(await _aged_bundle(body, versions, fetch)).encode(), None
    found = await _aged_resource(body, versions, fetch)
    return (json.dumps(found).encode(), _etag_of(found)) if found is not None else None


async def _aged_bundle(bundle: Body, versions: int, fetch: Fetch) -> Body:
    kept = []
    for entry in bundle.get("entry", []):
        resource = await _aged_resource(entry["resource"], versions, fetch) if "resource" in entry else None
        if resource is not None:
            kept.append({**entry, "resource": resource})
    return {**{name: value for name, value in bundle.items() if name != "total"}, "entry": kept}


async def _aged_resource(resource: Body, versions: int, fetch: Fetch) -> Body | None:
    number = str(resource.get("meta", {}).get("versionId", ""))
    if not number.isdecimal():
        return resource
    past = int(number) - versions
    return await fetch(f"{resource['resourceType']}/{resource['id']}/_history/{past}") if past > 0 else None


def _etag_of(resource: Body) -> str | None:
    number = resource.get("meta", {}).get("versionId")
    return f'W/"{number}"' if number is not None else None
