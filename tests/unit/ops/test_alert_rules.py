"""The alert rules lean on metrics and pages that there are, say each kind of incident, and see a first fault."""

import re
from pathlib import Path
from typing import Any, Final

import yaml

from pipeline.domain.accounts.budgets import IncidentKind
from pipeline.ops.metrics import CATALOGUE

REPOSITORY: Final = Path(__file__).resolve().parents[3]
RULES: Final[list[dict[str, Any]]] = [
    rule
    for group in yaml.safe_load((REPOSITORY / "k8s/components/monitoring/rules.yaml").read_text())["spec"]["groups"]
    for rule in group["rules"]
]
INCREASE: Final = re.compile(r"increase\((surgeline_\w+(?:\{[^}]*\})?)\[1h\]\)")


def test_every_metric_of_the_rules_exists() -> None:
    for rule in RULES:
        assert set(re.findall(r"surgeline_[a-z_]+", rule["expr"])) <= set(CATALOGUE), rule["alert"]


def test_every_alert_leads_to_a_place_of_a_page() -> None:
    for rule in RULES:
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        headings = re.findall(r"^#+ +(.+?)\s*$", (REPOSITORY / page).read_text(), re.MULTILINE)
        assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_each_kind_of_incident_has_an_alert_that_follows_the_role_s_own_judgement() -> None:
    said = {
        kind: rule["labels"]["severity"]
        for rule in RULES
        for kind in re.findall(r'surgeline_incident_open\{kind="([A-Z_]+)"\}', rule["expr"])
    }
    assert said == {
        IncidentKind.BURNING_FAST.value: "page",
        IncidentKind.BURNING_SLOWLY.value: "ticket",
        IncidentKind.EXHAUSTED.value: "ticket",
    }


def test_a_counter_s_first_rise_is_seen_too() -> None:
    """`increase` over a series that begins with 1 is 0."""
    counted = [(rule["alert"], selector, rule["expr"]) for rule in RULES for selector in INCREASE.findall(rule["expr"])]
    assert [alert for alert, selector, expr in counted if f"{selector} > 0 unless {selector} offset 1h" not in expr] == []
    assert len(counted) == 2
