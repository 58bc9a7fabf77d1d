"""What a report says of where it comes from."""

import pytest

from pipeline.local.provenance import shown

DIGITS = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("commit", "short"), [(DIGITS, "0123456789ab"), (f"{DIGITS}+changes", "0123456789ab+changes"), ("unknown", "unknown")]
)
def test_a_commit_in_short_still_says_that_the_tree_had_changes(commit: str, short: str) -> None:
    assert shown(commit) == short
