"""Message types and triggers by name: what is mapped, what moves no capacity, and what nobody said a word about."""

from typing import Final

from pipeline.formats.hl7v2.profile import Profile
from pipeline.formats.hl7v2.verdict import Ignored, Reason, Rejected

IGNORED: Final = {
    "ADT^A24": "links two records; both stay what they are",
    "ADT^A29": "deletes a person's record; no stay moves by it",
    "ADT^A37": "unlinks two records; both stay what they are, and no merge is taken back by it",
    "ADT^A46": "changes an identifier that names nothing here (withdrawn)",
    "ADT^A48": "changes an identifier that names nothing here (withdrawn)",
    "ADT^A51": "changes an identifier that names nothing here",
    "SIU^S27": "tells again what is booked",
}
"""Moves no capacity by its own meaning, whatever the profile says."""


def screen(kind: str, trigger: str, mapped: frozenset[str], profile: Profile) -> Ignored | Rejected | None:
    """Verdict by name alone; None where the message is to be mapped. The profile may ignore what is mapped, by name."""
    name = f"{kind}^{trigger}"
    for rule in (name, kind):
        if rule in profile.ignored:
            return Ignored(f"{rule} moves no capacity: named by the profile")
    if name in IGNORED:
        return Ignored(f"{name} moves no capacity: {IGNORED[name]}")
    if not kind:
        return Rejected(Reason.MISSING_FIELD, "MSH-9", "no message type", "send type and trigger in MSH-9, as ADT^A01")
    if name in mapped:
        return None
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
