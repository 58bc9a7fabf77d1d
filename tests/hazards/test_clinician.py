"""A clinician who saves while our write of the same resource is on its way: hers stands, and ours is made anew on it."""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.domain.records import OutcomeKind, Reason
from pipeline.local.servers.broker import Broker
from pipeline.local.servers.ehr import Ehr
from pipeline.local.servers.faults import Fault, FaultKind
from tests.chaos.checks import history_problems, theirs, version_of
from tests.hazards.at_ehr import locations, proxied
from tests.hazards.harness import OWNER, STATES, Site, site, until

BED = "E/1/A"
NOTE = "https://hospital.example/fhir/note"
INVENTORY = "https://hospital.example/inventory"
HELD_S = 1.5
"""Time that a write of ours is on its way; she saves several times in it."""


@dataclass
class Clinician:
    """Edits one bed at the EHR itself. `made` are her versions, with what in them is the EHR's."""

    base_url: str
    tenant: str
    made: dict[int, str] = field(default_factory=dict)

    def edit(self) -> None:
        """Read, change what is hers, save by the version that was read; once more where we were faster."""
        while not self._edit():
            pass

    def _edit(self) -> bool:
        body, number = locations(self.base_url, self.tenant, BED)[0], len(self.made) + 1
        edited = self._edited(body, number)
        headers = {"Content-Type": "application/fhir+json", "If-Match": f'W/"{body["meta"]["versionId"]}"'}
        url = f"{self.base_url}/Location/{body['id']}"
        request = urllib.request.Request(url, json.dumps(edited).encode(), headers, method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                version = int(answer.headers["ETag"].split('"')[1])
        except urllib.error.HTTPError as error:
            if error.code not in (409, 412):
                raise
            return False
        self.made[version] = theirs(edited, "owner")
        return True

    def _edited(self, body: dict[str, Any], number: int) -> dict[str, Any]:
        edited = {**body, "name": f"Bed, note {number}", "description": f"note {number}", "status": "active"}
        edited["telecom"] = [{"system": "phone", "value": f"555-{number:04d}"}]
        kept = [e for e in body.get("extension", []) if e["url"] != NOTE]
        edited["extension"] = [{"url": NOTE, "valueInteger": number}, *kept]  # first: hers wherever it stands
        others = [i for i in body.get("identifier", []) if i.get("system") != INVENTORY]
        edited["identifier"] = [*others, {"system": INVENTORY, "value": f"asset-{number}"}]
        return edited


def mismatches(to: Site) -> int:
    """Writes given up for the moment because somebody else wrote first each time."""
    return sum(o.kind is OutcomeKind.FAILED and o.reason is Reason.VERSION_MISMATCH for o in to.outcomes())


@pytest.mark.timeout(240)
def test_a_write_that_a_clinician_overtakes_each_time_takes_nothing_of_hers_back_and_arrives_when_she_stops(
    broker: Broker, owner: Ehr, tmp_path: Path
) -> None:
    with (
        proxied(owner, tmp_path / "p") as proxy,
        site(tmp_path / "s", broker.bootstrap, {OWNER: proxy.url}, writers={OWNER: {"attempt_timeout_s": 60}}) as to,
    ):
        to.start("gate", wait=False)
        to.start("writer", OWNER)
        to.publish(to.bed(BED, STATES[0]))
        to.wait_confirmed(to.wait_head(BED))
        clinician = Clinician(owner.base_url, to.tenant)
        clinician.edit()
        proxy.set(Fault(kind=FaultKind.LATENCY, methods=("PUT",), amount=HELD_S))
        to.publish(to.bed(BED, STATES[1], staffed=True))

        def she_saves_and_we_are_too_late() -> bool:
            clinician.edit()
            return mismatches(to) > 0

        until(she_saves_and_we_are_too_late, "a write that met a version mismatch each time")
        proxy.set()
        clinician.edit()
        last = to.bed(BED, STATES[2])
        to.publish(last)
        head = to.wait_head(BED, last.event_id)
        to.wait_confirmed(head)
        clinician.edit()
        to.settle(ehrs={OWNER: owner.base_url})
        versions = [version_of(body, "owner") for body in to.versions(BED, owner.base_url)]
        problems = history_problems(versions, clinician.made, head.revision)
        assert not problems, problems
