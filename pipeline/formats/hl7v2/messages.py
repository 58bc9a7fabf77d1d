"""Message types and triggers by name: what is mapped, what moves no capacity, and what does and is not mapped yet."""

from typing import Final

from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.hl7v2.verdict import Ignored, Reason, Rejected

NOT_YET: Final = {
    "ADT^A05": "pre-admit",
    "ADT^A06": "outpatient becomes inpatient",
    "ADT^A07": "inpatient becomes outpatient",
    "ADT^A09": "patient departs (tracking)",
    "ADT^A10": "patient arrives (tracking)",
    "ADT^A14": "pending admit",
    "ADT^A15": "pending transfer",
    "ADT^A16": "pending discharge",
    "ADT^A17": "swap of two beds",
    "ADT^A18": "merge of patient information (withdrawn)",
    "ADT^A21": "leave of absence begins",
    "ADT^A22": "return from leave of absence",
    "ADT^A23": "deletion of a patient record",
    "ADT^A24": "link of patient information",
    "ADT^A25": "cancel of a pending discharge",
    "ADT^A26": "cancel of a pending transfer",
    "ADT^A27": "cancel of a pending admit",
    "ADT^A28": "new person",
    "ADT^A29": "deletion of a person",
    "ADT^A30": "merge of person information (withdrawn)",
    "ADT^A31": "update of a person",
    "ADT^A32": "cancel of an arrival",
    "ADT^A33": "cancel of a departure",
    "ADT^A34": "merge, patient id only (withdrawn)",
    "ADT^A35": "merge, account number only (withdrawn)",
    "ADT^A36": "merge, patient id and account number (withdrawn)",
    "ADT^A37": "unlink of patient information",
    "ADT^A38": "cancel of a pre-admit",
    "ADT^A39": "merge of persons (withdrawn)",
    "ADT^A40": "merge of patients",
    "ADT^A41": "merge of accounts",
    "ADT^A42": "merge of visits",
    "ADT^A43": "move of a patient identifier",
    "ADT^A44": "move of an account",
    "ADT^A45": "move of a visit",
    "ADT^A46": "change of a patient id (withdrawn)",
    "ADT^A47": "change of a patient identifier",
    "ADT^A48": "change of an alternate patient id (withdrawn)",
    "ADT^A49": "change of an account number",
    "ADT^A50": "change of a visit number",
    "ADT^A51": "change of an alternate visit id",
    "ADT^A52": "cancel of a leave of absence",
    "ADT^A53": "cancel of a return from leave",
    "MFN^M05": "location master",
    **{f"SIU^S{n}": "schedule" for n in (12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 26, 27)},
}
"""Would lose meaning if it were ignored: refused until it is mapped, and kept with the original bytes."""


def screen(kind: str, trigger: str, mapped: frozenset[str], profile: Profile) -> Ignored | Rejected | None:
    """Verdict by name alone; None where the message is to be mapped. The profile may ignore what is mapped, by name."""
    name = f"{kind}^{trigger}"
    for rule in (name, kind):
        if rule in profile.ignored:
            return Ignored(f"{rule} moves no capacity: named by the profile")
    if not kind:
        return Rejected(Reason.MISSING_FIELD, "MSH-9", "no message type", "send type and trigger in MSH-9, as ADT^A01")
    if name in mapped:
        return None
    if name in NOT_YET:
        return _unsupported("MSH-9.2", f"trigger not mapped yet: {NOT_YET[name]}")
    if kind == "ADT":
        return _unsupported("MSH-9.2", "no trigger of this message type is known by this name")
    return Rejected(
        Reason.UNSUPPORTED_MESSAGE,
        "MSH-9.1",
        "neither mapped nor named as moving no capacity",
        "stop sending it on this feed, or name it in the profile's list of ignored messages if it moves no capacity",
    )


def _unsupported(field: str, detail: str) -> Rejected:
    return Rejected(
        Reason.UNSUPPORTED_EVENT,
        field,
        detail,
        "stop sending it on this feed, or name it in the profile's ignored list if its meaning may be lost here",
    )
