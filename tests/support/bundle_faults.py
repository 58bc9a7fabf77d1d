"""A fault proxy that knows bundles: it does part of one, says something else of it than was done, and mixes the answers up."""

import enum
import json
import random
from collections import Counter
from typing import Any, Final

from aiohttp import web
from multidict import CIMultiDict

from pipeline.local.servers.delay import Answer, FaultProxy

Body = dict[str, Any]

REFUSALS: Final = ("409 Conflict", "412 Precondition Failed", "429 Too Many Requests", "503 Service Unavailable")


class BundleFault(enum.StrEnum):
    """What goes wrong with a bundle, or with one write."""

    REFUSED_ENTRY = "refused_entry"
    """Some entries of a batch are not done, and answered with 409, 412, 429, 500 or 503; the others are done."""
    FAILED_AFTER_COMMIT = "failed_after_commit"
    """Some entries are done, and answered with 500."""
    ANSWERS_MISSING = "answers_missing"
    """All is done; some entries have no answer."""
    ANSWERS_SHUFFLED = "answers_shuffled"
    """All is done; the answers come in another order."""
    ANSWER_TWICE = "answer_twice"
    """All is done; one answer comes twice."""
    OUTCOME_AFTER_COMMIT = "outcome_after_commit"
    """All is done, batch or transaction; 200 with an OperationOutcome of severity error in the answer's place."""
    STALE_ENTRIES = "stale_entries"
    """What a batch reads is shown as it was one version ago."""
    REPEATED = "repeated"
    """Any write reaches the server twice, as from a gateway that repeats; what is answered is what the second was told."""


OF_A_BATCH: Final = (
    BundleFault.REFUSED_ENTRY,
    BundleFault.REFUSED_ENTRY,
    BundleFault.FAILED_AFTER_COMMIT,
    BundleFault.ANSWERS_MISSING,
    BundleFault.ANSWERS_SHUFFLED,
    BundleFault.ANSWER_TWICE,
    BundleFault.OUTCOME_AFTER_COMMIT,
    BundleFault.STALE_ENTRIES,
)


class BundleFaultProxy(FaultProxy):
    """Beside the faults of `FaultProxy`. `batch_share` and `write_share`: how many batches and other writes are struck.

    `only`: the fault of a batch that strikes, instead of any. `batches` counts those that came, `struck` what was done to
    them.
    """

    def __init__(self, target: str, seed: int = 0) -> None:
        super().__init__(target, seed=seed)
        self.batch_share = self.write_share = 0.0
        self.only: BundleFault | None = None
        self.struck: Counter[BundleFault] = Counter()
        self.batches = 0
        self._draws = random.Random(f"bundles {seed}")

    def pacify(self) -> None:
        """From now on every bundle passes as it is."""
        self.batch_share = self.write_share = 0.0

    async def _forward(self, request: web.Request, body: bytes, also_dropped: str) -> Answer:
        if request.method not in ("POST", "PUT") or request.path.endswith("/_search"):
            return await super()._forward(request, body, also_dropped)
        bundle = json.loads(body)
        if bundle.get("resourceType") == "Bundle" and bundle.get("type") == "batch":
            self.batches += 1
            if self._draws.random() < self.batch_share:
                return await self._batch(request, bundle, self.only or self._draws.choice(OF_A_BATCH))
        elif self._draws.random() < self.write_share:
            return await self._write(request, body, also_dropped)
        return await super()._forward(request, body, also_dropped)

    async def _write(self, request: web.Request, body: bytes, also_dropped: str) -> Answer:
        first = await super()._forward(request, body, also_dropped)
        if request.method == "POST" and self._draws.random() < 0.5:
            self.struck[BundleFault.OUTCOME_AFTER_COMMIT] += 1
            return _outcome_in_200(first)
        self.struck[BundleFault.REPEATED] += 1
        return await super()._forward(request, body, also_dropped)

    async def _batch(self, request: web.Request, bundle: Body, fault: BundleFault) -> Answer:
        entries = bundle["entry"]
        writes = [number for number, entry in enumerate(entries) if entry["request"]["method"] != "GET"]
        chosen = set(self._draws.sample(writes, k=self._draws.randint(1, len(writes)))) if writes else set()
        left_out = chosen if fault is BundleFault.REFUSED_ENTRY else set()
        sent = {**bundle, "entry": [entry for number, entry in enumerate(entries) if number not in left_out]}
        answer = await self._sent(request, sent)
        told = json.loads(answer.body) if answer.status == 200 else {}
        if told.get("resourceType") != "Bundle" or len(told.get("entry", [])) != len(sent["entry"]):
            return answer
        answers = told["entry"]
        match fault:
            case BundleFault.REFUSED_ENTRY:
                for number in sorted(left_out):
                    answers.insert(number, _refused(self._draws.choice((*REFUSALS, "500 Internal Server Error"))))
            case BundleFault.FAILED_AFTER_COMMIT:
                for number in chosen:
                    answers[number] = _refused("500 Internal Server Error")
            case BundleFault.ANSWERS_MISSING:
                answers = [each for number, each in enumerate(answers) if number not in chosen]
            case BundleFault.ANSWERS_SHUFFLED:
                self._draws.shuffle(answers)
            case BundleFault.ANSWER_TWICE:
                answers.insert(self._draws.randrange(len(answers) + 1), self._draws.choice(answers))
            case BundleFault.STALE_ENTRIES:
                answers = [await self._as_before(each) for each in answers]
            case _:
                self.struck[fault] += 1
                return _outcome_in_200(answer)
        self.struck[fault] += bool(chosen) or fault is BundleFault.STALE_ENTRIES
        return _with(answer, {**told, "entry": answers})

    async def _sent(self, request: web.Request, bundle: Body) -> Answer:
        """A batch of no entries is one that a server may refuse: it has an empty answer here."""
        if bundle["entry"]:
            return await super()._forward(request, json.dumps(bundle).encode(), "accept-encoding")
        headers = CIMultiDict({"Content-Type": "application/fhir+json"})
        empty = {"resourceType": "Bundle", "type": "batch-response", "entry": []}
        return Answer(200, "OK", headers, json.dumps(empty).encode(), 0.0)

    async def _as_before(self, entry: Body) -> Body:
        resource = entry.get("resource", {})
        version = int(resource.get("meta", {}).get("versionId", 0))
        if version < 2 or not entry["response"]["status"].startswith("200"):
            return entry
        name = f"{resource['resourceType']}/{resource['id']}"
        before = await self._fetch(f"{name}/_history/{version - 1}")
        if before is None:
            return entry
        response = {**entry["response"], "etag": f'W/"{version - 1}"', "location": f"{name}/_history/{version - 1}"}
        return {**entry, "resource": before, "response": response}


def _refused(status: str) -> Body:
    issue = {"severity": "error", "code": "exception" if status.startswith("5") else "conflict", "diagnostics": "by the proxy"}
    return {"response": {"status": status, "outcome": {"resourceType": "OperationOutcome", "issue": [issue]}}}


def _outcome_in_200(answer: Answer) -> Answer:
    issue = {"severity": "error", "code": "exception", "diagnostics": "by the proxy"}
    return _with(answer, {"resourceType": "OperationOutcome", "issue": [issue]}, status=200)


def _with(answer: Answer, body: Body, status: int | None = None) -> Answer:
    headers = answer.headers.copy()
    for name in ("Content-Encoding", "ETag", "Location", "Last-Modified"):
        headers.popall(name, None)
    headers["Content-Type"] = "application/fhir+json"
    return Answer(status or answer.status, answer.reason, headers, json.dumps(body).encode(), answer.took_s)
