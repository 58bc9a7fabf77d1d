"""The hostile runs of tests/hazards/test_fhir_hostile.py on a HAPI FHIR server: other conflicts, other creates, gzip, caches."""

import pytest

from pipeline.destinations.fhir.profile import load_profile
from pipeline.local.servers.hapi import Hapi
from tests.hazards.test_fhir_hostile import (
    Server,
    test_a_planted_old_version_a_second_write_and_a_lost_edit_are_caught,
    test_a_stay_written_before_the_one_that_leaves_its_bed_is_caught,
    test_a_writer_that_repeats_blindly_where_no_answer_came_is_caught,
    test_a_writer_that_takes_every_entry_of_an_answered_bundle_for_done_is_caught,
    test_a_zombie_without_a_fence_is_caught,
    test_after_everything_the_history_rises_the_clinicians_edits_stand_and_the_end_is_the_gates,
    test_in_bundles_too_a_whole_ward_is_right_in_the_end_and_no_bed_ever_had_two_stays,
)

__all__ = [
    "test_a_planted_old_version_a_second_write_and_a_lost_edit_are_caught",
    "test_a_stay_written_before_the_one_that_leaves_its_bed_is_caught",
    "test_a_writer_that_repeats_blindly_where_no_answer_came_is_caught",
    "test_a_writer_that_takes_every_entry_of_an_answered_bundle_for_done_is_caught",
    "test_a_zombie_without_a_fence_is_caught",
    "test_after_everything_the_history_rises_the_clinicians_edits_stand_and_the_end_is_the_gates",
    "test_in_bundles_too_a_whole_ward_is_right_in_the_end_and_no_bed_ever_had_two_stays",
]


@pytest.fixture
def server(hapi: Hapi) -> Server:
    return Server(hapi.base_url, load_profile("hapi-replica"))
