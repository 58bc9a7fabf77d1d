"""ER7: reading by position, delimiters, escapes, character sets, line ends."""

import pytest

from pipeline.formats.hl7v2.delimiters import STANDARD, Delimiters
from pipeline.formats.hl7v2.er7 import MAX_BEFORE, MAX_LINES, NULL, Malformed, Message, build, parse
from pipeline.formats.hl7v2.escapes import escape, unescape

HEADER = b"MSH|^~\\&|A|B|C|D|20260101||ADT^A01^ADT_A01|1|P|2.5"


def read(data: bytes) -> Message:
    message = parse(data)
    assert isinstance(message, Message)
    return message


def test_fields_count_from_one_and_msh_1_is_the_separator() -> None:
    message = read(HEADER)
    assert [message.field("MSH", n) for n in (1, 2, 3, 4, 10, 12)] == ["|", "^~\\&", "A", "B", "1", "2.5"]
    assert [message.field("MSH", 9, component=n) for n in (0, 1, 2, 3, 4)] == ["ADT", "ADT", "A01", "ADT_A01", None]


def test_repetitions_components_and_subcomponents_are_found_by_position() -> None:
    message = read(HEADER + b"\rPID|1||a&b^c~d^e&f&g||\rPID|2\rZZZ|z1")
    assert message.field("PID", 3) == "a"
    assert message.field("PID", 3, subcomponent=2) == "b"
    assert message.field("PID", 3, repetition=1, component=2, subcomponent=3) == "g"
    assert message.field("PID", 3, repetition=2) is None
    assert message.field("PID", 1, occurrence=1) == "2"
    assert message.field("PID", 99) is None
    assert message.field("ZZZ", 1) == "z1"
    assert message.names() == ["MSH", "PID", "PID", "ZZZ"]


def test_empty_says_nothing_and_the_explicit_null_is_told_apart() -> None:
    message = read(HEADER + b'\rPV1||""|^""^x')
    assert message.field("PV1", 1) is None
    assert message.field("PV1", 2) == NULL
    assert message.field("PV1", 3) is None
    assert message.field("PV1", 3, component=2) == NULL


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b"\r\r\n"])
def test_segments_may_end_in_cr_lf_or_both(end: bytes) -> None:
    assert read(end.join([HEADER, b"EVN|A01", b"PID|1"]) + end).names() == ["MSH", "EVN", "PID"]


def test_a_sender_may_mix_line_ends_within_one_message() -> None:
    assert read(HEADER + b"\rPID|1\nPV1|1\r\nDG1|1\n").names() == ["MSH", "PID", "PV1", "DG1"]


def test_a_line_feed_inside_text_is_text_where_segments_end_in_cr() -> None:
    message = read(HEADER + b"\rNTE|1||first line\nsecond line\rPV1|1\r")
    assert message.field("NTE", 3) == "first line\nsecond line"
    assert message.field("PV1", 1) == "1"


def test_other_delimiters_are_obeyed() -> None:
    message = read(b"MSH#!@%*#S#F##\rPID#1##12!x*y@13!z#a%F%b")
    assert message.delimiters == Delimiters("#", "!", "@", "%", "*")
    assert message.field("PID", 3, component=2, subcomponent=2) == "y"
    assert message.field("PID", 3, repetition=1) == "13"
    assert message.field("PID", 4) == "a#b"


def test_the_truncation_character_of_2_7_is_the_fifth() -> None:
    message = read(b"MSH|^~\\&#|A\rPID|a\\P\\b")
    assert message.delimiters.truncation == "#"
    assert message.field("PID", 1) == "a#b"


def test_a_backslash_doubled_by_a_template_means_the_standard_delimiters() -> None:
    assert read(b"MSH|^~\\\\&|A\r").delimiters == STANDARD


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("\\F\\\\S\\\\T\\\\R\\\\E\\", "|^&~\\"),
        ("a\\.br\\b", "a\nb"),
        ("a\\.sp2\\b", "a\n\nb"),
        ("\\.sp" + "9" * 5000 + "\\", "\\.sp" + "9" * 5000 + "\\"),
        ("\\H\\bold\\N\\", "bold"),
        ("\\X41C3A9\\", "Aé"),
        ("\\X4\\", "\\X4\\"),
        ("\\Zlocal\\", "\\Zlocal\\"),
        ("\\C2842\\", "\\C2842\\"),
        ("C:\\dir", "C:\\dir"),
        ("\\P\\", "\\P\\"),
    ],
)
def test_escape_sequences_are_read_and_what_is_unknown_stays(sent: str, meant: str) -> None:
    assert unescape(sent, STANDARD) == meant


