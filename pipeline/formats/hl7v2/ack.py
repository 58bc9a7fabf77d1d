"""Acknowledgements (chapter 2.9): MSH, MSA and, where something is wrong, ERR.

In enhanced mode (MSH-15 or MSH-16 valued, table 0155) the sender says of which answers it wants to hear: of the commit
(CA, CE, CR), and of the application (AA, AE, AR). What is refused at the commit gets no second answer; one who wants to hear
nothing of the commit hears of it from the application. The text is a function of the message and the verdict alone, so that
a repeat is answered byte for byte the same.
"""

import hashlib
import re
from enum import StrEnum
from typing import Final

from pipeline.formats.hl7v2.delimiters import STANDARD
from pipeline.formats.hl7v2.er7 import FieldContent, Malformed, Message, Segment, Verbatim, build, parse
from pipeline.formats.hl7v2.header import type_of
from pipeline.formats.hl7v2.profile import Acknowledgement
from pipeline.formats.hl7v2.verdict import Reason, Rejected

APPLICATION: Final = "SURGELINE"
MAX_ECHO_CHARS: Final = 199
"""Longest control id that is sent back (its length in 2.7 and later)."""


class Code(StrEnum):
    """Table 0008. AE and CE ask to send again, AR and CR never to."""

    AA = "AA"
    AE = "AE"
    AR = "AR"
    CA = "CA"
    CE = "CE"
    CR = "CR"


COMMIT: Final = {Code.AA: Code.CA, Code.AE: Code.CE, Code.AR: Code.CR}
"""What the commit is answered with, by what original mode would say."""

UNTOLD: Final = "NE"
"""Stands for the code where the sender wants no answer."""

_WANTS: Final = {"NE": (False, False), "ER": (False, True), "SU": (True, False)}
"""Table 0155: whether success and error are told. AL tells both, and so does a code that isn't in the table."""


TEXT_0357: Final = {
    "100": "Segment sequence error",
    "101": "Required field missing",
    "102": "Data type error",
    "103": "Table value not found",
    "104": "Value too long",
    "200": "Unsupported message type",
    "201": "Unsupported event code",
    "202": "Unsupported processing id",
    "203": "Unsupported version id",
    "204": "Unknown key identifier",
    "205": "Duplicate key identifier",
    "206": "Application record locked",
    "207": "Application error",
}

_TRIGGER: Final = re.compile(r"[A-Z0-9]{3}")
_POSITION: Final = re.compile(r"([A-Z][A-Z0-9]{2})(?:-(\d+)(?:\.(\d+))?)?")

RETRY: Final = Rejected(Reason.UNAVAILABLE, "MSH", "not stored in time", "send the message again later")
OTHER_CONTENT: Final = Rejected(
    Reason.OTHER_CONTENT,
    "MSH-10",
    "answered before with other content",
    "give a changed message a control id of its own",
)


def accepted(message: Message, mode: Acknowledgement = "by_message") -> bytes:
    """AA, in enhanced mode what the sender wants to hear of it."""
    return _answer(message, Code.AA, None, mode)


def refused(message: Message | None, rejected: Rejected, mode: Acknowledgement = "by_message") -> bytes:
    """AR with the reason; `message` is None where not even its header could be read."""
    return _answer(message, Code.AR, rejected, mode)


def try_again(message: Message | None, mode: Acknowledgement = "by_message") -> bytes:
    """AE: nothing was stored, the sender should send again."""
    return _answer(message, Code.AE, RETRY, mode)


def conflict(message: Message | None, mode: Acknowledgement = "by_message") -> bytes:
    """AR 205: this identity was answered before with other content."""
    return _answer(message, Code.AR, OTHER_CONTENT, mode)


def each(answer: bytes) -> list[bytes]:
    """The messages of an answer: in enhanced mode none, one or two."""
    if not answer or answer.startswith(b"BHS"):
        return [answer] if answer else []
    second = answer.find(b"\rMSH") + 1
    return [answer[:second], answer[second:]] if second else [answer]


def _answer(message: Message | None, code: Code, rejected: Rejected | None, mode: Acknowledgement) -> bytes:
    header = message.segment("MSH") if message else None
    commit, application = (header.raw(15).strip().upper(), header.raw(16).strip().upper()) if header else ("", "")
    if mode == "original" or not (commit or application):
        return _ack(message, code, rejected)
    said = [_ack(message, COMMIT[code], rejected)] if _wants(commit, code) else []
    if _wants(application, code) and (code is Code.AA or not said):
        said.append(_ack(message, code, rejected))
    return b"".join(said)


def _wants(asked: str, code: Code) -> bool:
    """Whether the sender wants to hear this; where only one of MSH-15 and MSH-16 is valued, the other is NE."""
    success, error = _WANTS.get(asked or "NE", (True, True))
    return success if code is Code.AA else error


def _ack(message: Message | None, code: Code, rejected: Rejected | None) -> bytes:
    header = message.segment("MSH") if message else None
    if message is not None and header is not None and rejected is None and message.delimiters == STANDARD:
        return _plain(message, header, code)
    return _built(message, header, code, rejected)


def _built(message: Message | None, header: Segment | None, code: Code, rejected: Rejected | None) -> bytes:
    if message is None or header is None:
        segments = [("MSH", _bare_header(code)), ("MSA", (code.value, ""))]
        delimiters, charset = STANDARD, "utf-8"
    else:
        segments = [("MSH", _header(message, header, code)), ("MSA", _msa(header, code, rejected))]
        delimiters, charset = message.delimiters, message.charset
    if rejected:
        segments.append(("ERR", _err(rejected)))
    return build(segments, delimiters, charset)


