"""ER7 round trips, whatever the text and the delimiters; and no bytes make the reader or the mapping raise."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain.identifiers import Millis
from pipeline.formats.hl7v2 import ack
from pipeline.formats.hl7v2.delimiters import Delimiters
from pipeline.formats.hl7v2.er7 import Components, Malformed, Message, Repetitions, build, parse
from pipeline.formats.hl7v2.escapes import escape, unescape
from pipeline.formats.hl7v2.framing import Block, Deframer, frame
from pipeline.formats.hl7v2.mapping import map_bytes, map_hl7, messages_of
from pipeline.formats.hl7v2.profile_file import profile_of
from pipeline.formats.hl7v2.verdict import Ignored, Mapped, Rejected

PROFILE = profile_of((Path(__file__).resolve().parents[2] / "pipeline/profiles/hl7/default.yaml").read_bytes())

MARKS = st.lists(st.sampled_from("|^~\\&#!@%*$:;/"), min_size=6, max_size=6, unique=True)
DELIMITERS = st.tuples(MARKS, st.booleans()).map(lambda pair: Delimiters(*pair[0]) if pair[1] else Delimiters(*pair[0][:5]))
TEXT = st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from("|^~\\&\r\n\x0b\x1c#!XFSTRE."), max_size=12)
FIELDS = st.lists(
    st.lists(st.lists(st.lists(TEXT, min_size=1, max_size=3), min_size=1, max_size=3), min_size=1, max_size=3), max_size=5
)
NAMES = st.sampled_from(["EVN", "PID", "PV1", "ZPD", "Z01"])


def shortened(fields: list[list[list[list[str]]]]) -> tuple[Repetitions, ...]:
    """Without the empty ends that carry nothing."""

    def subs(component: list[str]) -> tuple[str, ...]:
        while len(component) > 1 and not component[-1]:
            component = component[:-1]
        return tuple(component)

    def components(repetition: list[list[str]]) -> Components:
        kept = [subs(component) for component in repetition]
        while len(kept) > 1 and kept[-1] == ("",):
            kept.pop()
        return tuple(kept)

    whole = [tuple(components(repetition) for repetition in field) for field in fields]
    while whole and whole[-1] == ((("",),),):
        whole.pop()
    return tuple(whole)


@given(TEXT, DELIMITERS)
def test_escaped_text_is_read_back_and_holds_no_delimiter(text: str, marks: Delimiters) -> None:
    sent = escape(text, marks)
    assert unescape(sent, marks) == text
    assert not set(sent) & {marks.field, marks.component, marks.repetition, marks.subcomponent, "\r", "\n", "\x0b", "\x1c"}


@given(st.lists(st.tuples(NAMES, FIELDS), max_size=4), FIELDS, DELIMITERS)
def test_what_is_built_is_read_back(
    segments: list[tuple[str, list[list[list[list[str]]]]]], header: list[list[list[list[str]]]], marks: Delimiters
) -> None:
    built = [("MSH", (((("APP",),),), *shortened(header[:4]))), *((name, shortened(fields)) for name, fields in segments)]
    data = build(built, marks)
    message = parse(data)
    assert isinstance(message, Message)
    assert message.delimiters == marks
    assert [(segment.name, segment.tree() or ()) for segment in message] == [
        (name, fields or ()) for name, fields in ((name, tuple(fields)) for name, fields in built)
    ]
    assert message.encode() == data


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_raise(data: bytes) -> None:
    assert isinstance(parse(data), Message | Malformed)
    list(map_hl7(data, profile=PROFILE, tenant="t", received_at=Millis(1)))


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 60))
def test_a_damaged_message_is_mapped_ignored_or_rejected_and_answered(noise: bytes, at: int, cut: int) -> None:
    good = (
        b"MSH|^~\\&|EHR|MAIN|||20260105101500+0100||ADT^A02|C1|P|2.5\rEVN||20260105101000||01|u|20260105\r"
        b"PID|1||4711^^^MAIN^MR||DOE^JANE||19750315|F\rPV1|1|I|ICU^1^A^MAIN|||6N^2^B^MAIN" + b"|" * 13 + b"V1\r"
    )
    message, verdict = map_bytes(good[:at] + noise + good[at + cut :], PROFILE, "t", Millis(1))
    assert isinstance(verdict, Mapped | Ignored | Rejected)
    if isinstance(verdict, Rejected):
        assert ack.code_of(ack.refused(message, verdict, "original")) == "AR"
    else:
        assert message is not None
        assert ack.code_of(ack.accepted(message, "original")) == "AA"


@given(st.lists(st.binary(max_size=40).filter(lambda body: b"\x1c\r" not in body and b"\x0b" not in body), max_size=5), st.data())
def test_frames_come_out_whole_however_the_stream_is_cut(bodies: list[bytes], data: st.DataObject) -> None:
    bodies = [body for body in bodies if not body.endswith(b"\x1c")]
    stream = b"".join(frame(body) + b"\r\n" for body in bodies)
    deframer, found = Deframer(1000, 1000), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        deframer.feed(stream[:size])
        stream = stream[size:]
        while (block := deframer.next()) is not None:
            assert isinstance(block, Block)
            found.append(block.body)
    assert found == bodies


@given(st.integers(1, 5), st.sampled_from([b"\r", b"\n", b"\r\n"]), st.booleans())
def test_a_file_of_several_messages_is_split_at_each_header(count: int, end: bytes, framed: bool) -> None:
    messages = [end.join([b"MSH|^~\\&|A", b"PID|%d" % n]) for n in range(count)]
    data = b"".join(frame(message) for message in messages) if framed else end.join(messages)
    assert len(messages_of(data)) == count
