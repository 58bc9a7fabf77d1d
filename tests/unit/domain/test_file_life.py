"""What becomes of a file, state by state: each way in which one can be wrong has its own end."""

import hashlib
from typing import Any

import msgspec
import pytest

from pipeline.domain.files.life import (
    Again,
    Content,
    FileReason,
    Files,
    FileState,
    FileStatus,
    Flaw,
    Hold,
    Land,
    Manifest,
    Part,
    Past,
    Read,
    Refuse,
    Repeat,
    Rules,
    Seen,
    Wait,
    Weighed,
    file_id_of,
    look,
    weigh,
)
from pipeline.domain.identifiers import Millis
from tests.support.files_in import NAME, NOW, census, manifest_of

CONTENT = census(10)
MANIFEST = manifest_of(CONTENT)
RULES = Rules(sources=frozenset({"ehr-main"}), schema="census-snapshot/1")
JUST_NOW = Millis(NOW - 10_000)
TRUE = Content(len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), records=10)


def seen(manifest: Manifest | Flaw | None = MANIFEST, at: Millis = JUST_NOW, **said: Any) -> Seen:
    plain: dict[str, Any] = {
        "name": NAME,
        "data": Part(len(CONTENT), at),
        "manifest": manifest,
        "manifest_since": at if manifest is not None else None,
        "signature_since": at if manifest is not None else None,
    }
    return Seen(**{**plain, **said})


def state(status: FileStatus = FileStatus.TAKEN, **said: Any) -> FileState:
    plain: dict[str, Any] = {
        "tenant": "north",
        "partner": "epic",
        "file_id": "f1",
        "name": NAME,
        "name_digest": "n1",
        "profile": "census-snapshot",
        "status": status,
        "sha256": MANIFEST.sha256,
        "created_at": MANIFEST.created_at,
        "since": JUST_NOW,
        "at": NOW,
    }
    return FileState(**{**plain, **said})


def why(decided: object) -> FileReason | None:
    match decided:
        case Wait(why):
            return why
        case Refuse(flaw):
            return flaw.why
        case _:
            return None


# -- before it is read


def test_a_file_is_read_only_when_manifest_and_signature_are_there_and_true() -> None:
    assert look(seen(), Past(), NOW, RULES) == Read()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (seen(None), FileReason.NO_MANIFEST),
        (seen(signature_since=None), FileReason.NO_SIGNATURE),
        (seen(data=None), None),
        (seen(msgspec.structs.replace(MANIFEST, not_before=NOW + 60_000, not_after=NOW + 120_000)), FileReason.EARLY),
        (seen(data=Part(5, JUST_NOW)), FileReason.PARTIAL),
    ],
    ids=["no manifest", "no signature", "no data", "early", "partial"],
)
def test_what_is_not_whole_yet_waits_and_is_not_refused(given: Seen, expected: FileReason | None) -> None:
    found = look(given, Past(), NOW, RULES)
    assert isinstance(found, Wait)
    assert found.why is (expected or FileReason.NO_DATA)
    assert not found.is_long


@pytest.mark.parametrize("given", [seen(None), seen(signature_since=None)], ids=["no manifest", "no signature"])
def test_a_manifest_that_comes_an_hour_later_is_in_time_and_the_wait_was_told(given: Seen) -> None:
    later = Millis(NOW + 3_600_000)
    assert look(given, Past(), later, RULES) == Wait(look(given, Past(), NOW, RULES).why, is_long=True)  # type: ignore[union-attr]
    long_window = msgspec.structs.replace(MANIFEST, not_after=NOW + 7_200_000)
    whole = seen(long_window, manifest_since=later, signature_since=later)
    assert look(whole, Past(), later, RULES) == Read()


@pytest.mark.parametrize("given", [seen(None), seen(signature_since=None)], ids=["no manifest", "no signature"])
def test_a_wait_has_an_end(given: Seen) -> None:
    assert isinstance(look(given, Past(), Millis(NOW + RULES.waits.give_up_ms), RULES), Refuse)


def test_an_announced_file_is_missing_when_its_window_is_over_and_given_up_a_day_later() -> None:
    gone = seen(data=None)
    assert look(gone, Past(), Millis(MANIFEST.not_after + RULES.waits.grace_ms + 1), RULES) == Wait(
        FileReason.NO_DATA, is_long=True
    )
    assert (
        why(look(gone, Past(), Millis(MANIFEST.not_after + RULES.waits.grace_ms + RULES.waits.give_up_ms + 1), RULES))
        is FileReason.NO_DATA
    )


def test_a_file_that_does_not_grow_is_partial_in_the_end() -> None:
    short = seen(data=Part(5, Millis(NOW - RULES.waits.partial_ms - 1)))
    assert look(short, Past(), NOW, RULES) == Refuse(look(short, Past(), NOW, RULES).flaw)  # type: ignore[union-attr]
    assert why(look(short, Past(), NOW, RULES)) is FileReason.PARTIAL


