"""What an EHR shows of a bed, and a proxy before it that can be made to fail."""

import itertools
import json
import os
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from pipeline.domain.identifiers import Revision
from pipeline.formats.fhir.revision import read_mark
from pipeline.local.child import Child
from pipeline.local.ports import HOST, free_port
from pipeline.local.servers.ehr import Ehr
from pipeline.local.servers.faults import Fault

NAMESPACE: Final = "GENERAL"
PROXY_S: Final = 120.0
"""Bound of the proxy's start."""


def revisions_of(versions: Iterable[dict[str, Any]]) -> list[Revision]:
    """Our revisions in a resource's history; versions of somebody else that carry ours along are passed over."""
    marks = [mark.revision for body in versions if (mark := read_mark(body)) is not None]
    return [revision for before, revision in itertools.pairwise([None, *marks]) if revision is not None and revision != before]


def history(base_url: str, tenant: str, bed: str) -> list[dict[str, Any]]:
    """All versions of a bed's Location, oldest first; asserts that there is one Location of it at most."""
    found = locations(base_url, tenant, bed)
    assert len(found) <= 1, "two resources for one bed"
    if not found:
        return []
    bundle = ask(f"{base_url}/Location/{found[0]['id']}/_history?_count=1000")
    versions = [entry["resource"] for entry in bundle["entry"]]
    return sorted(versions, key=lambda body: int(body["meta"]["versionId"]))


def locations(base_url: str, tenant: str, bed: str) -> list[dict[str, Any]]:
    token = f"https://surgeline.dev/fhir/id/{tenant}/bed|{NAMESPACE}/{bed}"
    form = urllib.parse.urlencode({"identifier": token}).encode()
    bundle = ask(f"{base_url}/Location/_search", "POST", form, {"Content-Type": "application/x-www-form-urlencoded"})
    return [entry["resource"] for entry in bundle.get("entry", [])]


def ask(url: str, method: str = "GET", data: bytes | None = None, headers: Mapping[str, str] | None = None) -> Any:
    request = urllib.request.Request(url, data, dict(headers or {}), method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        body = answer.read()
        return json.loads(body) if body else None


# -- a destination that can be made to fail


@dataclass
class Proxy:
    """The fault proxy before an EHR, as a process of its own."""

    url: str
    control: str

    def set(self, *faults: Fault) -> None:
        ask(self.control, "PUT", msgspec.json.encode(list(faults)))

    def struck(self) -> int:
        return sum(report["struck"] for report in ask(self.control))


@contextmanager
def proxied(ehr: Ehr, folder: Path) -> Iterator[Proxy]:
    port, control = free_port(), free_port()
    arguments = ["--target", ehr.base_url, "--port", str(port), "--control-port", str(control)]
    command = [sys.executable, "-m", "pipeline.local.servers.delay", *arguments]
    child = Child("proxy", command, folder, folder / "proxy.log", dict(os.environ))
    proxy = Proxy(f"http://{HOST}:{port}/fhir", f"http://{HOST}:{control}/faults")
    child.start()

    def answers() -> bool:
        try:
            return ask(proxy.control) is not None
        except OSError:
            return False

    try:
        child.wait_until(answers, PROXY_S)
        yield proxy
    finally:
        child.kill()
