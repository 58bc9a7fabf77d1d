"""Metrics: bounded labels, named units, and documents that say what the catalogue says."""

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from pipeline.domain.event import EntityType
from pipeline.domain.records import DecisionKind, Lane, Reason
from pipeline.formats.hl7v2 import ack
from pipeline.ops import metrics
from pipeline.ops.metrics import CATALOGUE, DESTINATION_LIMIT, OTHER
from pipeline.ops.reference.catalogues import DOCUMENTS

REPOSITORY = Path(__file__).resolve().parents[3]


def sample(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name, labels)


def test_a_decision_is_counted_by_kind_reason_and_entity_type() -> None:
    labels = {"kind": "STALE", "reason": "OLDER_TIME", "entity_type": "bed"}
    before = sample("surgeline_gate_decisions_total", **labels) or 0
    metrics.GATE_DECISIONS.of(DecisionKind.STALE, Reason.OLDER_TIME, EntityType.BED).inc()
    assert sample("surgeline_gate_decisions_total", **labels) == before + 1


def test_a_value_outside_of_its_list_never_makes_a_series() -> None:
    metrics.GATE_ACCEPTED.of("Jane Doe", "bed").inc()
    assert b"Jane" not in metrics.exposition()
    assert sample("surgeline_gate_accepted_total", lane=OTHER, entity_type="bed")


def test_names_of_destinations_are_bounded_in_number() -> None:
    registry = CollectorRegistry()
    gauge = metrics.Metric(Gauge("parked", "of the test", ["destination"], registry=registry), (metrics.DESTINATION,))
    for number in range(DESTINATION_LIMIT + 20):
        gauge.of(f"destination-{number}").set(1)
    (family,) = registry.collect()
    assert len(family.samples) == DESTINATION_LIMIT + 1


def test_lag_reaches_from_five_milliseconds_to_half_an_hour() -> None:
    metrics.LAG_SECONDS.of("ehr", Lane.CRITICAL, EntityType.BED).observe(0.004)
    assert (metrics.LAG_BUCKETS_S[0], metrics.LAG_BUCKETS_S[-1]) == (0.005, 1800)


@pytest.mark.parametrize("metric", CATALOGUE.values(), ids=lambda metric: metric.name)
def test_a_name_says_what_it_is_and_in_which_unit(metric: metrics.Declared) -> None:
    assert re.fullmatch(r"surgeline_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_reference_says_what_the_catalogue_says(name: str) -> None:
    committed = (REPOSITORY / "docs" / "operating" / name).read_text(encoding="utf-8")
    assert committed == DOCUMENTS[name](), "run: python -m pipeline.ops.reference.catalogues"


def test_every_answer_of_mllp_can_be_counted() -> None:
    assert metrics.CODE.values is not None
    assert {*ack.Code, ack.UNTOLD} <= metrics.CODE.values
