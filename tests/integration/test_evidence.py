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


def asked(stack: Stack, *command: str) -> dict[str, Any]:
    """What a command prints as JSON; empty where Kafka did not answer it in time."""
    done = surgeline(stack, *command, "--json")
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return found


def is_sealed(stack: Stack) -> bool:
    """Whether checkpoints speak for the chains of those who looked."""
    sealed = {head["chain"] for head in asked(stack, "audit", "verify").get("sealed", ())}
    return any(chain.startswith("operator/") for chain in sealed)


def is_counted(stack: Stack) -> bool:
    """Whether the budgets at the EHR have counted anything."""
    budgets = asked(stack, "budgets", "show").get("budgets", ())
    return any(each["changes"] for each in budgets if each["destination"] == "ehr")


def test_what_became_of_a_change_is_told_sealed_and_counted(pipeline: Stack) -> None:
    auditor = pipeline.start("auditor", environment={"SURGELINE_AUDIT__CHECKPOINT_S": "2"})
    budgets = pipeline.start("budgets")
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
        wait_for(lambda: is_sealed(pipeline), ANSWER_S, "what people did is sealed", poll_s=1)
        wait_for(lambda: is_counted(pipeline), ANSWER_S, "the change is counted", poll_s=1)
    finally:
        pipeline.stop(auditor, budgets)
    done = surgeline(pipeline, "audit", "verify", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