def test_an_encrypted_file_s_length_says_nothing_of_its_content() -> None:
    rules = Rules(sources=RULES.sources, schema=RULES.schema, is_encrypted=True)
    assert isinstance(look(seen(data=Part(5, JUST_NOW)), Past(), NOW, rules), Read)


def test_late_is_counted_from_its_arrival_and_not_from_our_own_downtime() -> None:
    after = Millis(MANIFEST.not_after + 7_200_000)
    assert look(seen(), Past(), after, RULES) == Read(late=False)
    late = seen(at=Millis(MANIFEST.not_after + 120_000))
    assert look(late, Past(), after, RULES) == Read(late=True)
    refusing = Rules(sources=RULES.sources, schema=RULES.schema, late="refuse")
    assert why(look(late, Past(), after, refusing)) is FileReason.LATE


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"file": "census-20260104T0600.csv"}, FileReason.BAD_MANIFEST),
        ({"source_system": "someone-else"}, FileReason.UNKNOWN_SOURCE),
        ({"schema": "bed-extract/1"}, FileReason.UNKNOWN_SCHEMA),
        ({"size": RULES.max_bytes + 1}, FileReason.TOO_LARGE),
        ({"created_at": Millis(NOW + RULES.waits.skew_ms + 1)}, FileReason.FUTURE_TIME),
    ],
)
def test_what_a_sender_may_not_say_is_refused_before_a_byte_is_read(said: dict[str, Any], expected: FileReason) -> None:
    assert why(look(seen(msgspec.structs.replace(MANIFEST, **said)), Past(), NOW, RULES)) is expected


def test_ten_gigabytes_are_refused_by_their_length_alone() -> None:
    assert why(look(seen(data=Part(10 << 30, JUST_NOW)), Past(), NOW, RULES)) is FileReason.TOO_LARGE


def test_a_clock_that_is_a_little_ahead_is_borne() -> None:
    assert isinstance(look(seen(msgspec.structs.replace(MANIFEST, created_at=NOW + 200_000)), Past(), NOW, RULES), Read)


def test_a_link_a_folder_or_a_name_that_was_not_agreed_is_refused_whatever_lies_beside_it() -> None:
    assert why(look(seen(None, data=Part(5, JUST_NOW, is_plain=False)), Past(), NOW, RULES)) is FileReason.NOT_A_FILE
    assert why(look(seen(None), Past(), NOW, Rules(sources=RULES.sources, schema=None))) is FileReason.UNKNOWN_NAME


def test_a_manifest_or_signature_that_is_still_being_written_gets_a_moment() -> None:
    flaw = Flaw(FileReason.BAD_MANIFEST, "", "rule", "remedy")
    forged = Flaw(FileReason.BAD_SIGNATURE, "", "rule", "remedy")
    assert look(seen(flaw, at=NOW), Past(), NOW, RULES) == Wait(FileReason.BAD_MANIFEST)
    assert look(seen(at=NOW, signature=forged), Past(), NOW, RULES) == Wait(FileReason.BAD_SIGNATURE)
    assert look(seen(flaw), Past(), NOW, RULES) == Refuse(flaw)
    assert look(seen(signature=forged), Past(), NOW, RULES) == Refuse(forged)


def test_a_file_that_is_held_waits_for_its_release() -> None:
    assert look(seen(), Past(own=state(FileStatus.HELD)), NOW, RULES) == Wait(FileReason.TOO_MANY_REJECTS)
    assert look(seen(), Past(own=state(FileStatus.HELD, released_by="operator:x")), NOW, RULES) == Read()


def test_what_was_taken_is_acknowledged_again_once_its_content_is_known_to_be_the_same() -> None:
    taken = state()
    assert look(seen(), Past(own=taken), NOW, RULES) == Read(), "only its content proves that it is the same"
    assert look(seen(data=None), Past(own=taken), NOW, RULES) == Again(taken)


def test_parts_that_a_crash_left_behind_are_put_away_and_those_that_came_since_are_not() -> None:
    refused = state(FileStatus.REFUSED)
    assert look(seen(data=None), Past(own=refused), NOW, RULES) == Again(refused)
    assert isinstance(look(seen(data=None, at=Millis(NOW + 1)), Past(own=refused), NOW, RULES), Wait)


# -- once it was read


@pytest.mark.parametrize(
    ("content", "past", "expected"),
    [
        (TRUE, Past(), Land()),
        (TRUE, Past(own=state(FileStatus.LANDING, rows_done=5)), Land(5)),
        (TRUE, Past(own=state(FileStatus.REFUSED, rows_done=0)), Land()),
        (TRUE, Past(own=state()), Again(state())),
        (TRUE, Past(same_content=state(file_id="f2")), Repeat(state(file_id="f2"))),
    ],
    ids=["new", "begun before", "refused before", "taken before", "other name"],
)
def test_a_true_file_is_landed_from_where_it_stands_or_was_taken_before(content: Content, past: Past, expected: Weighed) -> None:
    assert weigh(MANIFEST, content, past, RULES) == expected