def test_what_is_built_is_read_back() -> None:
    text = "a|b^c~d\\e&f\rg\nh\\X41\\"
    assert unescape(escape(text, STANDARD), STANDARD) == text


@pytest.mark.parametrize(
    ("declared", "codec"),
    [("", "utf-8"), ("UNICODE UTF-8", "utf-8"), ("8859/1", "latin-1"), ("8859/15", "iso8859-15"), ("no such set", "utf-8")],
)
def test_the_character_set_is_msh_18_or_the_fallback(declared: str, codec: str) -> None:
    header = HEADER.decode() + "||||||" + declared
    assert read((header + "\rPID|Müller").encode(codec)).field("PID", 1) == "Müller"


def test_bytes_that_disprove_msh_18_are_read_by_the_fallback() -> None:
    assert read(HEADER + b"||||||ASCII\rPID|" + "Müller".encode()).field("PID", 1) == "Müller"
    assert read(HEADER + b"||||||UNICODE UTF-8\rPID|" + "Müller".encode("latin-1")).field("PID", 1) == "Müller"


KANJI = b"\x1b$B0|0^0~\x1b(B"
"""Three characters of ISO IR87, whose bytes hold a field separator, a component separator and a repetition separator."""


@pytest.mark.parametrize("declared", ["ISO IR87", "~ISO IR87", "ASCII~ISO IR87", "~ISO IR87~ISO IR159", "ISO IR14~ISO IR87"])
def test_a_set_that_any_repetition_of_msh_18_names_reads_the_whole_message(declared: str) -> None:
    message = read(HEADER + b"||||||" + declared.encode() + b"\rPID|1|" + KANJI + b"^x|2")
    assert message.field("PID", 2) == KANJI.decode("iso2022_jp")
    assert (message.field("PID", 2, component=2), message.field("PID", 3)) == ("x", "2")


def test_the_set_is_found_behind_a_field_of_the_header_that_is_written_in_it() -> None:
    message = read(HEADER.replace(b"|C|D|", b"|" + KANJI + b"|" + KANJI + b"^x|") + b"||||||~ISO IR87\rPID|" + KANJI)
    assert [message.field("MSH", n) for n in (5, 6)] == [KANJI.decode("iso2022_jp")] * 2
    assert (message.field("MSH", 10), message.field("PID", 1)) == ("1", KANJI.decode("iso2022_jp"))


def test_of_several_sets_the_one_that_holds_all_characters_counts() -> None:
    rare = b"\x1b$(D0!\x1b(B"
    message = read(HEADER + b"||||||~ISO IR87~ISO IR159\rPID|" + KANJI + rare)
    assert message.field("PID", 1) == KANJI.decode("iso2022_jp") + rare.decode("iso2022_jp_1")
    assert read(HEADER + b"||||||UNICODE UTF-8~ISO IR87\rPID|" + "M\u00fcller".encode()).field("PID", 1) == "M\u00fcller"
    assert read(HEADER + b"||||||8859/1~ISO IR87\rPID|" + "M\u00fcller".encode("latin-1")).field("PID", 1) == "M\u00fcller"


@pytest.mark.parametrize("declared", ["", "ASCII", "UNICODE UTF-8", "8859/1", "no such set", "8859/1~ISO IR87"])
@pytest.mark.parametrize("shifted", [KANJI, b"\x1b(I\x5e\x5c\x1b(B"], ids=["kanji", "katakana"])
def test_bytes_that_shift_to_another_set_are_never_split_as_ascii(declared: str, shifted: bytes) -> None:
    high = b"\xfc" if "8859" in declared else b""
    data = HEADER + b"||||||" + declared.encode() + b"\rPID|" + high + shifted
    assert parse(data) == Malformed(Malformed.UNDECODABLE, "MSH-18")


