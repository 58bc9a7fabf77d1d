"""What `surgeline hl7 send` and `hl7 listen` show of each message: one line, as soon as it is known."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from pipeline.formats.hl7v2.ack import TEXT_0357
from pipeline.roles.hl7.listen import Heard
from pipeline.roles.hl7.send import Said, shown


def acknowledgement_row(said: Said, values: bool) -> str:
    """Code first, then which message it is about, and what the receiver says is wrong by the codes of table 0357."""
    sign = "✔" if said.is_taken else "✘"
    out = said.outgoing
    wrong = ", ".join(f"{error} {TEXT_0357[error]}" if error in TEXT_0357 else error for error in said.errors)
    ours = "" if said.code in _CODES else said.text
    more = [wrong, ours, f"tries {said.tries}" if said.tries > 1 else "", shown(said.text) if values and not ours else ""]
    where = f"{shown(out.source)} {out.number}"
    row = f"{sign} {said.code:<9} {shown(out.control_id) or '-':<20} {out.name:<8} {said.took_ms:8.0f} ms  {where}"
    return "  ".join([row, *filter(None, more)])


_CODES: Final = frozenset({"AA", "AE", "AR", "CA", "CE", "CR"})


def acknowledgement_json(said: Said, values: bool) -> str:
    """The same for `--json`, one object a line."""
    out = said.outgoing
    row = {
        "file": out.source,
        "number": out.number,
        "control_id": out.control_id,
        "message": out.name,
        "code": said.code,
        "taken": said.is_taken,
        "errors": said.errors,
        "tries": said.tries,
        "took_ms": round(said.took_ms, 1),
    }
    if said.code not in _CODES:
        row["why"] = said.text
    elif values:
        row["text"] = said.text
    return msgspec.json.encode(row).decode()


def acknowledgements_end(said: Sequence[Said]) -> str:
    """How many of which."""
    counted = Counter(each.code for each in said)
    what = ", ".join(f"{count} {code}" for code, count in sorted(counted.items())) or "no message found"
    return f"{len(said)} messages: {what}"


def heard_row(heard: Heard) -> str:
    """Which message came, how long it is, of what segments, and how it was answered."""
    return (
        f"{heard.number:>6} {heard.code:<3} {heard.control_id or '-':<20} {heard.name:<8} {heard.size:>7} bytes  {heard.segments}"
    )
