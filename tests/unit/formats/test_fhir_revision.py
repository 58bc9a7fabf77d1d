"""The mark that a resource of ours carries."""

from typing import Any

import pytest

from pipeline.domain.identifiers import Revision, revision_of
from pipeline.formats.fhir.codec import decode
from pipeline.formats.fhir.revision import IN_EXTENSION, changed_fields_at_ehr, mark_extension, mark_of, read_mark
from pipeline.formats.fhir.terms import REVISION

KEY = b"a key for tests, of 32 bytes....."
MARK = mark_of(revision_of(3, 44), "0123456789abcdef", {"sex": "female", "name": ["Doe", None]}, KEY)


def with_parts(*parts: tuple[str, str]) -> dict[str, Any]:
    return {"extension": [{"url": REVISION, "extension": [{"url": url, "valueString": text} for url, text in parts]}]}


def test_a_revision_is_carried_exactly_at_its_greatest() -> None:
    mark = mark_of(revision_of(511, 2**44 - 1), "0123456789abcdef", {}, KEY)
    assert read_mark({"extension": [mark_extension(mark)]}) == mark


@pytest.mark.parametrize(
    "text", ["", "0.5", "1", "1.", ".1", "01.5", "1.05", "1.5 ", "512.1", "1.99999999999999", "-1.5", "1.5.6", "١.٥"]
)
def test_a_revision_that_is_none_is_unknown(text: str) -> None:
    assert read_mark(with_parts(("revision", text), ("stateHash", "0" * 16))) is None


def test_a_mark_that_is_not_whole_is_unknown() -> None:
    assert read_mark(with_parts(("revision", "1.5"))) is None
    assert read_mark(with_parts(("revision", "1.5"), ("revision", "1.6"), ("stateHash", "0" * 16))) is None
    assert read_mark({"extension": "none"}) is None


def test_two_marks_are_unknown_and_the_next_write_leaves_one() -> None:
    other = {"url": "urn:other", "valueString": "x"}
    body = {"extension": [mark_extension(MARK), other, mark_extension(MARK)]}
    assert read_mark(body) is None
    assert IN_EXTENSION.put(body, MARK)["extension"] == [mark_extension(MARK), other]


def test_equal_values_of_two_resources_have_different_digests() -> None:
    other = mark_of(revision_of(3, 45), "0123456789abcdef", {"sex": "female"}, KEY)
    assert dict(other.digests)["sex"] != dict(MARK.digests)["sex"]


def test_without_the_key_nothing_can_be_told() -> None:
    body = IN_EXTENSION.put({}, MARK)
    shown = {"sex": "female", "name": ["Doe", None]}
    assert changed_fields_at_ehr(body, shown, KEY) == ()
    assert changed_fields_at_ehr(body, shown, b"another key, also of 32 bytes....") == ("name", "sex")


def test_a_field_that_was_removed_has_changed() -> None:
    assert changed_fields_at_ehr(IN_EXTENSION.put({}, MARK), {"name": ["Doe", None]}, KEY) == ("sex",)


def test_no_revision_is_carried_for_none() -> None:
    with pytest.raises(ValueError, match="out of range"):
        revision_of(0, 0)
    assert read_mark(with_parts(("revision", "-"), ("stateHash", "0" * 16))) is None
    assert Revision(0) == 0


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"a":"\xff"}', b'{"a":"\\ud800"}', b"[" * 100_000, b"null"])
def test_bytes_that_are_no_object_are_none(data: bytes) -> None:
    assert decode(data) is None