def test_a_shifting_set_may_be_the_profiles_own_by_any_of_its_names() -> None:
    message = parse(HEADER + b"\rPID|" + KANJI + b"|2", fallback=("utf-8", "ISO-2022-JP"))
    assert isinstance(message, Message)
    assert (message.field("PID", 1), message.field("PID", 2)) == (KANJI.decode("iso2022_jp"), "2")


def test_an_escape_character_that_shifts_to_nothing_is_text() -> None:
    assert read(HEADER + b"\rPID|a\x1b[1mb|2").field("PID", 1) == "a\x1b[1mb"


def test_a_message_has_so_many_lines_however_short_they_are() -> None:
    assert read(HEADER + b"\rA" * MAX_LINES).names()[1:] == ["A"] * MAX_LINES
    for end in (b"\r", b"\n", b"\r\n"):
        found = parse(end.join([HEADER, *[b"A"] * (MAX_LINES + 1)]))
        assert found == Malformed(Malformed.TOO_MANY_LINES, f"more than {MAX_LINES} lines")


def test_a_message_is_divided_into_so_many_parts_and_what_they_share_is_bounded() -> None:
    message = read(HEADER + b"\rEVN|1\rPID|1\rPV1|1\rPID|2")
    parts = message.each("PID", 2)
    assert parts is not None
    assert [part.names() for part in parts] == [["MSH", "EVN", "PID", "PV1"], ["MSH", "EVN", "PID"]]
    assert message.each("MRG", 0) == []
    assert message.each("PID", 1) is None
    shared = read(HEADER + b"\rNTE" * (MAX_BEFORE - 1) + b"\rPID|1").each("PID", 1)
    assert shared is not None
    assert len(shared[0].names()) == MAX_BEFORE + 1
    assert read(HEADER + b"\rNTE" * MAX_BEFORE + b"\rPID|1").each("PID", 1) is None


def test_a_byte_order_mark_is_no_part_of_the_message() -> None:
    message = read(b"\xef\xbb\xbf" + HEADER + "\rPID|Müller".encode())
    assert (message.field("MSH", 3), message.field("PID", 1)) == ("A", "Müller")


def test_no_codec_of_the_profile_reads_it() -> None:
    assert parse(HEADER + b"\rPID|\xff", fallback=("utf-8",)) == Malformed(Malformed.UNDECODABLE, "MSH-18")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Malformed.EMPTY),
        (b"\r\n ", Malformed.EMPTY),
        (b"PID|1", Malformed.NO_HEADER),
        (b"MSH|^~", Malformed.TRUNCATED),
        (b"MSH|^~\\&", Malformed.TRUNCATED),
        (b"MSH|^~\\&ADT", Malformed.BAD_DELIMITERS),
        (b"MSH|^^\\&|A|B", Malformed.BAD_DELIMITERS),
        (b"MSH|abcd|A|B", Malformed.BAD_DELIMITERS),
        (b"MSHA^~\\&AxAy", Malformed.BAD_DELIMITERS),
        (b"FHS|^~\\&|A", Malformed.BATCH),
        (b"BHS|^~\\&|A", Malformed.BATCH),
        (HEADER + b"\r" + HEADER, Malformed.SEVERAL_MESSAGES),
        (HEADER + b"\rNTE|" + b"x" * 2000, Malformed.OVERSIZE),
    ],
)
def test_what_is_no_message_is_said_with_its_reason_and_no_content(data: bytes, reason: str) -> None:
    malformed = parse(data, max_bytes=1500)
    assert isinstance(malformed, Malformed)
    assert malformed.reason == reason
    assert "xxx" not in repr(malformed)


def test_a_name_that_no_segment_has_is_found_by_its_place() -> None:
    assert read(HEADER + b"\rPID|1\rPIDX|1").bad_segment() == 3
    assert read(HEADER + b"\rPID|1\rZP1|1").bad_segment() == 0


def test_a_message_is_built_with_empty_ends_cut() -> None:
    assert build([("MSH", ("A", "", "")), ("PID", ("", ((("a",), ("b", "")),), ""))]) == b"MSH|^~\\&|A\rPID||a^b\r"


def test_no_representation_shows_content() -> None:
    message = read(HEADER + b"\rPID|canary")
    assert "canary" not in repr(message) + repr(message.segment("PID"))
