"""The promises of tests/integration/test_fhir_mapping.py at a HAPI FHIR server of R5, in R5's form."""

import inspect
from collections.abc import AsyncIterator

import pytest

from pipeline.local.servers.hapi import Hapi
from tests.integration import test_fhir_mapping as promises
from tests.integration.test_fhir_mapping import Lab, name

__all__ = ["name"]

OF_THE_FORM = (
    "test_a_transfer_is_made_moved_and_declined_and_a_clinicians_notes_stay",
    "test_a_procedure_is_booked_moved_and_cancelled_and_other_participants_stay",
    "test_a_procedure_of_which_nothing_is_known_yet_is_made_and_filled_in",
    "test_a_stay_s_life_comes_back_as_echoes_and_a_clinician_s_word_comes_alone",
    "test_two_stays_of_one_condition_share_the_episode_that_their_source_names",
    "test_a_stay_that_moves_to_another_episode_leaves_those_of_others_alone",
    "test_an_owner_is_told_a_reservation_and_nothing_else_of_its_stay",
)
"""Those that the version's form has a part in; the others are the server's own ways, which test_mapping holds it to."""

for _name in OF_THE_FORM:
    globals()[_name] = getattr(promises, _name)
    assert "lab" in inspect.signature(globals()[_name]).parameters


@pytest.fixture
async def lab(later: Hapi) -> AsyncIterator[Lab]:
    made = Lab(later.base_url, "hapi", "R5")
    yield made
    await made.close()


pytestmark = pytest.mark.parametrize("later", ["R5"], indirect=True)
