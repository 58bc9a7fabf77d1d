"""The demo's rhythm is the one of the data that it is said to come from."""

import importlib.util
from pathlib import Path
from typing import Final

import pytest

from pipeline.local.demo.rhythm import ENTRY, HOUR_WEIGHTS, STAYS

SCRIPT: Final = Path(__file__).resolve().parents[3] / "loadtest" / "fit_rhythm.py"


def test_constants_are_what_the_script_fits_to_the_data(shared_data: Path) -> None:
    spec = importlib.util.spec_from_file_location("fit_rhythm", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fitted = module.fit(shared_data / "capacity" / "mimic3-demo-1.4")
    assert tuple(fitted.hour_weights) == HOUR_WEIGHTS
    assert fitted.entry == dict(ENTRY)
    assert {kind: (mean, deviation, shares) for kind, (_, mean, deviation, shares) in fitted.stays.items()} == {
        kind: (stay.log_mean, stay.log_sd, dict(stay.leads_to)) for kind, stay in STAYS.items()
    }


def test_shares_add_up() -> None:
    assert sum(ENTRY.values()) == pytest.approx(1)
    assert all(sum(stay.leads_to.values()) == pytest.approx(1) for stay in STAYS.values())
    assert sum(HOUR_WEIGHTS) == pytest.approx(24, abs=0.5)
