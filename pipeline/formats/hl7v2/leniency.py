"""What a profile tolerates of a sender, each by its name; what it does not name is refused. Pure."""

import re
from collections.abc import Collection, Iterator
from typing import Final

from pipeline.domain.event import Described
from pipeline.formats.hl7v2 import charsets
from pipeline.formats.hl7v2.er7 import Message
from pipeline.formats.hl7v2.verdict import Reason, Rejected


class Leniency(Described):
    """A departure from the standard that real senders make and that leaves no doubt about what is meant."""

    LF_ENDINGS = "LF_ENDINGS", "segments end in LF or CRLF, where the standard has CR"
    MISSING_EVN = "MISSING_EVN", "no EVN: MSH-7 then says when it was recorded"
    OTHER_CHARSET = "OTHER_CHARSET", "the bytes are not of the character set that MSH-18 declares; charset_fallback reads them"
    OVER_LONG_FIELD = "OVER_LONG_FIELD", "an optional value is longer than an event takes; it is left unsaid"
    STRAY_LINE = "STRAY_LINE", "a line begins with no segment's name (text broken over lines); it is skipped"
    TWICE_ESCAPED = "TWICE_ESCAPED", "MSH-2 has its backslash doubled"
    TYPE_IN_AUTHORITY = "TYPE_IN_AUTHORITY", "a type of patient_id_types stands in PID-3.4, where the authority belongs"
    UNKNOWN_SEGMENT = "UNKNOWN_SEGMENT", "a segment that is neither the standard's nor begins with Z; it is not read"
    UNREADABLE_FIELD = "UNREADABLE_FIELD", "an optional value is not of its type or table; it is left unsaid"


HARMLESS: Final = tuple(name for name in Leniency if name not in (Leniency.STRAY_LINE, Leniency.TYPE_IN_AUTHORITY))
"""Tolerated where a profile says nothing. The others change what is read as whose, so that somebody has to ask for them."""

_WRITTEN: Final = frozenset(
    {
        Leniency.LF_ENDINGS,
        Leniency.TWICE_ESCAPED,
        Leniency.OTHER_CHARSET,
        Leniency.MISSING_EVN,
        Leniency.UNKNOWN_SEGMENT,
    }
)
"""Departures in how a message is written that are judged before it is mapped."""

_NAMES: Final = """\
    ABS ACC ADD ADJ AFF AIG AIL AIP AIS AL1 APR ARQ ARV AUT BHS BLC BLG BPO BPX BTS BTX BUI CDM CDO CER CM0 CM1 CM2 CNS
    CON CSP CSR CSS CTD CTI CTR DB1 DEV DG1 DMI DON DPS DRG DSC DSP DST ECD ECR EDU EQL EQP EQU ERQ ERR EVN FAC FHS FT1 FTS
    GOL GP1 GP2 GT1 IAM IAR IIM ILT IN1 IN2 IN3 INV IPC IPR ISD ITM IVC IVT LAN LCC LCH LDP LOC LRL MCP MFA MFE MFI MRG MSA
    MSH NCK NDS NK1 NPU NSC NST NTE OBR OBX ODS ODT OH1 OH2 OH3 OH4 OM1 OM2 OM3 OM4 OM5 OM6 OM7 OMC ORC ORG OVR PAC PAY PCE
    PCR PD1 PDA PDC PEO PES PID PKG PM1 PMT PR1 PRA PRB PRC PRD PRT PSG PSH PSL PSS PTH PV1 PV2 PYE QAK QID QPD QRD QRF QRI
    RCP RDF RDT REL RF1 RFI RGS RMI RNS ROL RQ1 RQD RXA RXC RXD RXE RXG RXO RXR RXV SAC SCD SCH SCP SDD SFT SGH SGT SHP SID
    SLT SPM SPR STF STZ TCC TCD TQ1 TQ2 TXA UAC UB1 UB2 URD URS VAR VND VTQ
"""
SEGMENTS: Final = frozenset(_NAMES.split())
"""Segments of the standard up to 2.9 (appendix A); those withdrawn since 2.1 count too."""

_TWICE: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*MSH.\^~\\\\&")
_LF_END: Final = re.compile(rb"\n(?=[A-Z][A-Z0-9]{2}[^A-Za-z0-9])|\n\s*\Z")


def not_tolerated(message: Message, data: bytes | None, tolerated: Collection[Leniency]) -> Rejected | None:
    """The first departure in how the message is written that the profile does not name. `data` are its bytes, if known."""
    strict = _WRITTEN.difference(tolerated)
    return next((refused(*found) for found in departures(message, data) if found[0] in strict), None) if strict else None


def departures(message: Message, data: bytes | None) -> Iterator[tuple[Leniency, str, Reason]]:
    """Departures in how the message is written: each with its place, and the reason for which it is refused where it is."""
    if data is not None and _LF_END.search(data):
        yield Leniency.LF_ENDINGS, "end of segment", Reason.SEGMENT_SEQUENCE
    if data is not None and _TWICE.match(data):
        yield Leniency.TWICE_ESCAPED, "MSH-2", Reason.BAD_VALUE
    if not _as_declared(message):
        yield Leniency.OTHER_CHARSET, "MSH-18", Reason.BAD_VALUE
    if message.segment("EVN") is None and (message.field("MSH", 9) or "").upper() == "ADT":
        yield Leniency.MISSING_EVN, "EVN", Reason.SEGMENT_SEQUENCE
    if bad := message.bad_segment():
        yield Leniency.STRAY_LINE, f"segment {bad}", Reason.SEGMENT_SEQUENCE
    for number, name in enumerate(message.names(), 1):
        if not name.startswith("Z") and name not in SEGMENTS and len(name) == len("MSH") and name.isalnum():
            yield Leniency.UNKNOWN_SEGMENT, f"segment {number}", Reason.SEGMENT_SEQUENCE
            return


def _as_declared(message: Message) -> bool:
    header = message.segment("MSH")
    declared = tuple([header.part(each, 1) or "" for each in header.repetitions(18)]) if header is not None else ()
    return not any(declared) or message.charset in charsets.codecs_of(declared)


def refused(leniency: Leniency, field: str, reason: Reason) -> Rejected:
    """A departure that the profile does not tolerate."""
    remedy = f"correct it at the sender, or name {leniency.value} in the profile's list `tolerates`"
    return Rejected(reason, field, leniency.doc, remedy)
