"""The alert rules lean on metrics, windows and pages that there are, and say what the shipped policy of budgets says."""

import re
from pathlib import Path
from typing import Any, Final

import yaml

from pipeline.domain.accounts.budgets import IncidentKind
from pipeline.ops.metrics import CATALOGUE, WINDOW
from pipeline.roles.policies import load_budgets

REPOSITORY: Final = Path(__file__).resolve().parents[3]
RULES: Final[list[dict[str, Any]]] = [
    rule
    for group in yaml.safe_load((REPOSITORY / "k8s/components/monitoring/rules.yaml").read_text())["spec"]["groups"]
    for rule in group["rules"]
]
BY_NAME: Final = {rule["alert"]: rule for rule in RULES}


def test_every_metric_and_every_window_of_the_rules_exists() -> None:
    for rule in RULES:
        assert set(re.findall(r"surgeline_[a-z_]+", rule["expr"])) <= set(CATALOGUE), rule["alert"]
        assert set(re.findall(r'window_s="(\d+)"', rule["expr"])) <= (WINDOW.values or set()), rule["alert"]


def test_every_alert_leads_to_a_place_of_a_page() -> None:
    for rule in RULES:
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        headings = re.findall(r"^#+ +(.+?)\s*$", (REPOSITORY / page).read_text(), re.MULTILINE)
        assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_rules_burn_at_the_factors_of_the_shipped_policy() -> None:
    names = {IncidentKind.BURNING_FAST: "SurgelineBudgetBurnsFast", IncidentKind.BURNING_SLOWLY: "SurgelineBudgetBurnsSlowly"}
    for kind, name in names.items():
        said = set(re.findall(r'window_s="(\d+)"\} >= ([\d.]+)', BY_NAME[name]["expr"]))
        meant = {
            (str(each), f"{burn.factor:g}")
            for burn in load_budgets().burn
            if burn.kind is kind
            for each in (burn.long_s, burn.short_s)
        }
        assert said == meant