DATED = Rules(sources=RULES.sources, schema=RULES.schema, is_dated_by_manifest=True)
LATER = msgspec.structs.replace(MANIFEST, created_at=Millis(NOW + 900_000))


def test_the_same_content_of_another_moment_is_news_where_the_manifest_dates_its_rows_and_else_a_repeat() -> None:
    taken = state(file_id="f2")
    assert weigh(LATER, TRUE, Past(same_content=taken), DATED) == Land()
    assert weigh(MANIFEST, TRUE, Past(same_content=taken), DATED) == Repeat(taken)
    assert weigh(LATER, TRUE, Past(same_content=taken), RULES) == Repeat(taken)


def test_a_name_that_was_taken_stands_for_its_first_moment() -> None:
    assert weigh(LATER, TRUE, Past(own=state()), DATED) == Again(state())


@pytest.mark.parametrize(
    ("content", "past", "expected"),
    [
        (Content(TRUE.size - 1, "0" * 64, 10), Past(), FileReason.PARTIAL),
        (Content(TRUE.size, "0" * 64, 10), Past(), FileReason.WRONG_SUM),
        (Content(TRUE.size + 1, "0" * 64, 10), Past(), FileReason.WRONG_SUM),
        (Content(TRUE.size, TRUE.sha256, 9), Past(), FileReason.WRONG_COUNT),
        (TRUE, Past(same_name=state(file_id="f2")), FileReason.OTHER_CONTENT),
        (Content(TRUE.size, TRUE.sha256, flaw=Flaw(FileReason.UNREADABLE, "", "r", "r")), Past(), FileReason.UNREADABLE),
    ],
)
def test_a_file_that_is_not_what_it_says_is_refused_with_the_reason(content: Content, past: Past, expected: FileReason) -> None:
    assert why(weigh(MANIFEST, content, past, RULES)) is expected


def test_a_file_with_too_many_broken_rows_is_held_until_an_operator_releases_it() -> None:
    content = Content(TRUE.size, TRUE.sha256, 10, rejected=2)
    assert weigh(MANIFEST, content, Past(), RULES) == Hold()
    assert weigh(MANIFEST, content, Past(own=state(FileStatus.HELD, released_by="operator:x")), RULES) == Land()
    one = Content(TRUE.size, TRUE.sha256, 10, rejected=1)
    assert weigh(MANIFEST, one, Past(), RULES) == Land()


# -- the ledger


def test_only_what_was_taken_stands_against_another_file() -> None:
    files = Files([state(FileStatus.REFUSED, file_id="f1"), state(FileStatus.LANDING, file_id="f2")])
    assert files.past("f3", "n1", MANIFEST.sha256, NOW) == Past()
    files.put(state(file_id="f2", version=2))
    assert files.past("f3", "n1", MANIFEST.sha256, NOW).same_content == files.get("f2")
    assert files.past("f3", "n1", "other", NOW).same_name == files.get("f2")
    assert files.past("f2", "n1", MANIFEST.sha256, NOW) == Past(own=files.get("f2"))


def test_of_files_with_one_content_the_one_of_the_same_moment_stands_against_another_file() -> None:
    files = Files([state(file_id="f1"), state(file_id="f2", name_digest="n2", created_at=LATER.created_at)])
    assert files.past("f3", "n3", MANIFEST.sha256, NOW).same_content == files.get("f1")
    assert files.past("f3", "n3", MANIFEST.sha256, LATER.created_at).same_content == files.get("f2")
    assert files.past("f3", "n3", MANIFEST.sha256, Millis(NOW - 1)).same_content == files.get("f1")
    files.forget("f2")
    assert files.past("f3", "n3", MANIFEST.sha256, LATER.created_at).same_content == files.get("f1")


def test_an_older_record_never_hides_a_newer_one() -> None:
    files = Files([state(version=3), state(FileStatus.LANDING, version=2)])
    assert files.every(FileStatus.TAKEN)
    files.forget("f1")
    assert (len(files), files.past("f9", "n1", MANIFEST.sha256, NOW)) == (0, Past())


def test_a_file_is_named_by_its_name_and_content_together() -> None:
    ids = {file_id_of("north", "epic", name, sha) for name in ("n1", "n2") for sha in ("", "a", "b")}
    assert len(ids) == 6
    assert file_id_of("north", "epic", "n1", "a") == file_id_of("north", "epic", "n1", "a")
    assert file_id_of("north", "epicn", "1", "a") != file_id_of("north", "epic", "n1", "a")
