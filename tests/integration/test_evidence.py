"""The evidence of one change from its sender to the EHR, sealed by signed checkpoints; and the change counts in the budget."""

import json
import time
from typing import Any, Final

import pytest

from pipeline.domain.identifiers import Millis
from pipeline.formats.rfc3339 import rfc3339_of
from pipeline.local.stack import Stack, wait_for
from tests.support.stacks import ANSWER_S, post, surgeline

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

BED: Final = "EV-1"
WHY: Final = "ticket 4711"


def dirty() -> dict[str, object]:
    return {
        "facility": "GENERAL",
        "source_system": "environmental",
        "entity_type": "bed",
        "namespace": "GENERAL",
        "entity_id": BED,
        "event_type": "BED_STATUS",
        "recorded_at": rfc3339_of(Millis(time.time_ns() // 1_000_000)),
        "payload": {"environment": "DIRTY"},
    }


def evidence(stack: Stack) -> list[dict[str, Any]]:
    done = surgeline(stack, "evidence", "entity", "bed", "GENERAL", BED, "--tenant", "demo", "--reason", WHY, "--json")
    assert done.returncode == 0, done.stderr
    lines: list[dict[str, Any]] = json.loads(done.stdout)["lines"]
    return lines


def test_what_became_of_a_change_is_told_sealed_and_counted(pipeline: Stack) -> None:
    auditor, budgets = pipeline.start("auditor"), pipeline.start("budgets")
    try:
        assert post(pipeline, dirty(), "evidence-1")[0] == 202
        pipeline.wait_ready(auditor, budgets)
        wait_for(lambda: "RECEIVED" in {line["stage"] for line in evidence(pipeline)}, ANSWER_S, "the EHR has it", poll_s=0.5)
        told = evidence(pipeline)
        assert [line["what"] for line in told if line["stage"] in ("SENT", "JUDGED")][:2] == ["BED_STATUS", "ACCEPTED"]
        sent = told[0]
        assert sent["fields"] == ["environment"]
        assert sent["values"] is None
        assert sent["detail"]["original"].startswith("raw.http/")
        assert sent["detail"]["original_kept"] == "yes"
        looks = [line for line in told if line["what"] == "evidence.looked"]
        assert len(looks) >= 2, "each look stands in the evidence itself"
        assert {line["why"] for line in looks} == {WHY}
    finally:
        pipeline.stop(auditor, budgets)

    done = surgeline(pipeline, "audit", "verify", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    verified = json.loads(done.stdout)
    assert verified["whole"]
    assert verified["checkpoints"] >= 2, "one at the start, one at the stop"
    heads = {head["chain"]: head["sequence"] for head in verified["heads"]}
    sealed = {head["chain"]: head["sequence"] for head in verified["sealed"]}
    assert {chain for chain in heads if chain.startswith("operator/")} <= set(sealed)

    shown = json.loads(surgeline(pipeline, "budgets", "show", "--json").stdout)
    assert sum(each["changes"] for each in shown["budgets"] if each["destination"] == "ehr") >= 1