def _plain(message: Message, header: Segment, code: Code) -> bytes:
    """What `_built` makes of an acknowledgement without an ERR in the standard's delimiters, in a third of its time: each field
    is the sender's own text or one of ours, so that nothing is to be escaped.
    """
    raw = header.raw
    event = message.segment("EVN")
    time = raw(7) or (event.raw(2) if event else "")
    trigger = type_of(message)[1]
    kind = f"ACK^{trigger}^ACK" if _TRIGGER.fullmatch(trigger) else "ACK"
    ours = control_id((raw(3), raw(4), time, raw(10)), code)
    msh = (
        f"MSH|^~\\&|{raw(5) or APPLICATION}|{raw(6)}|{raw(3)}|{raw(4)}|{time}||{kind}|{ours}"
        f"|{raw(11) or 'P'}|{raw(12) or '2.5.1'}||||||{raw(18)}"
    )
    msa = f"MSA|{code.value}|{raw(10)[:MAX_ECHO_CHARS]}"
    return f"{msh.rstrip('|')}\r{msa.rstrip('|')}\r".encode(message.charset, "replace")


def _header(message: Message, header: Segment, code: Code) -> tuple[FieldContent, ...]:
    """MSH-3 on: sender and receiver change places; the time is the message's own, an ack has no clock."""

    def echo(n: int) -> FieldContent:
        return Verbatim(header.raw(n))

    event = message.segment("EVN")
    time = header.raw(7) or (event.raw(2) if event else "")
    identity = (header.raw(3), header.raw(4), time, header.raw(10))
    return (
        echo(5) if header.raw(5) else APPLICATION,
        echo(6),
        echo(3),
        echo(4),
        Verbatim(time),
        "",
        _kind(message),
        control_id(identity, code),
        echo(11) if header.raw(11) else "P",
        echo(12) if header.raw(12) else "2.5.1",
        "",
        "",
        "",
        "",
        "",
        echo(18),
    )


def _kind(message: Message) -> FieldContent:
    """MSH-9: ACK with the trigger that is answered, if it is one."""
    trigger = type_of(message)[1]
    return (((("ACK",), (trigger,), ("ACK",))),) if _TRIGGER.fullmatch(trigger) else "ACK"


def _bare_header(code: Code) -> tuple[FieldContent, ...]:
    """Header of an answer to something that has none."""
    return (APPLICATION, "", "", "", "", "", "ACK", control_id((), code), "P", "2.5.1")


def control_id(identity: tuple[str, ...], code: Code) -> str:
    """MSH-10 of the answer, 20 characters: derived, so that the same answer to the same message has the same."""
    digest = hashlib.sha256("\0".join((code.value, *identity)).encode("utf-8", "surrogatepass"))
    return code.value + digest.hexdigest()[:18]


def _msa(header: Segment, code: Code, rejected: Rejected | None) -> tuple[FieldContent, ...]:
    return (
        code.value,
        Verbatim(header.raw(10)[:MAX_ECHO_CHARS]),
        f"{rejected.reason.value} {rejected.field}" if rejected else "",
    )


def _err(rejected: Rejected) -> tuple[FieldContent, ...]:
    """ERR-2 location, ERR-3 table 0357, ERR-4 severity, ERR-5 our reason, ERR-7 detail, ERR-8 what to do."""
    code = rejected.reason.code
    return (
        "",
        _location(rejected.field),
        (((code,), (TEXT_0357[code],), ("HL70357",)),),
        "E",
        (((rejected.reason.value,), (rejected.reason.doc,), ("L",)),),
        "",
        rejected.detail,
        rejected.remedy,
    )


def _location(field: str) -> FieldContent:
    """ERL: segment, its sequence, field, repetition, component; a position that isn't one is left out."""
    match = _POSITION.fullmatch(field)
    if not match:
        return ""
    segment, n, component = match.groups()
    if not n:
        return (((segment,), ("1",)),)
    parts = ((segment,), ("1",), (n,), ("1",), (component or "",))
    return (parts if component else parts[:4],)


def header_only(data: bytes, fallback: tuple[str, ...]) -> Message | None:
    """As much of a message that can't be read whole as an answer needs: its MSH, so that MSA-2 names it."""
    line = data.lstrip().split(b"\r", 1)[0].split(b"\n", 1)[0]
    message = parse(line, fallback=fallback)
    return None if isinstance(message, Malformed) else message


def too_long(head: bytes, fallback: tuple[str, ...]) -> bytes:
    """AR 104 to a message beyond the limit, of which only the beginning was read."""
    rejected = Rejected(Reason.TOO_LONG, "MSH", "longer than the profile's max_message_bytes", "send smaller messages")
    return refused(header_only(head, fallback), rejected)


def too_large(message: Message | None, mode: Acknowledgement) -> bytes:
    """AR 104 to a message within the limit whose record is beyond what is stored or judged: again it would be the same."""
    rejected = Rejected(Reason.TOO_LONG, "MSH", "what it makes is larger than a record", "send smaller messages")
    return refused(message, rejected, mode)


def code_of(answer: bytes) -> str:
    """Code of the first acknowledgement of an answer that was built here."""
    at = answer.find(b"\rMSA")
    return answer[at + 5 : at + 7].decode("ascii", "replace") if at >= 0 else UNTOLD
