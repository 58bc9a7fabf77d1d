"""Attacks on a FHIR destination by what a server answers."""

import time

from pipeline.destinations.fhir.entries import entry_of, parts_of
from pipeline.destinations.fhir_http import MAX_RETRY_AFTER_S, retry_after_s
from pipeline.domain.identifiers import Millis

NOW = Millis(1_700_000_000_000)
SECONDS_S = 10.0


def test_a_date_that_no_number_holds_asks_for_no_pause() -> None:
    """It ended the write as a fault of ours, whatever the server had answered beside it."""
    assert retry_after_s("Mon, 01 Jan 2020 00:00:00 +99999999999999999999", NOW) == 0.0
    assert retry_after_s("Mon, 01 Jan 9999 23:59:59 -2359", NOW) == MAX_RETRY_AFTER_S
    assert retry_after_s("9" * 5_000, NOW) == MAX_RETRY_AFTER_S


def test_an_answer_of_far_more_entries_than_were_asked_does_not_hold_the_loop() -> None:
    """80,000 of them are within the bound of a body."""
    asked = [entry_of(f"Location/{number}", {}, {}) for number in range(2)]
    answered = [{"response": {"status": "200", "location": f"Location/{number}"}} for number in range(80_000)]
    began_at = time.process_time()
    parts = parts_of(asked, {"resourceType": "Bundle", "entry": answered})
    assert time.process_time() - began_at < SECONDS_S
    assert all(part is not None for part in parts)
