"""Somebody else writes the same resources at the same time: her edits survive, and ours arrive."""

import json
import threading
import time
import urllib.error
from pathlib import Path
from typing import Any

import pytest

from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from tests.hazards.at_ehr import ask, locations
from tests.hazards.harness import OWNER, site, until
from tests.hazards.stream import Stream, flowing

FHIR = {"Content-Type": "application/fhir+json"}
NOTE = "https://example.org/fhir/clinician-note"
TELECOM = [{"system": "phone", "value": "555-0100"}]


def edit(base_url: str, tenant: str, bed: str, number: int) -> bool:
    """Read, change what is hers, write with the version that was read; False if somebody was faster."""
    found = locations(base_url, tenant, bed)
    if not found:
        return False
    body: dict[str, Any] = found[0]
    kept = [extension for extension in body.get("extension", []) if extension["url"] != NOTE]
    edited = {**body, "description": f"note {number}", "telecom": TELECOM}
    edited["extension"] = [*kept, {"url": NOTE, "valueInteger": number}]
    headers = {**FHIR, "If-Match": f'W/"{body["meta"]["versionId"]}"'}
    try:
        ask(f"{base_url}/Location/{body['id']}", "PUT", json.dumps(edited).encode(), headers)
    except urllib.error.HTTPError as error:
        if error.code not in (409, 412):
            raise
        return False
    return True


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_clinicians_edits_survive_our_writes_and_ours_arrive(broker: Broker, owner: Ehr, tmp_path: Path) -> None:
    beds = 4
    with site(tmp_path / "s", broker.bootstrap, {OWNER: owner.base_url}) as to:
        to.start_all(("gate",), ("writer", OWNER))
        last: dict[str, int] = {}
        failures: list[BaseException] = []
        done = threading.Event()

        def clinician() -> None:
            try:
                number = 0
                while not done.is_set():
                    number += 1
                    bed = f"B/{number % beds}/A"
                    if edit(owner.base_url, to.tenant, bed, number):
                        last[bed] = number
                    time.sleep(0.03)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=clinician, daemon=True)
        thread.start()
        with flowing(to, Stream(13, beds=beds, changes=50).events(to), rate_per_s=25):
            pass
        until(lambda: len(last) == beds, "an edit of each bed")
        done.set()
        thread.join()
        assert not failures, failures
        to.settle()
        assert sum(len(to.versions(f"B/{n}/A")) for n in range(beds)) > beds * 2
        for bed, number in last.items():
            body = locations(owner.base_url, to.tenant, bed)[0]
            notes = [e["valueInteger"] for e in body["extension"] if e["url"] == NOTE]
            assert (notes, body["description"], body["telecom"]) == ([number], f"note {number}", TELECOM)
